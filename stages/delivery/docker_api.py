"""The Docker Engine's API (https://docs.docker.com/reference/api/engine/), as much of it as a target needs.

By httpx, which is here anyway and waits without a thread. Paths name no version: the oldest that newer daemons know is newer than
the newest that older ones do, and what is asked here is the same in all of them.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from pipeline import StageFailed, WiringError
from pipeline.authorities import authorities

if TYPE_CHECKING:
    import httpx

SOON = 60.0
"""Seconds that the daemon may take for what is no wait."""


@dataclass(frozen=True)
class Daemon:
    """A Docker daemon that listens on a Unix socket (`unix:///path`) or, without TLS, on loopback (`tcp://127.0.0.1:port`)."""

    host: str

    def __post_init__(self) -> None:
        if not self.host.startswith(("unix:///", "tcp://127.0.0.1:")):
            raise WiringError(
                f"the Docker daemon's host is {self.host!r}", right="'unix:///var/run/docker.sock', or tcp://127.0.0.1:port"
            )

    async def get(self, path: str, **query: str) -> Any:
        """A JSON document; None where there is no such thing. Raises StageFailed."""
        answer = await self._ask("GET", path, query, missing=True)
        return None if answer.status_code == 404 else answer.json()

    async def text(self, path: str, **query: str) -> bytes:
        """What a container said: both of its streams in one. Nothing where there is no such container."""
        answer = await self._ask("GET", path, query, missing=True)
        return b"" if answer.status_code == 404 else frames(answer.content)

    async def post(self, path: str, body: Any = None, *, wait: float | None = SOON, missing: bool = False, **query: str) -> Any:
        """The JSON document that answers, or None. Raises StageFailed; for what is not there only if it may not be `missing`."""
        answer = await self._ask("POST", path, query, body=body, wait=wait, missing=missing)
        return answer.json() if answer.content and answer.is_success else None

    async def stream(self, path: str, body: Any) -> bytes:
        """What a command says until it ends."""
        return frames((await self._ask("POST", path, {}, body=body, wait=None)).content)

    async def remove(self, path: str, **query: str) -> None:
        """Nothing where there is no such thing, or where somebody else is removing or using it."""
        await self._ask("DELETE", path, query, missing=True, busy=True)

    async def load(self, archive: Path) -> None:
        """Take an archive of an image, as `docker save` writes it. Raises StageFailed where the daemon cannot."""

        async def pieces() -> AsyncIterator[bytes]:
            async with await anyio.open_file(archive, "rb") as file:
                while piece := await file.read(1 << 20):
                    yield piece

        answer = await self._ask("POST", "/images/load", {"quiet": "1"}, content=pieces(), wait=None)
        for line in answer.text.splitlines():
            if "error" in (said := json.loads(line)):
                raise StageFailed(f"Docker does not load the image: {said['error']}", where=self.host)

    async def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        *,
        body: Any = None,
        content: AsyncIterator[bytes] | None = None,
        wait: float | None = SOON,
        missing: bool = False,
        busy: bool = False,
    ) -> httpx.Response:
        import httpx

        try:
            async with self._client() as client:
                answer = await client.request(method, path, params=dict(query), json=body, content=content, timeout=wait)
        except httpx.HTTPError as error:
            raise StageFailed(
                f"the Docker daemon does not answer: {type(error).__name__}: {error}",
                where=self.host,
                right="a daemon that runs, and the right to use it",
                next=f"docker -H {self.host} version",
            ) from error
        allowed: Collection[int] = {304, *([404] if missing else []), *([409] if busy else [])}
        if answer.is_success or answer.status_code in allowed:
            return answer
        raise Refused(f"Docker refuses {method} {path}: {_said(answer)}", status=answer.status_code, where=self.host)

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[httpx.AsyncClient]:
        import httpx

        unix = self.host.startswith("unix://")
        url = "http://docker" if unix else self.host.replace("tcp:", "http:")
        way = httpx.AsyncHTTPTransport(uds=self.host.removeprefix("unix://") if unix else None, verify=authorities(url))
        async with httpx.AsyncClient(transport=way, base_url=url, trust_env=False) as client:
            yield client


class Refused(StageFailed):
    """The daemon answered, and said no. `status` is that of HTTP."""

    def __init__(self, what: str, *, status: int, where: str) -> None:
        super().__init__(what, where=where)
        self.status = status


def _said(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        return f"{answer.status_code} {answer.text[:200]}"


def frames(content: bytes) -> bytes:
    """What a container without a terminal says by both streams: each piece has a head of 8 bytes, the last 4 its length."""
    found, place = bytearray(), 0
    while place + 8 <= len(content):
        end = place + 8 + int.from_bytes(content[place + 4 : place + 8], "big")
        found += content[place + 8 : end]
        place = end
    return bytes(found)
