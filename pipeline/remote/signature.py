"""Who made a result: Ed25519 signatures over a key and the record under it.

Keys are written as `openssl genpkey -algorithm ed25519` and `openssl pkey -pubout` write them: PEM, or only
the line of base64 in it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable

PUBLIC, PRIVATE = bytes.fromhex("302a300506032b6570032100"), bytes.fromhex("302e020100300506032b657004220420")
"""What stands before the 32 bytes of a key in the DER encoding that RFC 8410 gives it."""

WORD = b"ed25519 "
"""How a signature begins where it is written down."""


def public_key(text: str) -> bytes:
    """The 32 bytes of a public key. Raises ValueError for anything else."""
    return _bytes(text, PUBLIC)


def private_key(text: str) -> bytes:
    """The 32 bytes of a private key. Raises ValueError for anything else."""
    return _bytes(text, PRIVATE)


def _bytes(text: str, before: bytes) -> bytes:
    lines = (line.strip() for line in text.splitlines() if not line.startswith("-----"))
    data = base64.b64decode("".join(lines), validate=True)
    if not data.startswith(before) or len(data) != len(before) + 32:
        raise ValueError("no key of Ed25519")
    return data.removeprefix(before)


def sign(key: str, record: str, private: bytes) -> bytes:
    """The signature, as text, that `record` (a digest) is what was found for `key`."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return WORD + base64.b64encode(Ed25519PrivateKey.from_private_bytes(private).sign(_said(key, record)))


def is_signed(signature: bytes, key: str, record: str, trusted: Iterable[bytes]) -> bool:
    """Whether one of the trusted public keys made this signature."""
    try:
        raw = base64.b64decode(signature.removeprefix(WORD), validate=True) if signature.startswith(WORD) else b""
    except ValueError:
        return False
    return any(_fits(raw, _said(key, record), public) for public in trusted) if raw else False


def _fits(raw: bytes, said: bytes, public: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(raw, said)
    except InvalidSignature:
        return False
    return True


def _said(key: str, record: str) -> bytes:
    """What is signed. The first line keeps it from being taken for a signature about anything else."""
    return f"lockgate remote cache 1\n{key}\n{record}\n".encode()
