"""Real registries on this machine, for tests: images by docker-registry, packages by pypiserver."""

from __future__ import annotations

import base64
import http.client
import json
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

from pipeline.engines.local import free_port

REGISTRY = shutil.which("docker-registry")
USER, WORD = "someone", "open-sesame"
HASHED = "$2b$04$Hn0tG6IhTMuhb0xhBB5XmeUAz8nYgtGqLb2PUqhaMS8FJ5MNzGNc."
"""WORD as the registry keeps it, by bcrypt."""


@contextmanager
def image_registry(place: Path, *, locked: bool = False) -> Iterator[str]:
    """A registry that keeps images below `place`; its host and port. `locked`: only USER with WORD is let in."""
    assert REGISTRY is not None
    port = free_port()
    place.mkdir()
    (place / "users").write_text(f"{USER}:{HASHED}\n")
    auth = f"auth: {{htpasswd: {{realm: here, path: {place}/users}}}}\n" if locked else ""
    (place / "config.yml").write_text(
        "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {place}/data}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n{auth}"
    )
    with running([REGISTRY, "serve", str(place / "config.yml")], place, f"http://127.0.0.1:{port}/v2/", {200, 401}):
        yield f"127.0.0.1:{port}"


@contextmanager
def package_index(place: Path) -> Iterator[str]:
    """An index that takes packages from anybody; its address."""
    port = free_port()
    (place / "packages").mkdir(parents=True)
    command = [sys.executable, "-m", "pypiserver", "run", "-i", "127.0.0.1", "-p", str(port), "-P", ".", "-a", "."]
    with running([*command, "--disable-fallback", str(place / "packages")], place, f"http://127.0.0.1:{port}/health", {200}):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def running(command: list[str], place: Path, address: str, ready: set[int]) -> Iterator[None]:
    """A server that answers, ended at the end."""
    with (place / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 30
        while status_of(address) not in ready:
            assert server.poll() is None, (place / "log").read_text()
            assert time.monotonic() < until, "the server does not answer"
            time.sleep(0.02)
        yield
    finally:
        server.terminate()
        server.wait(10)


def status_of(address: str) -> int:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(address, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return 0


class Gateway(BaseHTTPRequestHandler):
    """In front of a registry: lets those in who bring a token, and gives one for USER and WORD, as public registries do."""

    protocol_version = "HTTP/1.1"
    behind: ClassVar[str]
    scopes: ClassVar[list[str]]

    def forward(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.startswith("/token?"):
            self.token()
        elif self.headers.get("Authorization") != "Bearer a-token":
            here = self.headers["Host"]
            challenge = f'Bearer realm="http://{here}/token",service="here",scope="repository:team/app:pull,push"'
            self.answer(401, {"WWW-Authenticate": challenge}, b"")
        else:
            connection = http.client.HTTPConnection(self.behind, timeout=30)
            connection.request(self.command, self.path, data, dict(self.headers))
            found = connection.getresponse()
            self.answer(found.status, dict(found.getheaders()), found.read())
            connection.close()

    def token(self) -> None:
        known = base64.b64encode(f"{USER}:{WORD}".encode()).decode()
        good = self.headers.get("Authorization") == f"Basic {known}"
        self.scopes.append(self.path)
        self.answer(200 if good else 401, {}, json.dumps({"token": "a-token"}).encode() if good else b"")

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        kept = {key: value for key, value in headers.items() if key.lower() not in {"connection", "transfer-encoding", "date"}}
        for key, value in {"Content-Length": str(len(body)), **kept}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = forward  # noqa: N815 - the names http.server calls

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name http.server gives it
        """Say nothing: tests do not print."""


@contextmanager
def token_registry(place: Path) -> Iterator[tuple[str, list[str]]]:
    """A registry behind a gateway that wants tokens; its host and port, and the requests for tokens."""
    with image_registry(place) as behind:
        scopes: list[str] = []
        handler = type("Here", (Gateway,), {"behind": behind, "scopes": scopes})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}", scopes
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
