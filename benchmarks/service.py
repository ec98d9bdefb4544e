"""A small quick service, standard library only: it answers every request with its VERSION and the moment it got it.

The moment is that of CLOCK_MONOTONIC, which all processes of a machine share. FAILS: one in so many requests is answered with
500.
"""

import asyncio
import itertools
import os
import signal
import time

VERSION, FAILS = os.environ["VERSION"], int(os.environ.get("FAILS", "0"))
asked = itertools.count(1)


class Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.left = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        *requests, self.left = (self.left + data).split(b"\r\n\r\n")
        for request in requests:
            self.answer(request)

    def answer(self, request: bytes) -> None:
        body = f"{VERSION} {time.monotonic():.6f}".encode()
        fails = FAILS and not request.startswith(b"GET /readyz") and next(asked) % FAILS == 0
        head = b"HTTP/1.1 500 Oh\r\n" if fails else b"HTTP/1.1 200 OK\r\n"
        closes = b"connection: close" in request.lower()
        self.transport.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)  # type: ignore[attr-defined]
        if closes:
            self.transport.close()


async def main() -> None:
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, done.set)
    server = await loop.create_server(Connection, os.environ["HOST"], int(os.environ["PORT"]), backlog=512)
    await done.wait()
    server.close()
    await asyncio.sleep(0.2)  # what was accepted is answered


asyncio.run(main())
