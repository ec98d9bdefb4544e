"""A seal: it tells one set of secrets from another, and nothing about them."""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Mapping
from pathlib import Path

from gates.words import counted
from stages.delivery import durable

SIZE = 32
"""Bytes of a key."""


def seal(values: Mapping[str, str], place: Path) -> str:
    """A digest of the secrets with the key in the file `place`: who has not the key cannot try values against it."""
    if not values:
        return ""
    return hmac.new(key(place), json.dumps(sorted(values.items())).encode(), "sha256").hexdigest()


def key(place: Path) -> bytes:
    """Random bytes, made once and kept in the file `place`, which its owner alone may read. Raises StageFailed for others."""
    if not place.exists():
        durable.write(place, secrets.token_bytes(SIZE), mode=0o600)
    return durable.read(
        place, _whole, "the key of seals", next="rm {place}, and run again: a release with secrets is a new one then"
    )


def _whole(found: bytes) -> bytes:
    if len(found) != SIZE:
        raise ValueError(f"it has {counted(len(found), 'byte')}, not {SIZE}")
    return found
