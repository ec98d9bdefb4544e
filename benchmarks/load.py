"""`python -m benchmarks.load PORT RATE FILE [TRUSTED]`: send requests until SIGTERM, then write what came of each to FILE.

With TRUSTED, a file of certificates, by HTTPS.
Half of the users keep their connection, half take a new one for each request. The moments of sending are fixed beforehand, so
that a slow answer delays no other request. Of each request is told the version and the moment in the answer, or what went wrong.
"""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

USERS = 40


Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


async def met(port: int, rate: float, trusted: str = "") -> str:
    """What came of all requests, as JSON."""
    context = ssl.create_default_context(cafile=trusted) if trusted else None
    connect = partial(asyncio.open_connection, "127.0.0.1", port, ssl=context, server_hostname="localhost" if trusted else None)
    done = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, done.set)
    answers: list[tuple[str, float]] = []
    failures: list[str] = []
    users = [user(connect, number, USERS / rate, done, answers, failures) for number in range(USERS)]
    await asyncio.gather(*users)
    return json.dumps({"answers": answers, "failures": failures})


async def user(
    connect: Connect, number: int, pause: float, done: asyncio.Event, answers: list[tuple[str, float]], failures: list[str]
) -> None:
    due = time.monotonic() + pause * number / USERS
    kept: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    while not done.is_set():
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        due = max(due + pause, time.monotonic() - 1)  # a machine at its limit sends as many as it can
        try:
            kept = kept or await connect()
            status, body, closes = await asyncio.wait_for(ask(*kept, closes=number % 2 == 1), 30)
            if status != 200:
                failures.append(f"{status} {body[:60]}")
            else:
                version, moment = body.split()
                answers.append((version, float(moment)))
        except (OSError, EOFError, ValueError, TimeoutError) as error:
            failures.append(f"{type(error).__name__}: {error}")
            closes = True
        if closes and kept:
            kept[1].close()
            kept = None


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, closes: bool) -> tuple[int, str, bool]:
    """Status and body, and whether the connection is over."""
    close = b"Connection: close\r\n" if closes else b""
    writer.write(b"GET / HTTP/1.1\r\nHost: service\r\n" + close + b"\r\n")
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    fields = dict(line.split(": ", 1) for line in head.splitlines()[1:] if line)
    body = await reader.readexactly(int(fields["content-length"]))
    return int(head.split()[1]), body.decode(), closes or fields.get("connection") == "close"


if __name__ == "__main__":
    Path(sys.argv[3]).write_text(asyncio.run(met(int(sys.argv[1]), float(sys.argv[2]), *sys.argv[4:])))
