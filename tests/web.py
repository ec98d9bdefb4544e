"""HTTP as the users of a service speak it in tests: straight to this machine, and mostly plain."""

from __future__ import annotations

from typing import Any

import httpx

from pipeline.authorities import authorities

PLAIN = authorities("http://127.0.0.1")
"""A client that reads whom it trusts takes longer than a hundred requests do."""


def browser(**more: Any) -> httpx.AsyncClient:
    """Someone who keeps connections and cookies."""
    return httpx.AsyncClient(**{"trust_env": False, "verify": PLAIN, "timeout": 30, **more})


def get(url: str, **more: Any) -> httpx.Response:
    return httpx.get(url, **{"trust_env": False, "verify": PLAIN, "timeout": 30, **more})
