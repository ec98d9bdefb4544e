"""Instances in the test's own process, that answer with their names."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

from stages.delivery.model import Address, Group


@contextmanager
def instances(
    *names: str,
    held: dict[str, Event] | None = None,
    says_path: bool = False,
    ill: Container[str] = (),
    ready: Callable[[], None] = lambda: None,
) -> Iterator[Group]:
    """A group of instances that answer with their names, or the path they were asked for.

    One that is in `held` does not answer before it may, and one that is in `ill` says that it is not ready, while it is.
    `ready` is called before one says whether it is.
    """

    def serve(name: str) -> type[BaseHTTPRequestHandler]:
        class Answers(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 5

            def do_GET(self) -> None:
                if name in (held or {}) and self.path != "/readyz":
                    (held or {})[name].wait(60)
                if self.path == "/readyz":
                    ready()
                said = self.path if says_path else name
                self.send_response(503 if self.path == "/readyz" and name in ill else 200)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said.encode())

            def log_message(self, *values: object) -> None:
                pass

        return Answers

    with ExitStack() as stack:
        found = []
        for name in names:
            server = ThreadingHTTPServer(("127.0.0.1", 0), serve(name))
            server.request_queue_size = 128
            thread = Thread(target=server.serve_forever, args=(0.05,))
            thread.start()
            stack.callback(server.server_close)
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            found.append(Address(host="127.0.0.1", port=server.server_port))
        yield Group(names[0], tuple(found))
