"""Who gets the copies of requests: asks the new release and, twice, the one that serves; compares, and throws the answers away.

Nothing but a copy ever passes here: users do not wait for it, and do not notice when it ends. The release that serves is asked
twice so that in what it differs from itself is known. The three are asked at once, so that a bad moment is everybody's.
"""

from __future__ import annotations

import bisect
import itertools
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
from anyio.abc import ByteStream, SocketAttribute

from gates.window import Histogram, Share, Window
from pipeline.authorities import authorities
from stages.delivery.answer import Answer, Noise, differing
from stages.delivery.model import Address
from stages.delivery.probing import beginning
from stages.delivery.router import BOUNDS

if TYPE_CHECKING:
    import httpx

DIFFER = "answers that differ"
"""The share that a comparison adds to what is known of a release: of the old one, the answers that differ from its own."""

HEADER = "x-shadow"
"""The header that every copy has, with the value 1."""

SAFE = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing (RFC 9110, safe methods)."""

AT_ONCE = 16
"""Comparisons at once; copies beyond are thrown away and counted."""

OWN = frozenset(("connection", "keep-alive", "te", "transfer-encoding", "upgrade", "expect", "accept-encoding", "content-length"))
"""Headers of a connection, not of a request."""

EXAMPLES = 5
LARGEST = 1 << 20
TIMEOUT = 30.0


@dataclass(frozen=True)
class Copy:
    """A request, as it was copied."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    @property
    def name(self) -> str:
        """Without the query, which may be nobody else's business."""
        return f"{self.method} {self.target.partition('?')[0]}"


@dataclass
class Side:
    """What one release did since the last look."""

    answers: list[Answer] = field(default_factory=list)
    different: int = 0
    comparable: int = 0

    def window(self) -> Window:
        counts = [0] * (len(BOUNDS) + 1)
        for answer in self.answers:
            if not answer.failed:
                counts[bisect.bisect_left(BOUNDS, answer.milliseconds)] += 1
        return Window(
            requests=len(self.answers),
            errors=sum(answer.failed for answer in self.answers),
            latency=Histogram(bounds=BOUNDS, counts=tuple(counts)),
            business={DIFFER: Share(part=self.different, of=self.comparable)},
        )


@dataclass
class Comparison:
    """What was compared."""

    noise: Noise
    old: Side = field(default_factory=Side)
    new: Side = field(default_factory=Side)
    compared: int = 0
    different: int = 0
    skipped: int = 0
    """Copies that were thrown away unread: there were too many at once, or they were no safe requests."""
    examples: dict[str, str] = field(default_factory=dict)
    """Of requests whose answers differed, in what."""

    def add(self, copy: Copy, old: Answer, again: Answer, new: Answer) -> None:
        """Count one request. What the old release could not answer itself tells nothing about differences."""
        self.compared += 1
        self.old.answers.append(old)
        self.new.answers.append(new)
        if old.failed or again.failed:
            return
        noisy = self.noise.without(differing(old.facts(), again.facts()))
        self.noise.found |= noisy
        places = self.noise.without(differing(old.facts(), new.facts()))
        self.old.comparable += 1
        self.new.comparable += 1
        self.old.different += bool(noisy)
        self.new.different += bool(places)
        self.different += bool(places)
        if places and len(self.examples) < EXAMPLES:
            status = f" ({old.status}, then {new.status or 'no answer'})" if "status" in places else ""
            self.examples.setdefault(copy.name, ", ".join(sorted(places)[:EXAMPLES]) + status)

    def windows(self) -> tuple[Window, Window]:
        """What the old and the new release did since the last look."""
        old, new = self.old.window(), self.new.window()
        self.old, self.new = Side(), Side()
        return old, new

    def said(self) -> str:
        """In what answers differed."""
        found = "; ".join(f"{name}: {places}" for name, places in self.examples.items())
        return f"answers differ in {found}" if found else "no answer differs"


@dataclass
class Comparer:
    """Takes copies, one to a connection."""

    old: Iterator[Address]
    new: Iterator[Address]
    comparison: Comparison
    client: httpx.AsyncClient
    _busy: int = 0

    async def take(self, stream: ByteStream) -> None:
        """Take one copy, answer at once that it was taken, then compare."""
        async with stream:
            copy = await received(stream)
        if copy is None or copy.method not in SAFE or self._busy >= AT_ONCE:
            self.comparison.skipped += 1
            return
        self._busy += 1
        try:
            await self._compare(copy)
        finally:
            self._busy -= 1

    async def _compare(self, copy: Copy) -> None:
        places = (next(self.old), next(self.old), next(self.new))
        answers = [Answer()] * len(places)

        async def ask(number: int) -> None:
            answers[number] = await self._ask(copy, places[number])

        async with anyio.create_task_group() as tasks:
            for number in range(len(places)):
                tasks.start_soon(ask, number)
        self.comparison.add(copy, *answers)

    async def _ask(self, copy: Copy, place: Address) -> Answer:
        import httpx

        headers = [*((name, value) for name, value in copy.headers if name not in OWN), (HEADER, "1")]
        began = time.monotonic()
        try:
            with anyio.fail_after(TIMEOUT):
                async with self.client.stream(
                    copy.method, place.url + copy.target, headers=headers, content=copy.body or None
                ) as answer:
                    said = await beginning(answer.aiter_bytes(), LARGEST)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError):
            return Answer()  # nothing came, or no end of it: that is what is counted
        took = 1000 * (time.monotonic() - began)
        return Answer(answer.status_code, answer.headers.get("content-type", ""), said, took)


async def received(stream: ByteStream) -> Copy | None:
    """The request that comes in, answered with 204; None where it breaks off, or is too large to be compared."""
    import h11

    connection = h11.Connection(h11.SERVER)
    request, body = None, bytearray()
    try:
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await _more(stream))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data) and len(body) <= LARGEST:
                body += event.data
            else:  # its end, or too much
                break
        if request is None or len(body) > LARGEST:
            return None
        await stream.send(connection.send(h11.Response(status_code=204, headers=[("Connection", "close")])) or b"")
    except (h11.RemoteProtocolError, OSError, anyio.BrokenResourceError):
        return None
    headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers)
    return Copy(request.method.decode(), request.target.decode("latin-1"), headers, bytes(body))


async def _more(stream: ByteStream) -> bytes:
    try:
        return await stream.receive()
    except anyio.EndOfStream:
        return b""


@asynccontextmanager
async def comparing(
    old: Sequence[Address], new: Sequence[Address], ignored: tuple[str, ...]
) -> AsyncIterator[tuple[Address, Comparison]]:
    """Where copies may be sent meanwhile, and what they tell. Each release has these instances, which are asked in turn."""
    import httpx

    comparison = Comparison(Noise(ignored))
    unkept = httpx.Limits(max_keepalive_connections=0)  # a kept connection would hold up an instance that is asked to end
    async with (
        httpx.AsyncClient(verify=authorities(old[0].url), limits=unkept, timeout=TIMEOUT, trust_env=False) as client,
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        comparer = Comparer(itertools.cycle(old), itertools.cycle(new), comparison, client)
        tasks.start_soon(listener.serve, comparer.take)
        yield Address(host="127.0.0.1", port=listener.extra(SocketAttribute.local_port)), comparison  # noqa: S610 # nosec B610
        tasks.cancel_scope.cancel()
