"""A loopback server that gives each connection the next of some answers, as one that is still starting does."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

STARTING = b"E\0\0\0\x42SFATAL\0C57P03\0Mthe database system is starting up\0\0"
"""What PostgreSQL sends whoever comes before it can serve."""
ASKS_WHO = b"R\0\0\0\x08\0\0\0\0"
"""What PostgreSQL sends whom it lets in."""


class Answering:
    """What was listened to and said: `asked` holds what each connection sent first."""

    def __init__(self, answers: tuple[bytes, ...]) -> None:
        self.asked: list[bytes] = []
        self._answers = answers
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def serve(self) -> None:
        while True:
            try:
                session, _ = self._listener.accept()
            except OSError:
                return  # closed
            with session, contextlib.suppress(OSError):
                self.asked.append(session.recv(4096))
                session.sendall(self._answers[min(len(self.asked), len(self._answers)) - 1])

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@contextlib.contextmanager
def answering(*answers: bytes) -> Iterator[Answering]:
    """A server that gives its n-th connection the n-th answer; the last one again and again."""
    server = Answering(answers)
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join()


def http(status: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
