"""A seal: it tells one set of secrets from another, and nothing about them."""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Mapping
from pathlib import Path

from stages.delivery import durable


def seal(values: Mapping[str, str], place: Path) -> str:
    """A digest of the secrets with the key in the file `place`: who has not the key cannot try values against it."""
    if not values:
        return ""
    return hmac.new(key(place), json.dumps(sorted(values.items())).encode(), "sha256").hexdigest()


def key(place: Path) -> bytes:
    """32 random bytes, made once and kept in the file `place`, which its owner alone may read."""
    if not place.exists():
        durable.write(place, secrets.token_bytes(32), mode=0o600)
    return place.read_bytes()
