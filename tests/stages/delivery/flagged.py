"""A service that reads its flags through OpenFeature's own provider, and counts what was asked with each variant.

FAILS: one in so many requests of users who have the new detector is answered with 500. `/?user=` says whether they have it;
`/stats?group=` how much was asked with a variant and how much of that failed. As a program, `main`: a run that is killed.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from gates.judge import ErrorRate, Judge
from pipeline import Journal, Pipeline, Project, Stage, Store
from pipeline.journal import Event
from pipeline.settings import Settings
from stages.delivery.flag_rollout import RolloutFlag
from stages.delivery.live_flags import LiveFlags
from stages.delivery.sources.http import HttpShare
from stages.delivery.strategy import Canary
from stages.source import WorkingCopy
from tests.running import run_pipeline
from tests.stages.served import Deployed
from tests.web import get

PROGRAM = """
import http.server, itertools, json, os, threading, urllib.parse
from openfeature import api
from openfeature.contrib.provider.flagd import FlagdProvider
from openfeature.evaluation_context import EvaluationContext

api.set_provider_and_wait(FlagdProvider())
client = api.get_client()
lock, counted = threading.Lock(), {name: {"all": 0, "bad": 0} for name in ("on", "off")}

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        about = dict(urllib.parse.parse_qsl(url.query))
        if url.path == "/stats":
            with lock:
                return self.answer(200, json.dumps(counted[about["group"]]))
        found = client.get_boolean_details("new-detector", False, EvaluationContext(about.get("user", ""), about))
        every = int(os.environ.get("FAILS", "0")) if found.variant == "on" else 0
        with lock:
            own = counted[found.variant]
            own["all"] += "user" in about and "quiet" not in about
            bad = bool(every) and own["all"] % every == 0
            own["bad"] += bad
        self.answer(500 if bad else 200, found.variant)

    def answer(self, status, text):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *values):
        pass

http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""

SURE = Judge(measures=(ErrorRate(budget=0.2),), beta=0.2, warm_up=0, floor=10, at_least=0, at_most=60)
"""A judge that is soon sure of a variant that never fails."""

KEY = {"cat": [{"var": "$flagd.flagKey"}, {"var": "targetingKey"}]}


def flags(on: int = 0, **more: Any) -> dict[str, Any]:
    """A flag that is on for so many percent of users, and for all of one site."""
    shares = {"fractional": [KEY, ["on", on], ["off", 100 - on]]}
    flag = {
        "state": "ENABLED",
        "variants": {"on": True, "off": False},
        "defaultVariant": "off",
        "targeting": {"if": [{"==": [{"var": "site"}, "hall"]}, "on", shares]},
    }
    return {"flags": {"new-detector": {**flag, **more}}}


def ask(connection: http.client.HTTPConnection, **about: str) -> str:
    """What the service answers. So many ask that a client which does more would be most of what these tests take."""
    connection.request("GET", f"/?{urllib.parse.urlencode(about)}")
    return connection.getresponse().read().decode()


@dataclass
class Service:
    """The service as it runs."""

    port: int
    process: subprocess.Popen[bytes]

    def on(self, users: int = 200, **about: str) -> set[str]:
        """The users for whom the flag is on; asking is counted nowhere."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            asked = [f"u{number}" for number in range(users)]
            return {user for user in asked if ask(connection, user=user, quiet="1", **about) == "on"}

    def until(self, percent: int, users: int = 200) -> set[str]:
        """The users for whom it is on, as soon as all or none have it, or somebody but not all."""
        end = time.monotonic() + 30
        while True:
            found = self.on(users)
            if (len(found) == users * percent // 100) if percent in (0, 100) else 0 < len(found) < users:
                return found
            assert time.monotonic() < end, len(found)
            time.sleep(0.05)


@contextmanager
def service(site: Path, file: Path, port: int, **env: str) -> Iterator[Service]:
    about = {
        "PYTHONPATH": str(site),
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "FLAGD_RESOLVER": "file",
        "FLAGD_OFFLINE_POLL_MS": "50",
        "FLAGD_OFFLINE_FLAG_SOURCE_PATH": str(file),
    }
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], env={"PATH": os.defpath, **about, **env})
    try:
        end = time.monotonic() + 30
        while True:
            assert process.poll() is None
            assert time.monotonic() < end
            try:
                get(f"http://127.0.0.1:{port}/")
            except httpx.HTTPError:
                time.sleep(0.05)
                continue
            break
        yield Service(port, process)
    finally:
        process.kill()
        process.wait()


@contextmanager
def users(port: int, many: int = 300) -> Iterator[None]:
    """They come one after the other, again and again, and every one has a name."""
    end = threading.Event()

    def come(first: int) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
            number = first
            while not end.wait(0.005):
                ask(connection, user=f"u{number % many}")
                number += 2

    threads = [threading.Thread(target=come, args=(first,)) for first in (0, 1)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        end.set()
        for thread in threads:
            thread.join()


def live() -> LiveFlags:
    return LiveFlags(source=WorkingCopy(include=("flags.json",)), name="app")


def requests(port: int) -> HttpShare:
    return HttpShare(name="requests", url=f"http://127.0.0.1:{port}/stats?group={{group}}", of="/all", bad="/bad", every=0.05)


def rollout(port: int, *shares: int, judge: Judge = SURE, **more: Any) -> RolloutFlag:
    about = {"flag": "new-detector", "variant": "on", **more}
    return RolloutFlag(
        flags=live(),
        deployment=Deployed(port=port),
        requests=requests(port),
        strategy=Canary(shares=(*shares, 100), judge=judge, tick=0.1),
        **about,
    )


def delivery(stage: RolloutFlag, **more: Stage[Any]) -> Pipeline:
    return Pipeline("flagged", source=stage.flags.source, flags=stage.flags, deploy=stage.deployment, ramp=stage, **more)


KILLED = "import sys; from tests.stages.delivery.flagged import main; sys.exit(main(*sys.argv[1:]))"


def main(root: str, home: str, store: str, port: str, die_at: str) -> int:
    """A run that is killed at the event of that number of its rollout."""
    project = Project(root=Path(root), home=Path(home), settings=Settings())
    journal = Journal(project.home / "journal.db")
    seen: list[str] = []

    def die(event: Event) -> None:
        if event.kind.startswith("rollout.") and event.kind != "rollout.looked":
            seen.append(event.kind)
            if len(seen) == int(die_at):
                os.kill(os.getpid(), signal.SIGKILL)

    journal.listen(die)
    outcome = run_pipeline(delivery(rollout(int(port), 10, 50)), project, Store(Path(store)), journal)[0]
    print(json.dumps(outcome.failed))
    return int(outcome.exit)
