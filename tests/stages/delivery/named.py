"""BIND's server for tests: a primary on 127.0.0.1, a secondary on ::1, and whoever stands between, on one free port."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import dns.exception
import dns.message
import dns.query
import dns.rcode
import dns.tsig
import dns.update
import pytest

from pipeline.engines.local import free_port

NAMED = shutil.which("named", path="/usr/sbin:/usr/bin:/bin")


def _missing() -> str:
    """What this machine lacks; empty when nothing."""
    if NAMED is None:
        return "BIND is not installed (apt-get install bind9)"
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        return f"the secondary has no address of its own: ::1: {error.strerror}"
    return ""


needs_named = pytest.mark.skipif(bool(_missing()), reason=_missing())

ZONE, SECRET, STRANGER = "example.test", "c2VjcmV0IG9mIHRoZSBkZXBsb3ltZW50IGtleQ==", "c29tZWJvZHkgZWxzZSdzIHNlY3JldCBrZXkhIQ=="

PRIMARY, SECONDARY, BETWEEN = "127.0.0.1", "::1", "127.0.0.3"

RECORDS = """\
$TTL 300
@ SOA ns1 admin 7 1 1 3600 30
@ NS ns1
@ NS ns2
ns1 A 127.0.0.1
ns2 AAAA ::1
app A 192.0.2.1
other A 192.0.2.99
alias CNAME app
*.wild A 192.0.2.50
"""

CONFIG = """
key "deploy" {{ algorithm hmac-sha256; secret "{secret}"; }};
key "stranger" {{ algorithm hmac-sha256; secret "{stranger}"; }};
options {{
  directory "{place}"; listen-on port {port} {{ {four}; }}; listen-on-v6 port {port} {{ {six}; }};
  pid-file none; session-keyfile none; recursion no; dnssec-validation no;
  allow-transfer {{ any; }}; empty-zones-enable no; masterfile-format text;
}};
controls {{ }};
zone "{zone}" {{ {kind} }};
"""

FRESH = 'type primary; file "zone"; notify explicit; also-notify {{ ::1 port {port}; }}; notify-delay 0;'
SECOND = (
    'type secondary; file "zone"; primaries {{ 127.0.0.1 port {port}; }}; allow-notify {{ ::1; }}; '
    "min-refresh-time 1; max-refresh-time 1;"
)


@dataclass
class Named:
    """One server."""

    place: Path
    address: str
    port: int
    kind: str
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers. Raises AssertionError with its last words when it ends before that."""
        self.place.mkdir(exist_ok=True)
        config = CONFIG.format(
            place=self.place,
            port=self.port,
            zone=ZONE,
            secret=SECRET,
            stranger=STRANGER,
            kind=self.kind.format(port=self.port),
            four=self.address if self.address == PRIMARY else "none",
            six=self.address if self.address == SECONDARY else "none",
        )
        (self.place / "named.conf").write_text(config)
        log = self.place / "log"
        argv = [str(NAMED), "-f", "-n", "1", "-c", str(self.place / "named.conf"), "-L", str(log)]
        self.process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 30
        while self.answer(ZONE, "SOA") is None:
            assert self.process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def reload(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    def answer(self, name: str, kind: str = "A") -> list[str] | None:
        """The values of the records that it answers with, and their TTL in front; None where it does not."""
        try:
            answer = dns.query.udp(dns.message.make_query(name, kind), self.address, 0.2, self.port)
        except (OSError, dns.exception.DNSException):
            return None
        if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            return None
        return [f"{rrset.ttl} {one.to_text()}" for rrset in answer.answer for one in sorted(rrset)]

    def serial(self) -> int:
        found = self.answer(ZONE, "SOA")
        assert found
        return int(found[0].split()[3])


@dataclass
class Zone:
    """A zone on its two servers, and what somebody else does there."""

    primary: Named
    secondary: Named

    @property
    def port(self) -> int:
        return self.primary.port

    def put(self, name: str, value: str, kind: str = "A", ttl: int = 300) -> None:
        """Somebody else changes a name, whatever it was."""
        key = dns.tsig.Key("deploy", SECRET, "hmac-sha256")
        message = dns.update.UpdateMessage(ZONE, keyring=key)
        message.replace(f"{name}.", ttl, kind, value)
        assert dns.query.tcp(message, PRIMARY, 5, self.port).rcode() == dns.rcode.NOERROR


@contextlib.contextmanager
def zone(place: Path, kind: str) -> Iterator[Zone]:
    """Both servers, the primary being of a kind; what it needs besides is `allow-update`, or nothing."""
    for number in range(5):
        port = free_port()
        own = place / str(number)
        own.mkdir()
        found = Zone(
            Named(own / "primary", PRIMARY, port, FRESH + kind),
            Named(own / "secondary", SECONDARY, port, SECOND),
        )
        found.primary.place.mkdir()
        (found.primary.place / "zone").write_text(RECORDS)
        try:
            found.primary.start()
            found.secondary.start()
        except AssertionError:  # somebody else has taken the port, of TCP or UDP, on one of the addresses
            found.primary.stop()
            found.secondary.stop()
            if number == 4:
                raise
            continue
        try:
            yield found
        finally:
            found.primary.stop()
            found.secondary.stop()
        return


Meddle = Callable[[Callable[[], bytes]], bytes | None]
"""Given how an update is handed on, what comes back to who sent it; None: the connection is closed."""


@dataclass
class Between:
    """Hands messages on to the primary, and does with updates what it is told to, in turn; then hands them on too."""

    port: int
    meddles: list[Meddle] = field(default_factory=list)
    updates: int = 0
    _socket: socket.socket = field(init=False)

    def __enter__(self) -> Self:
        self._socket = socket.create_server((BETWEEN, self.port), backlog=16)
        self._socket.settimeout(0.1)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while not self._end.is_set():
            with contextlib.suppress(TimeoutError):
                connection, _ = self._socket.accept()
                with connection:
                    self._one(connection)

    def _one(self, connection: socket.socket) -> None:
        connection.settimeout(5)
        with connection.makefile("rb") as stream:
            head = stream.read(2)
            message = head + stream.read(int.from_bytes(head, "big"))

        def hand_on() -> bytes:
            with socket.create_connection((PRIMARY, self.port), 5) as to:
                to.sendall(message)
                with to.makefile("rb") as answers:
                    length = answers.read(2)
                    return length + answers.read(int.from_bytes(length, "big"))

        if (message[4] >> 3) & 15 != 5:  # RFC 2136 section 1.3: the opcode of an update
            with contextlib.suppress(ConnectionError):  # a primary that is gone: the connection is closed without an answer
                connection.sendall(hand_on())
            return
        self.updates += 1
        answer = self.meddles.pop(0)(hand_on) if self.meddles else hand_on()
        if answer is not None:
            connection.sendall(answer)
