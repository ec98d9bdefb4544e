"""A seal: it tells one set of secrets from another, and nothing about them."""

from __future__ import annotations

import hmac
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path


def seal(values: Mapping[str, str], place: Path) -> str:
    """A digest of the secrets with the key in the file `place`: who has not the key cannot try values against it."""
    if not values:
        return ""
    return hmac.new(key(place), json.dumps(sorted(values.items())).encode(), "sha256").hexdigest()


def key(place: Path) -> bytes:
    """32 random bytes, made once and kept in the file `place`, which its owner alone may read."""
    if not place.exists():
        fresh = place.with_name(f"{place.name}.unfinished")
        fresh.unlink(missing_ok=True)
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(place)
    return place.read_bytes()
