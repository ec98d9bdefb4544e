"""Where the remote cache is and what may be done there, from `[tool.pipeline]` and the environment."""

from __future__ import annotations

import base64
import importlib.util
from collections.abc import Mapping
from dataclasses import field
from urllib.parse import SplitResult, urlsplit

from pipeline.errors import ConfigError
from pipeline.frozen import Frozen
from pipeline.remote.signature import private_key, public_key
from pipeline.settings import Settings

USER, PASSWORD = "PIPELINE_REMOTE_CACHE_USER", "PIPELINE_REMOTE_CACHE_PASSWORD"
TOKEN = "PIPELINE_REMOTE_CACHE_TOKEN"  # noqa: S105 # nosec B105 - the name of a variable
SIGNING_KEY = "PIPELINE_REMOTE_CACHE_SIGNING_KEY"


class Access(Frozen):
    """A server and how to speak to it. Only `address` may be shown."""

    address: str
    """Without credentials, and without a slash at its end."""
    write: bool = False
    authorization: str = field(default="", repr=False)
    """The header of that name; empty where the server asks nobody who they are."""
    trusted: tuple[bytes, ...] = ()
    """Public keys whose results are taken for everything."""
    signing: bytes = field(default=b"", repr=False)
    """The private key that signs what is made here; empty where nothing is signed."""


def access(settings: Settings, environment: Mapping[str, str]) -> Access:
    """What the settings and the environment say together. Raises ConfigError, which shows no secret."""
    trusted = tuple(_trusted(text) for text in settings.remote_cache_trusted)
    signing = _signing(environment.get(SIGNING_KEY, ""))
    if (trusted or signing) and importlib.util.find_spec("cryptography") is None:
        raise ConfigError(
            "results of the remote cache are to be signed or checked, and the package cryptography is not installed",
            next="pip install 'lockgate[remote]'",
        )
    return Access(
        address=_address(settings.remote_cache),
        write=settings.remote_cache_write,
        authorization=_authorization(environment),
        trusted=trusted,
        signing=signing,
    )


def _address(text: str) -> str:
    where, right = "remote_cache in [tool.pipeline]", "an address such as https://cache.example.org/lockgate"
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        parts, usable = SplitResult("", "", "", "", ""), False
    if "@" in parts.netloc:
        raise ConfigError(
            "the address has credentials in it, which whoever reads the repository could use",
            where=where,
            right=right,
            next=f"take them out, and set {USER} and {PASSWORD}, or {TOKEN}, in the environment",
        )
    if not usable or parts.query or parts.fragment:
        raise ConfigError(f"{text!r} is no address of a remote cache", where=where, right=right)
    return text.rstrip("/")


def _authorization(environment: Mapping[str, str]) -> str:
    user, password, token = (environment.get(name, "") for name in (USER, PASSWORD, TOKEN))
    if token and (user or password):
        raise ConfigError(f"{TOKEN} is set, and so is {USER} or {PASSWORD}", where="environment", right="one of the two")
    if bool(user) != bool(password):
        lacking, there = (PASSWORD, USER) if user else (USER, PASSWORD)
        raise ConfigError(f"{there} is set, and {lacking} is not", where="environment", right="both, or neither")
    if token:
        return f"Bearer {token}"
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}" if user else ""


def _trusted(text: str) -> bytes:
    try:
        return public_key(text)
    except ValueError as error:
        raise ConfigError(
            f"{text!r} is no public key of Ed25519",
            where="remote_cache_trusted in [tool.pipeline]",
            right="the line in the middle of what openssl prints",
            next="openssl pkey -in cache-key.pem -pubout",
        ) from error


def _signing(text: str) -> bytes:
    try:
        return private_key(text) if text else b""
    except ValueError:
        raise ConfigError(
            "what it holds is no private key of Ed25519",
            where=f"environment variable {SIGNING_KEY}",
            right="a key as PEM, or the line in the middle of it",
            next="openssl genpkey -algorithm ed25519 -out cache-key.pem",
        ) from None  # what could not be decoded may be most of a key
