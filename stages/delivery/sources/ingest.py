"""The server that takes what users and browsers report: python -m stages.delivery.sources.ingest DIRECTORY HOST PORT.

POST /feedback {"group", "ok", "message"} and POST /errors {"group", "type", "message", "stack"}: answered with 201 once it is on
the disk. GET /stats?group=NAME: {"bad", "all", "refused"}. GET /errors: the groups of errors, with the releases in which each was
seen; with ?group=NAME those that were seen in this one alone. Standard library only: it outlives runs, and upgrades of libraries.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

from stages.delivery.sources.body import BadBody, body
from stages.delivery.sources.grouping import fingerprint, normalized
from stages.delivery.sources.listener import Listener

LARGEST = 64 << 10
"""Bytes of a report."""

RATE, BURST, RELEASES = 50.0, 500.0, 100
"""Reports that are taken of one release in a second, those that may come at once, and how many releases are counted."""

LISTED = 200
"""Groups of errors that are told at once."""

BUSY = 64
"""Connections at once."""

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")

SCHEMA = """
create table if not exists report (
  id integer primary key, at real not null, release text not null, bad integer not null, fingerprint text not null,
  title text not null, message text not null, stack text not null
) strict;
create index if not exists by_release on report (release, bad);
create index if not exists by_fingerprint on report (fingerprint, release);
create trigger if not exists kept before delete on report begin select raise(abort, 'reports are kept'); end;
create trigger if not exists unchanged before update on report begin select raise(abort, 'reports are not changed'); end;
"""


class Refused(Exception):
    """Why a report is not taken."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True)
class Report:
    """One report of a release. `fingerprint` and `title` are those of the group of an error; empty for feedback."""

    release: str
    bad: bool
    message: str
    fingerprint: str = ""
    title: str = ""
    stack: str = ""


def parsed(path: str, content: bytes) -> Report:
    """What was posted. Raises Refused."""
    try:
        found: Any = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "it is no JSON") from error
    if not isinstance(found, dict) or not NAME.fullmatch(str(found.get("group", ""))):
        raise Refused(400, 'an object with "group", the value of RELEASE_GROUP, is wanted')
    texts = {name: found.get(name, "") for name in ("type", "message", "stack")}
    if not all(isinstance(text, str) and _whole(text) for text in texts.values()):
        raise Refused(400, '"type", "message" and "stack" are texts')
    if path == "/feedback":
        if not isinstance(found.get("ok"), bool):
            raise Refused(400, '"ok" is true or false')
        return Report(found["group"], not found["ok"], texts["message"])
    if path == "/errors":
        if not texts["type"] and not texts["message"]:
            raise Refused(400, 'an error has a "type" or a "message"')
        name = fingerprint(texts["type"], texts["message"], texts["stack"])
        title = f"{texts['type']}: {normalized(texts['message'])}".strip(": ")[:200]
        return Report(found["group"], True, texts["message"], name, title, texts["stack"])
    raise Refused(404, "POST /feedback or /errors")


def _whole(text: str) -> bool:
    """Whether it is a text that can be written: JSON can name halves of characters (surrogates)."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


@dataclass
class Bucket:
    """How many reports of a release may still be taken: it fills with time (a token bucket)."""

    left: float = BURST
    at: float = 0.0
    refused: int = 0

    def full(self, now: float) -> bool:
        """Whether one that is new could take no more."""
        return self.left + RATE * (now - self.at) >= BURST

    def take(self, now: float) -> bool:
        self.left = min(BURST, self.left + RATE * (now - self.at)) if self.at else BURST
        self.at = now
        if self.left < 1:
            self.refused += 1
            return False
        self.left -= 1
        return True


@dataclass
class Reports:
    """All reports ever taken, in a database below `place`. Written by one process; each is on the disk when `add` returns."""

    place: Path
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _buckets: dict[str, Bucket] = field(default_factory=dict)
    _turned_away: int = 0
    """Reports that nobody knows the share of: each may have been one of any release."""
    _database: sqlite3.Connection = field(init=False)

    def __post_init__(self) -> None:
        self._database = sqlite3.connect(self.place / "reports.db", isolation_level=None, check_same_thread=False)
        self._database.execute("pragma journal_mode = wal")
        self._database.execute("pragma synchronous = full")
        self._database.executescript(SCHEMA)

    def add(self, one: Report) -> None:
        """Raises Refused for more of one release than are taken."""
        with self._lock:
            if not self._bucket(one.release, time.monotonic()).take(time.monotonic()):
                raise Refused(429, "too many reports of this release")
            self._database.execute(
                "insert into report (at, release, bad, fingerprint, title, message, stack) values (?, ?, ?, ?, ?, ?, ?)",
                (time.time(), one.release, one.bad, one.fingerprint, one.title, one.message, one.stack),
            )

    def _bucket(self, release: str, now: float) -> Bucket:
        """That of a release; those that are full again make room. Raises Refused where none does."""
        if release not in self._buckets:
            if len(self._buckets) >= RELEASES:
                self._buckets = {name: one for name, one in self._buckets.items() if one.refused or not one.full(now)}
            if len(self._buckets) >= RELEASES:
                self._turned_away += 1
                raise Refused(429, "too many releases")
            self._buckets[release] = Bucket()
        return self._buckets[release]

    def stats(self, release: str) -> dict[str, int]:
        with self._lock:
            bad, every = self._database.execute(
                "select coalesce(sum(bad), 0), count(*) from report where release = ?", (release,)
            ).fetchone()
            bucket = self._buckets.get(release)
            return {"bad": bad, "all": every, "refused": self._turned_away + (bucket.refused if bucket else 0)}

    def errors(self) -> list[dict[str, Any]]:
        """The groups of errors, the newest first, with how often each was reported of which release."""
        with self._lock:
            rows = self._database.execute(
                "select fingerprint, max(title), release, count(*), min(at) from report where fingerprint <> '' "
                "group by fingerprint, release"
            ).fetchall()
        found: dict[str, dict[str, Any]] = {}
        for name, title, release, count, first in rows:
            one = found.setdefault(name, {"fingerprint": name, "title": title, "releases": {}, "first": first})
            one["releases"][release] = count
            one["first"] = min(one["first"], first)
        return sorted(found.values(), key=lambda one: -one["first"])[:LISTED]

    def new_errors(self, release: str) -> list[dict[str, Any]]:
        """The groups of errors that were reported of this release and of no other, the most frequent first."""
        with self._lock:
            rows = self._database.execute(
                "select fingerprint, max(title), count(*) from report as one where release = ? and fingerprint <> '' "
                "and not exists (select 1 from report where fingerprint = one.fingerprint and release <> one.release) "
                "group by fingerprint order by count(*) desc, fingerprint limit ?",
                (release, LISTED),
            ).fetchall()
        return [{"fingerprint": name, "title": title, "count": count} for name, title, count in rows]

    def close(self) -> None:
        with self._lock:
            self._database.close()


class Server(Listener):
    """A thread for each connection, and no more than `BUSY` of them: who comes then is sent away."""

    request_queue_size = 128

    def __init__(self, address: tuple[str, int], reports: Reports) -> None:
        super().__init__(address, Handler)
        self.reports, self._free = reports, threading.BoundedSemaphore(BUSY)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    timeout = 10

    @property
    def _reports(self) -> Reports:
        return cast("Server", self.server).reports

    def do_POST(self) -> None:
        self._answered(self._taken)

    def do_GET(self) -> None:
        self._answered(self._asked)

    def _taken(self) -> tuple[int, object]:
        if self.headers.get_content_type() != "application/json":
            raise Refused(415, "Content-Type: application/json")  # pages of strangers cannot send that unasked
        self._reports.add(parsed(urlsplit(self.path).path, body(self.headers, self.rfile, LARGEST)))
        return 201, {}

    def _asked(self) -> tuple[int, object]:
        address = urlsplit(self.path)
        group = parse_qs(address.query).get("group", [""])[0]
        match address.path:
            case "/stats" if group:
                return 200, self._reports.stats(group)
            case "/errors" if group:
                return 200, self._reports.new_errors(group)
            case "/errors":
                return 200, self._reports.errors()
            case _:
                raise Refused(404, "GET /stats?group=NAME or /errors")

    def _answered(self, done: Callable[[], tuple[int, object]]) -> None:
        try:
            status, found = done()
        except (Refused, BadBody) as error:
            status, found = error.status, {"error": str(error)}
            self.close_connection = True  # its body may be unread
        except sqlite3.Error as error:
            status, found = 503, {"error": f"it could not be written: {error}"}
        text = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        if self.close_connection:
            self.send_header("Connection", "close")
        if status == 429:
            self.send_header("Retry-After", "5")
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Requests are not logged: reports are kept."""


def main(place: str, host: str, port: str) -> int:
    reports = Reports(Path(place))
    with contextlib.closing(reports), Server((host, int(port)), reports) as server:
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
        server.serve_forever(0.1)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
