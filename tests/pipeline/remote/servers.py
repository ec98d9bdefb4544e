"""Servers of a remote cache on this machine: real ones, and an adversary that keeps what it is sent and answers as it likes."""

from __future__ import annotations

import base64
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.engines.local import free_port
from tests.stages.registries import HASHED, USER, WORD, running

NGINX, BAZEL_REMOTE = shutil.which("nginx"), shutil.which("bazel-remote")
needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (apt-get install nginx-light)")
needs_bazel_remote = pytest.mark.skipif(BAZEL_REMOTE is None, reason="bazel-remote is not on PATH")

BASIC = "Basic " + base64.b64encode(f"{USER}:{WORD}".encode()).decode()

CONFIG = """
daemon off; master_process off; pid {place}/nginx.pid; error_log {place}/errors info;
events {{ worker_connections 128; }}
http {{
    log_format short "$request_method $uri $status"; access_log {place}/requests short;
    client_body_temp_path {place}/body; proxy_temp_path {place}/proxy; fastcgi_temp_path {place}/fastcgi;
    uwsgi_temp_path {place}/uwsgi; scgi_temp_path {place}/scgi;
    server {{
        listen 127.0.0.1:{port}; root {place}/data; client_max_body_size {most};
        location = /up {{ return 200; }}
        location / {{
{location}
        }}
    }}
}}
"""

WRITABLE = "dav_methods PUT; create_full_put_path on;"
READABLE = ""
LOCKED = WRITABLE + ' auth_basic "here"; auth_basic_user_file PLACE/users;'


@dataclass(frozen=True)
class Nginx:
    """A running nginx with its files below `place`."""

    address: str
    place: Path

    def objects(self) -> list[Path]:
        """The files it keeps."""
        return sorted(path for path in (self.place / "data").rglob("*") if path.is_file())

    def requests(self, method: str) -> list[str]:
        """What it was asked by that method: path and status."""
        lines = (self.place / "requests").read_text().splitlines()
        return [line.removeprefix(f"{method} ") for line in lines if line.startswith(f"{method} ")]


@contextmanager
def nginx(place: Path, location: str = WRITABLE, *, most: str = "0") -> Iterator[Nginx]:
    """nginx with the WebDAV module as a cache that anybody may use; `location` says what may be done, `most` how much at once."""
    assert NGINX is not None
    port = free_port()
    (place / "data").mkdir(parents=True, exist_ok=True)
    (place / "users").write_text(f"{USER}:{{PLAIN}}{WORD}\n")
    config = CONFIG.format(place=place, port=port, most=most, location=location.replace("PLACE", str(place)))
    (place / "nginx.conf").write_text(config)
    command = [NGINX, "-p", str(place), "-c", str(place / "nginx.conf")]
    with running(command, place, f"http://127.0.0.1:{port}/up", {200}):
        yield Nginx(f"http://127.0.0.1:{port}", place)


@contextmanager
def bazel_remote(place: Path, *, locked: bool = False) -> Iterator[str]:
    """bazel-remote as it comes, which looks at what is put under /ac; `locked`: only USER with WORD is let in. Its address."""
    assert BAZEL_REMOTE is not None
    port = free_port()
    place.mkdir(parents=True, exist_ok=True)
    (place / "users").write_text(f"{USER}:{HASHED}\n")
    command = [BAZEL_REMOTE, "--dir", str(place / "data"), "--max_size", "1", "--http_address", f"127.0.0.1:{port}"]
    command += ["--grpc_address", "none", *(["--htpasswd_file", str(place / "users")] if locked else [])]
    with running(command, place, f"http://127.0.0.1:{port}/status", {200, 401}):
        yield f"http://127.0.0.1:{port}"


Trick = Callable[["Adversary", BaseHTTPRequestHandler], bool]
"""Answers a request in its own way, or says False: then it is answered as it should be."""


@dataclass
class Adversary:
    """Keeps what it is sent in memory."""

    address: str = ""
    kept: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    """Method and path of each request."""
    trick: Trick = lambda _server, _request: False
    stopped: threading.Event = field(default_factory=threading.Event)


@contextmanager
def adversary(trick: Trick = lambda _server, _request: False) -> Iterator[Adversary]:
    """A server that plays a trick."""
    found = Adversary(trick=trick)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            found.asked.append(f"{self.command} {self.path}")
            if found.trick(found, self):
                self.close_connection = True
                return
            if self.command == "PUT":
                found.kept[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
                respond(self, 201)
            else:
                body = found.kept.get(self.path)
                respond(self, 404 if body is None else 200, body or b"")

        do_GET = do_HEAD = do_PUT = answer  # noqa: N815 - the names that http.server calls

        def log_message(self, *values: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *values: object) -> None:
            """A client that hangs up is what is wanted here."""

    server = Server(("127.0.0.1", 0), Handler)
    found.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield found
    finally:
        found.stopped.set()
        server.shutdown()
        thread.join()
        server.server_close()


def respond(request: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    request.send_response(status)
    request.send_header("Content-Length", headers.pop("length", str(len(body))))
    for name, value in headers.items():
        request.send_header(name, value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)
