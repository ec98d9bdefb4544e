"""Real clusters: a Dask scheduler and workers as processes of their own, with nginx as the cache between them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from pipeline import Journal, Pipeline, Project, Store, __version__
from pipeline.engine import Engine
from pipeline.engines.local import free_port
from pipeline.history import one
from pipeline.journal import Event
from pipeline.remote.access import Access, access
from pipeline.run import Outcome
from pipeline.settings import Settings
from pipeline.workers.cluster import Patience
from pipeline.workers.terms import Terms
from pipeline.workers.workers import Workers
from tests.running import run_pipeline
from tests.stages.registries import USER, WORD

ROOT = Path(__file__).parents[3]
LOGIN = {"PIPELINE_REMOTE_CACHE_USER": USER, "PIPELINE_REMOTE_CACHE_PASSWORD": WORD}
QUICK = Patience(connect=20, beat=0.1, silent=1.5, least=0.5)
"""For tests: what is lost is given up soon."""


def eventually(happened: Callable[[], Any], what: str) -> None:
    """Wait until something is so."""
    until = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < until, what
        time.sleep(0.02)


@dataclass
class Machine:
    """A worker with a directory of its own."""

    process: subprocess.Popen[bytes]
    home: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait(self) -> None:
        """Until it has joined."""
        eventually(lambda: b"Registered to" in (self.home / "log").read_bytes(), "a worker does not join")

    def runs(self, mark: Path) -> bool:
        """Whether a process below it was started with `mark` in its command."""
        return any(str(mark) in " ".join(_command(child)) for child in psutil.Process(self.pid).children(recursive=True))


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def left_running(mark: Path) -> list[int]:
    """Processes of this machine that were started with `mark` in their command."""
    return [
        process.pid
        for process in psutil.process_iter()
        if process.pid != os.getpid() and str(mark) in " ".join(_command(process))
    ]


@dataclass
class Cluster:
    """A scheduler, the workers that were started, and the cache they use."""

    address: str
    cache: str
    place: Path
    scheduler: subprocess.Popen[bytes]
    machines: list[Machine] = field(default_factory=list)

    def have(self, many: int) -> list[Machine]:
        """So many living workers; those that a test before did harm to are replaced."""
        self.machines = [one for one in self.machines if one.process.poll() is None]
        while len(self.machines) < many:
            self.machines.append(self._worker(self.place / f"worker-{time.monotonic_ns()}"))
        for machine in self.machines:
            machine.wait()
        return self.machines

    def _worker(self, home: Path) -> Machine:
        command = ["worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1"]
        return Machine(dask(*command, "--local-directory", str(home / "dask"), home=home), home)

    def end(self, machine: Machine) -> None:
        """Without asking: it may have been stopped."""
        machine.process.send_signal(signal.SIGKILL)
        machine.process.wait()

    def access(self) -> Access:
        return access(Settings(remote_cache=self.cache, remote_cache_write=True), LOGIN)


def dask(*words: str, home: Path) -> subprocess.Popen[bytes]:
    home.mkdir(parents=True)
    quiet = {"DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False"}  # it looks a hundred times a second, also at nothing
    env = {**os.environ, **LOGIN, **quiet, "PYTHONPATH": str(ROOT), "PIPELINE_HOME": str(home)}
    with (home / "log").open("wb") as log:
        return subprocess.Popen([sys.executable, "-m", "dask", *words], env=env, stdout=log, stderr=log, cwd=home)


@contextmanager
def cluster(place: Path, cache: str) -> Iterator[Cluster]:
    """A scheduler, ended with the workers that it has by then."""
    port = free_port()
    scheduler = dask("scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard", home=place / "scheduler")
    found = Cluster(f"tcp://127.0.0.1:{port}", cache, place, scheduler)
    try:
        eventually(lambda: b"Scheduler at" in (place / "scheduler" / "log").read_bytes(), "the scheduler does not start")
        yield found
    finally:
        for process in (*(one.process for one in found.machines), scheduler):
            process.kill()
            process.wait()


class Coordinator:
    """The machine on which runs are started."""

    def __init__(self, place: Path) -> None:
        (place / "project").mkdir(parents=True)
        (place / "home").mkdir()
        self.project = Project.at(place / "project", {"PIPELINE_HOME": str(place / "home")})
        self.store, self.journal = Store(place / "home" / "store"), Journal(place / "home" / "journal.db")
        self.run_id = ""

    def run(
        self,
        pipeline: Pipeline,
        on: Cluster | None,
        *,
        address: str = "",
        platform: str = "",
        again: frozenset[str] = frozenset(),
        patience: Patience = QUICK,
    ) -> tuple[Outcome, dict[str, Any]]:
        def workers(own: Engine, run: str) -> AbstractAsyncContextManager[Workers]:
            assert on is not None
            platform_ = platform or own.platform
            terms = Terms(version=__version__, engine="host", image="", platform=platform_, cache=on.cache)
            return Workers.open(
                address or on.address,
                on.access(),
                terms,
                run,
                own=own,
                store=self.store,
                journal=self.journal,
                cpu=2,
                patience=patience,
            )

        outcome, results = run_pipeline(
            pipeline, self.project, self.store, self.journal, workers=workers if on else None, again=again
        )
        self.run_id = outcome.run
        return outcome, results

    def events(self, kind: str) -> list[Event]:
        """Of the latest run."""
        return list(self.journal.events(self.run_id, kind=kind))

    def placed(self) -> dict[str, str]:
        """The worker that executed each stage's latest action in the latest run; empty: it was executed here."""
        return {event.stage: event.data.get("worker", "") for event in self.events("action.finished")}

    def states(self) -> dict[str, str]:
        history = one(self.journal, self.run_id)
        assert history is not None
        return {stage.name: stage.state for stage in history.stages.values()}
