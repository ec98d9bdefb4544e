"""Runs that are killed in the middle of a deployment: at every event of every strategy, at several moments after it.

Users ask all the time, of real routers and processes. After each kill the next run has to bring about one of two things: it
deploys the same release after all, or its verification fails and what served before serves again; by turns. A seed is how long
after the event, up to `LATEST` seconds, the process is killed.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from benchmarks.figure import Figure
from pipeline import Journal, Project, Store
from pipeline.engines.local import free_port, isolated_python
from pipeline.settings import Settings
from stages.delivery.down import down
from stages.delivery.local import LocalTarget
from stages.delivery.model import Deployment
from tests.running import run_pipeline
from tests.stages.delivery import small
from tests.stages.delivery.load import Load

EVENTS = {
    "blue-green": 14,
    "canary": 18,
    "rolling": 27,
    "recreate": 15,
    "envoy blue-green": 14,
    "envoy canary": 18,
    "envoy rolling": 27,
    "envoy shadow": 25,
}
"""How many events each rollout has at least, from that it is started to that its stage is finished."""

LATEST = 0.05
SERVE = Path(small.__file__).with_name("serve.py")


@dataclass
class Service:
    """One that is deployed again and again by one strategy."""

    project: Project
    store: Store
    journal: Journal
    target: LocalTarget
    port: int
    strategy: str
    wrong: list[str] = field(default_factory=list)
    """What was found that must not be."""

    @staticmethod
    def at(place: Path, strategy: str) -> Service:
        root, home = place / "project", place / "home"
        for directory in (root, home / "state" / "deploy" / "app"):
            directory.mkdir(parents=True)
        shutil.copy(SERVE, root)
        (root / "pyproject.toml").write_text("[project]\nname = 'small'\nversion = '1'\n")
        subprocess.run(["git", "init", "-q", root], check=True)
        store = Store(home / "store")
        target = LocalTarget(
            state=home / "state" / "deploy" / "app",
            store=store,
            python=isolated_python(home / "python"),
            secret=lambda name: name,
            patience=10.0,
        )
        project = Project(root=root, home=home, settings=Settings())
        return Service(project, store, Journal(home / "journal.db"), target, free_port(), strategy)

    def deploy(self, version: str, wanted: str) -> Deployment | None:
        """The deployment, if it stands."""
        pipeline = small.delivery(small.deployment(self.port, version, strategy=self.strategy), wanted)
        outcome, found = run_pipeline(pipeline, self.project, self.store, self.journal)
        return found["deploy"] if not outcome.failed else None

    def killed(self, version: str, event: int, after: float) -> bool:
        """Deploy in a process that is killed so many seconds after the event; False when it was done by then."""
        run = small.deploy_in_another_process(self.project, self.store, self.port, version, event, self.strategy, after)
        return run.wait() == -signal.SIGKILL

    def groups(self) -> set[str]:
        return set(anyio.run(self.target.groups)) | anyio.run(self.target.resting)

    def expect(self, what: str, *, holds: bool) -> None:
        if not holds:
            self.wrong.append(what)


def measure(*, seeds: int = 10, strategies: tuple[str, ...] = tuple(EVENTS), every: int = 1) -> Iterator[Figure]:
    """Killed at every so many-th event."""
    for strategy in strategies:
        with tempfile.TemporaryDirectory(prefix="lockgate-bench-") as place:
            service = Service.at(Path(place), strategy)
            try:
                yield from _killed(service, seeds, range(1, EVENTS[strategy] + 1, every))
            finally:
                service.journal.close()
                anyio.run(down, service.project)


def _killed(service: Service, seeds: int, events: range) -> Iterator[Figure]:
    draw, runs, ended = random.Random(service.strategy), 0, 0
    before = [service.deploy(version, version) for version in ("a", "b")][-1]
    assert before is not None
    version = "b"
    with Load(service.port, posts=False, pause=0.01) as load:
        for seed in range(seeds):
            for event in events:
                at = f"event {event}, seed {seed}"
                fresh = f"v{seed}-{event}"
                ended += not service.killed(fresh, event, draw.uniform(0, LATEST) if seed else 0.0)
                runs += 1
                load.more(5)
                stands = (seed + event) % 2 == 0
                after = service.deploy(fresh, fresh if stands else "something else")
                service.expect(f"{at}: the next run does not deploy", holds=(after is not None) == stands)
                if after is not None:
                    service.expect(f"{at}: the way back is lost", holds=after.previous == before.group)
                    before, version = after, fresh
                load.more(3)  # what was asked before has its answer
                load.answers.clear()
                load.more(5)
                service.expect(f"{at}: {set(load.answers)} serve, not {version}", holds=set(load.answers) == {version})
                kept = {before.group, before.previous}
                service.expect(f"{at}: {service.groups()} run, not {kept}", holds=before.group in service.groups() <= kept)
    lost = [failure for failure in load.failures if service.strategy != "recreate" or not failure.startswith("GET: 503")]
    name = f"{service.strategy}, killed {seeds} times at each of {len(events)} events"
    more = f"; {ended} had ended by then" if ended else ""
    detail = f"{runs} runs{more}" + "".join(f"; {one}" for one in lost[:2])
    yield Figure(f"{name}: requests that were lost", len(lost), "", 0, detail=detail)
    yield Figure(f"{name}: what is not as it should be", len(service.wrong), "", 0, detail="; ".join(service.wrong[:3]))
