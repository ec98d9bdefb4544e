"""Digests: SHA-256 over bytes, files and canonical JSON."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NewType

from pydantic_core import to_json

Digest = NewType("Digest", str)
"""64 lower-case hexadecimal characters of SHA-256, without a prefix."""


def of_bytes(data: bytes) -> Digest:
    return Digest(hashlib.sha256(data).hexdigest())


def of_text(text: str) -> Digest:
    return of_bytes(text.encode())


def of_file(path: Path) -> Digest:
    """The digest of the bytes of `path`, read in pieces."""
    with path.open("rb") as file:
        return Digest(hashlib.file_digest(file, "sha256").hexdigest())


def canonical(value: Any) -> bytes:
    """The one JSON encoding of plain data: keys sorted, no white space, no NaN.

    Raises ValueError for NaN and infinities, TypeError for what JSON cannot hold.
    """
    if type(value) is dict and TEXT.issuperset(map(type, value)) and EASY.issuperset(map(type, value.values())):
        found = quickly({name: value[name] for name in sorted(value)})
        if found is not None:
            return found
    return ENCODER.encode(value).encode(errors="surrogateescape")


def quickly(value: Any) -> bytes | None:
    """JSON in UTF-8, keys as they come, in a third of the time; None of text that is no UTF-8, as names of files may be."""
    try:
        return to_json(value)
    except ValueError:
        return None


TEXT = frozenset({str})

EASY = TEXT | {int, bool, type(None)}
"""Types that everybody writes alike, as nobody does with numbers that are no integers."""

ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def of_json(value: Any) -> Digest:
    return of_bytes(canonical(value))
