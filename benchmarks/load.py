"""`python -m benchmarks.load PORT RATE FILE [TRUSTED]`: send requests until SIGTERM, then write what came of each to FILE.

With TRUSTED, a file of certificates, by HTTPS.
Half of the users keep their connection, half take a new one for each request. The moments of sending are fixed beforehand, so
that a slow answer delays no other request. Of each request is told the version and the moment in the answer, or what went wrong.
What is measured runs on the same processors and comes first there: real users have processors of their own.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import cast

USERS = 40
LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
CLOSES = re.compile(rb"connection: close", re.IGNORECASE)


class Connection(asyncio.Protocol):
    """Asks one request after another; `over` when it is not to be asked any more."""

    def __init__(self) -> None:
        self.over = self.lost = False
        self.got = b""
        self.answer: asyncio.Future[tuple[int, str]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    async def ask(self, *, last: bool) -> tuple[int, str]:
        """Status and body of the answer."""
        if self.lost:
            raise EOFError("it was closed while nothing was asked")
        self.got, self.over = b"", last
        self.answer = asyncio.get_running_loop().create_future()
        close = b"Connection: close\r\n" if last else b""
        self.transport.write(b"GET / HTTP/1.1\r\nHost: service\r\n" + close + b"\r\n")
        return await self.answer

    def data_received(self, data: bytes) -> None:
        self.got += data
        head, _, body = self.got.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if self.answer and not self.answer.done() and length and len(body) >= int(length[1]):
            self.over = self.over or CLOSES.search(head) is not None
            self.answer.set_result((int(head[9:12]), body.decode()))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self.answer and not self.answer.done():
            self.answer.set_exception(exc or EOFError(f"closed after {self.got!r}"))


Connect = Callable[[], Awaitable[tuple[asyncio.Transport, Connection]]]


async def met(port: int, rate: float, trusted: str = "") -> str:
    """What came of all requests, as JSON."""
    context = ssl.create_default_context(cafile=trusted) if trusted else None
    loop = asyncio.get_running_loop()
    name = "localhost" if trusted else None
    connect = partial(loop.create_connection, Connection, "127.0.0.1", port, ssl=context, server_hostname=name)
    done = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, done.set)
    answers: list[tuple[str, float]] = []
    failures: list[str] = []
    users = [user(connect, number, USERS / rate, done, answers, failures) for number in range(USERS)]
    await asyncio.gather(*users)
    return json.dumps({"answers": answers, "failures": failures})


async def user(
    connect: Connect, number: int, pause: float, done: asyncio.Event, answers: list[tuple[str, float]], failures: list[str]
) -> None:
    due = time.monotonic() + pause * number / USERS
    kept: Connection | None = None
    while not done.is_set():
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        due = max(due + pause, time.monotonic() - 1)  # a machine at its limit sends as many as it can
        over = True
        try:
            async with asyncio.timeout(30):
                kept = kept or (await connect())[1]
                status, body = await kept.ask(last=number % 2 == 1)
            if status != 200:
                failures.append(f"{status} {body[:60]}")
            else:
                version, moment = body.split()
                answers.append((version, float(moment)))
            over = kept.over
        except (OSError, EOFError, ValueError) as error:  # TimeoutError is one of the first
            failures.append(f"{type(error).__name__}: {error}")
        if over and kept:
            kept.transport.close()
            kept = None


if __name__ == "__main__":
    os.nice(10)
    Path(sys.argv[3]).write_text(asyncio.run(met(int(sys.argv[1]), float(sys.argv[2]), *sys.argv[4:])))
