"""A limit of time for what a stage does."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

import anyio

from pipeline.errors import StageTimeout

T = TypeVar("T")


async def within(seconds: float, what: str, doing: Awaitable[T]) -> T:
    """What `doing` gives, which is cancelled after that many seconds. Raises StageTimeout, which says `what` took longer."""
    with anyio.CancelScope(deadline=anyio.current_time() + seconds):
        return await doing
    raise StageTimeout(f"{what} took longer than {seconds:g} s", right="a larger timeout=, or less work")
