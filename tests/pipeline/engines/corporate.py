"""A corporate network on this machine: a proxy, a certificate authority of one's own, and a package index behind both."""

from __future__ import annotations

import contextlib
import hashlib
import select
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

INDEX = "packages.corporate.invalid"
"""The name of the index: no name server knows it, only the proxy does."""


class Authority:
    """A private certificate authority below `place`; `certificate` is what its users have to trust."""

    def __init__(self, place: Path) -> None:
        program = shutil.which("openssl")
        if program is None:
            pytest.skip("no openssl program is on PATH to make a certificate authority")
        place.mkdir()
        self._place, self._openssl = place, program
        self.certificate = place / "authority.pem"
        self._make("authority", "basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign")

    def server(self, name: str) -> ssl.SSLContext:
        """What a server of this name needs to be believed by those who trust the authority."""
        signed = ("-CA", str(self.certificate), "-CAkey", str(self._place / "authority.key"))
        self._make(name, "basicConstraints=critical,CA:FALSE", f"subjectAltName=DNS:{name}", more=signed)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._place / f"{name}.pem", self._place / f"{name}.key")
        return context

    def _make(self, name: str, *extensions: str, more: tuple[str, ...] = ()) -> None:
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-keyout", str(self._place / f"{name}.key"))
        said = [word for extension in extensions for word in ("-addext", extension)]
        empty = self._place / "openssl.cnf"  # the system's own file would add extensions
        empty.write_text("[req]\ndistinguished_name = name\n[name]\n")
        subject = ("-subj", f"/CN={name}", "-days", "2", "-config", str(empty))
        command = [self._openssl, "req", "-x509", *key, *subject, *said, *more, "-out", str(self._place / f"{name}.pem")]
        subprocess.run(command, check=True, capture_output=True)


class Proxy(socketserver.ThreadingTCPServer):
    """An HTTP proxy that lets CONNECT through to the places it knows, by name."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, listen: str, known: dict[str, tuple[str, int]]) -> None:
        super().__init__((listen, 0), Tunnel)
        self.known, self._asked = known, list[str]()

    def note(self, place: str) -> None:
        self._asked.append(place)

    def asked(self) -> set[str]:
        """Every place that was asked for; not what Dagger's own program looks for at home (updates, statistics)."""
        return {place for place in self._asked if not place.split(":")[0].endswith((".dagger.io", ".dagger.cloud"))}


class Tunnel(socketserver.StreamRequestHandler):
    server: Proxy

    def handle(self) -> None:
        request = self.rfile.readline().decode()
        if not request:
            return  # somebody only looked whether there is a proxy
        place = request.split(" ")[1]
        while self.rfile.readline().strip():
            pass
        self.server.note(place)
        if place not in self.server.known:
            self.wfile.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        with socket.create_connection(self.server.known[place]) as there:
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                pass_on(self.connection, there)


def pass_on(one: socket.socket, other: socket.socket) -> None:
    """Bytes both ways, until either side has no more."""
    while True:
        for ready in select.select([one, other], [], [])[0]:
            piece = ready.recv(1 << 16)
            if not piece:
                return
            (other if ready is one else one).sendall(piece)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        return


@contextmanager
def served(server: socketserver.BaseServer) -> Iterator[None]:
    """A server that answers in a thread of this process."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def index(authority: Authority, packages: Path) -> Iterator[tuple[str, int]]:
    """A package index over TLS on loopback: `packages` as files, as PEP 503 allows; where it listens."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=packages))
    server.socket = authority.server(INDEX).wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    with served(server):
        yield "127.0.0.1", server.server_port


def write_packages(packages: Path) -> str:
    """An index with one page and one wheel, the smallest there is; its line in a lock."""
    page = packages / "simple" / "parcel"
    page.mkdir(parents=True)
    wheel = page / "parcel-1.0-py3-none-any.whl"
    (page / "index.html").write_text(f'<!DOCTYPE html><html><body><a href="{wheel.name}">{wheel.name}</a></body></html>')
    info = "parcel-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("parcel.py", "INSIDE = 'arrived'\n")
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: parcel\nVersion: 1.0\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", f"parcel.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return f"parcel==1.0 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"
