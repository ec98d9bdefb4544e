"""A service that is up, for tests of what looks at deployed services."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pipeline import Stage, Work
from stages.delivery.model import Address, Deployment

Answer = Callable[[str], tuple[int, str]]
"""From a path to status and body; what it raises is an answer that never comes."""


@dataclass
class Served:
    """Where it listens, and what it was asked."""

    port: int
    requests: list[tuple[str, str, bytes]] = field(default_factory=list)
    """Method, path and body of each."""


class Deployed(Stage[Deployment]):
    """A deployment that was made before."""

    port: int

    async def run(self, work: Work) -> Deployment:
        address = Address(host="127.0.0.1", port=self.port)
        return Deployment(address=address, image="sha256:0", group="r-0", before={}, started=True)


@contextmanager
def served(answer: Answer) -> Iterator[Served]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            found.requests.append((self.command, self.path, self.rfile.read(length)))
            try:
                status, text = answer(self.path)
            except ConnectionError:
                return
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        do_POST = do_GET  # noqa: N815 - the name that http.server calls

        def log_message(self, *values: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Served(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
