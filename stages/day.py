"""The day: part of the key where a result rests on what becomes known from day to day."""

from __future__ import annotations

from datetime import UTC, datetime


def today() -> str:
    """The date in UTC, as in `2026-11-22`."""
    return datetime.now(UTC).date().isoformat()
