"""A client of Bazel's HTTP cache protocol: `/ac/KEY` and `/cas/SHA256`, read by GET, looked for by HEAD, written by PUT.

The server is not believed: every answer has a limit of bytes and of time, and what is not 200 or 404 is a failure.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

import anyio
import httpx

from pipeline.authorities import authorities
from pipeline.store import CHUNK

if TYPE_CHECKING:
    from pipeline.remote.access import Access

CONNECT, STALL = 2.0, 5.0
"""Seconds until there must be a connection, and between one piece of an answer and the next."""

SLOWEST, PATIENCE, EACH = 256 * 1024, 5.0, 0.05
"""What is slower than so many bytes a second is given up, after a grace in seconds and some more for each object."""

READERS, WRITERS = 8, 4
"""Requests of each kind at a time: what is sent behind a run does not hold up what the run waits for."""

Kind = Literal["ac", "cas"]


class Failure(Exception):
    """The server did not answer, or not as it must."""


class Wrong(Failure):
    """The server has other bytes under a digest than those it is the digest of."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"sent other bytes than those of {name[:12]}")


class Denied(Failure):
    """The server says that who asks may not do this, or that nobody can just now."""


def patience(size: int, objects: int = 1) -> float:
    """Seconds that so many bytes in so many objects may take together."""
    return PATIENCE + EACH * objects + size / SLOWEST


class Pace:
    """How much of something came in what time. What counts is what came, not how large the server says it is."""

    def __init__(self) -> None:
        self._begun, self._size, self._objects = time.monotonic(), 0, 0

    def came(self, size: int) -> None:
        """Raises Failure when it is too little for the time that it took."""
        self._size += size
        if time.monotonic() - self._begun > patience(self._size, self._objects):
            raise Failure(f"is slower than {SLOWEST // 1024} KiB a second")

    def whole(self) -> None:
        """One more object is there."""
        self._objects += 1


class Client:
    """Speaks to one server. Raises Failure, and Denied for a refusal that asking again does not change."""

    def __init__(self, access: Access) -> None:
        identity = {"Authorization": access.authorization} if access.authorization else {}
        self._address = access.address
        self._http = httpx.AsyncClient(
            headers={"Accept-Encoding": "identity", **identity},
            timeout=httpx.Timeout(STALL, connect=CONNECT, pool=None),
            verify=authorities(access.address),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=READERS + WRITERS),
        )
        self._readers, self._writers = anyio.CapacityLimiter(READERS), anyio.CapacityLimiter(WRITERS)

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._http.__aexit__(kind, error, trace)

    async def read(self, kind: Kind, name: str, limit: int) -> bytes | None:
        """What lies under a name, no more than `limit` bytes; None where nothing does."""
        found = bytearray()

        def take(piece: bytes) -> None:
            found.extend(piece)
            if len(found) > limit:
                raise Failure(f"sent more than {limit} bytes for {kind}/{name[:12]}")

        return bytes(found) if await self._get(kind, name, Pace(), take) else None

    async def receive(self, name: str, size: int, write: Callable[[bytes], object], pace: Pace) -> bool:
        """Hand the bytes of this digest to `write`, piece by piece; False where the server has none.

        Raises Wrong when they turn out to be others: whoever wrote them throws them away then.
        """
        hasher, count = hashlib.sha256(), 0

        def take(piece: bytes) -> None:
            nonlocal count
            hasher.update(piece)
            count += len(piece)
            if count > size:
                raise Wrong(name)
            write(piece)

        if not await self._get("cas", name, pace, take):
            return False
        if (count, hasher.hexdigest()) != (size, name):
            raise Wrong(name)
        pace.whole()
        return True

    async def _get(self, kind: Kind, name: str, pace: Pace, take: Callable[[bytes], object]) -> bool:
        """Hand what is there to `take`, piece by piece and not decoded; False where there is nothing."""
        async with self._readers, self._answer("GET", kind, name) as answer:
            if answer.status_code == 404:
                return False
            if answer.status_code in (401, 403):
                raise Denied(_status(answer))
            if answer.status_code != 200:
                raise Failure(_status(answer))
            async for piece in answer.aiter_raw():
                pace.came(len(piece))
                take(piece)
        return True

    async def has(self, kind: Kind, name: str) -> bool:
        """Whether there is something under a name."""
        async with self._writers, self._answer("HEAD", kind, name) as answer:
            if answer.status_code in (200, 404):
                return answer.status_code == 200
            raise Denied(_status(answer)) if answer.status_code in (401, 403) else Failure(_status(answer))

    async def write(self, kind: Kind, name: str, content: bytes | Path) -> None:
        """Put something under a name."""
        size = len(content) if isinstance(content, bytes) else (await anyio.Path(content).stat()).st_size
        body = content if isinstance(content, bytes) else _pieces(content)
        async with self._writers, self._answer("PUT", kind, name, body, size) as answer:
            if answer.status_code in (401, 403, 405, 413, 507):
                raise Denied(_status(answer))
            if not answer.is_success:
                raise Failure(_status(answer))

    @asynccontextmanager
    async def _answer(
        self, method: str, kind: Kind, name: str, body: bytes | AsyncIterator[bytes] | None = None, size: int = 0
    ) -> AsyncIterator[httpx.Response]:
        """The answer to a request, its own body still to be read. It begins within the time that so many bytes may take."""
        length = {"Content-Length": str(size)} if body is not None else {}
        request = self._http.build_request(method, f"{self._address}/{kind}/{name}", content=body, headers=length)
        try:
            with anyio.fail_after(patience(size)):
                answer = await self._http.send(request, stream=True)
            try:
                yield answer
            finally:
                await answer.aclose()
        except TimeoutError as error:
            raise Failure(f"{method} took longer than {patience(size):.0f} s") from error
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise Failure(_said(error)) from error


async def each(names: Iterable[str], do: Callable[[str], Awaitable[None]]) -> None:
    """Do something for every name, some at a time. Raises what the first one to fail raises."""
    left = iter(names)

    async def work() -> None:
        for name in left:
            await do(name)

    try:
        async with anyio.create_task_group() as group:
            for _ in range(READERS):
                group.start_soon(work)
    except ExceptionGroup as several:
        raise several.exceptions[0] from several


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    async with await anyio.open_file(path, "rb") as file:
        while piece := await file.read(CHUNK):
            yield piece


def _status(answer: httpx.Response) -> str:
    return f"{answer.request.method} was answered {answer.status_code} {answer.reason_phrase}".rstrip()


def _said(error: Exception) -> str:
    """What went wrong with a connection, which httpx leaves unsaid of its timeouts."""
    match error:
        case httpx.ConnectTimeout():
            return f"no connection within {CONNECT:g} s"
        case httpx.TimeoutException():
            return f"nothing was heard for {STALL:g} s"
        case httpx.ConnectError():
            return f"no connection: {error}"
    return str(error) or type(error).__name__
