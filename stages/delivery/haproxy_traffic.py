"""What groups do with their requests, as HAProxy tells of each: server, status, milliseconds.

HAProxy writes a line for each request to a ring in its memory (4 MiB, the oldest lines go), and whoever asks gets the new ones.
Format: HAProxy Configuration Manual 2.8, section 8.2.6 (custom log format), and Management Guide, `show events`.
"""

from __future__ import annotations

import bisect
import contextlib
import socket as sockets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import anyio
from anyio.abc import ByteStream, SocketAttribute

from gates.window import Histogram, Window
from pipeline import StageFailed
from stages.delivery.router import BOUNDS

RING = "traffic"
LOOKS = 0.2
"""Seconds from one look at the counters of servers to the next."""

LOG_FORMAT = "%b/%s %ST %Ta"
"""Backend and server, status (-1: none was sent), milliseconds from the first byte of the request to the last of the answer."""


@dataclass(frozen=True)
class Answer:
    """One request that a server got, and what came of it."""

    server: str
    status: int
    milliseconds: float

    @property
    def failed(self) -> bool:
        """By the server's fault, or without an answer at all."""
        return self.status >= 500 or self.status < 100


def answer(line: str) -> Answer | None:
    """What a line of HAProxy's tells; None for one that tells of no request that a server got."""
    words = line.split()
    if len(words) != 3 or words[0].endswith(">"):
        return None
    try:
        return Answer(words[0], int(words[1]), max(float(words[2].lstrip("+")), 0.0))
    except ValueError:
        return None


class TriedAgain(NamedTuple):
    """Counters of a server, of what it failed and somebody was asked again: the same server (`wretr`), another (`wredis`).

    Of an answer that did not come (`retry-on empty-response`) HAProxy counts one more in `wretr`, wherever it was asked again;
    so seen with HAProxy 2.8, whose manual does not say so.
    """

    same: int
    other: int

    def failed(self, before: TriedAgain) -> int:
        """How many tries it failed since then; at least so many, where only it could be asked again."""
        return max(self.other - before.other, (self.same - before.same + 1) // 2)


@dataclass
class Tally:
    """Requests of one group since it was last looked at."""

    requests: int = 0
    errors: int = 0
    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))

    def add(self, one: Answer) -> None:
        self.requests += 1
        if one.failed:
            self.errors += 1
        else:
            self.counts[bisect.bisect_left(BOUNDS, one.milliseconds)] += 1


@dataclass
class Traffic:
    """A watch over HAProxy's ring. Known is only what was seen while the ring could be read all the time."""

    group_of: Callable[[str], str]
    """The group that has a server."""
    _tallies: dict[str, Tally] = field(default_factory=dict)
    _tried: dict[str, TriedAgain] = field(default_factory=dict)
    """What each server failed and was tried again: the log has only the last try of a request."""
    _reading: bool = False
    _whole: bool = False
    """Whether it could be read ever since the last look."""
    _ring: sockets.socket | None = None
    _over: anyio.Event = field(default_factory=anyio.Event)

    def windows(self, *sides: Collection[str]) -> list[Window | None]:
        tallies, whole = self._tallies, self._whole
        self._tallies, self._whole = {}, self._reading
        if not whole:
            return [None] * len(sides)
        return [window([tallies[group] for group in groups if group in tallies]) for groups in sides]

    def see(self, line: str) -> None:
        """Count what a line tells of."""
        found = answer(line)
        group = self.group_of(found.server) if found is not None else ""
        if found is not None and group:
            self._tallies.setdefault(group, Tally()).add(found)

    def see_counters(self, tried: Mapping[str, TriedAgain]) -> None:
        """Count what was tried again since the last look: each is a request that its group failed."""
        for server, now in tried.items():
            more, group = now.failed(self._tried.get(server, now)), self.group_of(server)
            if more > 0 and group:
                tally = self._tallies.setdefault(group, Tally())
                tally.requests += more
                tally.errors += more
        self._tried = dict(tried)

    async def look(self, counters: Callable[[], Awaitable[Mapping[str, TriedAgain]]]) -> None:
        """Look at the counters now and again; where they cannot be had, nothing is known."""
        while not self._over.is_set():
            try:
                self.see_counters(await counters())
            except StageFailed:
                self._whole = False
            with anyio.move_on_after(LOOKS):
                await self._over.wait()

    async def read(self, socket: Path, begun: anyio.Event) -> None:
        """Follow the ring; where it breaks off, nothing is known until it is followed again."""
        while not self._over.is_set():
            with contextlib.suppress(OSError, anyio.BrokenResourceError, anyio.EndOfStream):
                async with await anyio.connect_unix(str(socket)) as stream:
                    self._ring = stream.extra(SocketAttribute.raw_socket)  # noqa: S610 # nosec B610
                    await self._follow(stream, begun)
            self._reading = self._whole = False
            begun.set()
            with anyio.move_on_after(0.2):
                await self._over.wait()

    def end(self) -> None:
        """Have `look` and `read` return. The ring is hung up on: asyncio complains of a reader that is cancelled while it has
        something to read (anyio 4.16, UNIXSocketStream)."""
        self._over.set()
        if self._ring is not None:
            with contextlib.suppress(OSError):
                self._ring.shutdown(sockets.SHUT_RDWR)

    async def _follow(self, stream: ByteStream, begun: anyio.Event) -> None:
        await stream.send(f"show events {RING} -w -n\n".encode())
        self._reading = True
        begun.set()
        left = b""
        while True:
            *lines, left = (left + await stream.receive(1 << 16)).split(b"\n")
            for line in lines:
                self.see(line.decode(errors="replace"))


def window(tallies: Collection[Tally]) -> Window:
    """Several groups together."""
    counts = tuple(map(sum, zip(*(tally.counts for tally in tallies), strict=True))) if tallies else (0,) * (len(BOUNDS) + 1)
    return Window(
        requests=sum(tally.requests for tally in tallies),
        errors=sum(tally.errors for tally in tallies),
        latency=Histogram(bounds=BOUNDS, counts=counts),
    )


@asynccontextmanager
async def watching(
    socket: Path, group_of: Callable[[str], str], counters: Callable[[], Awaitable[Mapping[str, TriedAgain]]]
) -> AsyncIterator[Traffic]:
    """A watch that knows of all requests that end from now on; `counters` tell what was tried again."""
    found, begun = Traffic(group_of), anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(found.read, socket, begun)
        tasks.start_soon(found.look, counters)
        await begun.wait()
        found.windows()
        yield found
        found.end()
