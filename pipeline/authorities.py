"""Whom TLS is to trust."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from ssl import SSLContext


def authorities(url: str) -> SSLContext | Literal[True]:
    """For httpx's `verify`: what it trusts by itself where `url` has TLS, else nobody.

    Plain HTTP needs nobody's certificate, and to load the authorities takes longer than most requests do.
    """
    if urlsplit(url).scheme == "https":
        return True
    from ssl import PROTOCOL_TLS_CLIENT, SSLContext

    return SSLContext(PROTOCOL_TLS_CLIENT)
