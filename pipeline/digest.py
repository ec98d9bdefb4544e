"""Digests: SHA-256 over bytes, files and canonical JSON."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NewType

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
    return ENCODER.encode(value).encode(errors="surrogateescape")


ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def of_json(value: Any) -> Digest:
    return of_bytes(canonical(value))
