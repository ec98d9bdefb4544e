"""What is killed in the middle of a deployment: its run, at every event and several moments after it; its router; an instance.

Users ask all the time, of real routers and processes. After each kill the next run has to bring about one of two things: it
deploys the same release after all, or its verification fails and what served before serves again; by turns. A seed is how long
after the event, up to `LATEST` seconds, the process is killed.

A router that is killed serves nobody until the rollout starts it again; the rollout has to go on, or back, and to end whole.
So it has to where an instance is killed, of the new release or of the one that serves, by turns; others of it have to answer
whoever was with that one.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import anyio

from benchmarks.figure import Figure
from pipeline import Journal, Project, Store
from pipeline.engines.local import free_port
from pipeline.journal import Event
from pipeline.settings import Settings
from stages.delivery import process
from stages.delivery.down import down
from stages.delivery.local import LocalTarget
from stages.delivery.model import Deployment
from tests.running import run_pipeline
from tests.stages.delivery import small
from tests.stages.delivery.load import Load
from tests.stages.delivery.place import local_target

EVENTS = {
    "blue-green": 15,
    "canary": 20,
    "rolling": 27,
    "recreate": 20,
    "envoy blue-green": 15,
    "envoy canary": 20,
    "envoy rolling": 27,
    "envoy shadow": 26,
}
"""How many events a rollout has where an older release is to be ended too, from that it is started to that its stage is finished.

Where there is none it has four less. Looks of a judge are not counted: the moments after what comes before them are among them.
"""

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
    left: int = 0
    """Events until something is killed beside the run; 0: nothing is."""
    kill: Callable[[], object] = lambda: None
    """What is killed then."""
    group: str = ""
    """What was rolled out last."""
    killed_instances: int = 0

    @staticmethod
    def at(place: Path, strategy: str) -> Service:
        root, home, store = place / "project", place / "home", Store(place / "home" / "store")
        root.mkdir()
        home.mkdir()
        shutil.copy(SERVE, root)
        (root / "pyproject.toml").write_text("[project]\nname = 'small'\nversion = '1'\n")
        subprocess.run(["git", "init", "-q", root], check=True)
        project = Project(root=root, home=home, settings=Settings())
        target = local_target(project, store)
        return Service(project, store, Journal(home / "journal.db"), target, free_port(), strategy)

    def deploy(self, version: str, wanted: str) -> Deployment | None:
        """The deployment, if it stands."""
        pipeline = small.delivery(small.deployment(self.port, version, strategy=self.strategy), wanted)
        outcome, found = run_pipeline(pipeline, self.project, self.store, self.journal)
        return found["deploy"] if not outcome.failed else None

    def killed(self, version: str, event: int, after: float) -> bool:
        """Deploy in a process that is killed so many seconds after the event; False when it had deployed by then."""
        run = small.deploy_in_another_process(self.project, self.store, self.port, version, event, self.strategy, after)
        code = run.wait()
        self.expect(f"event {event} of {version}: exit code {code}: {run.output}", holds=code in (0, -signal.SIGKILL))
        return code == -signal.SIGKILL

    def see(self, event: Event) -> None:
        """Kill what is to be killed as soon as so many events of a rollout are written as was asked for."""
        if event.kind == "rollout.started":
            self.group = event.data["group"]
        if small.counts(event) and self.left:
            self.left -= 1
            if not self.left:
                self.kill()

    def kill_router(self) -> None:
        for one in list(process.running(f"{self.project.home / 'state' / 'router' / 'app'}:")):
            os.kill(one.pid, signal.SIGKILL)

    def kill_instance(self, serving: str, *, new: bool) -> None:
        """One of the new release or of the one that serves; of the other where nobody of the same were left."""
        for group in (self.group, serving) if new else (serving, self.group):
            running = list(process.running(f"{self.target.state}:{group}:"))
            if len(running) > 1:
                os.kill(running[0].pid, signal.SIGKILL)
                self.killed_instances += 1
                return

    def groups(self) -> set[str]:
        return set(anyio.run(self.target.groups)) | anyio.run(self.target.resting)

    def expect(self, what: str, *, holds: bool) -> None:
        if not holds:
            self.wrong.append(what)

    def expect_whole(self, at: str, load: Load, version: str, serving: Deployment) -> None:
        """That version alone answers, and besides its group no more than one runs, for the way back."""
        load.answers.clear()
        load.more(5)
        self.expect(f"{at}: {set(load.answers)} serve, not {version}", holds=set(load.answers) == {version})
        found = self.groups()
        self.expect(f"{at}: {found} run", holds=serving.group in found and len(found) <= 2)


def measure(*, seeds: int = 10, strategies: tuple[str, ...] = tuple(EVENTS), every: int = 1) -> Iterator[Figure]:
    """Killed at every so many-th event, of two strategies at a time: most of it is waiting."""
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        for figures in pool.map(partial(_measured, seeds, every), strategies):
            yield from figures


def _measured(seeds: int, every: int, strategy: str) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="lockgate-bench-") as place:
        service = Service.at(Path(place), strategy)
        try:
            events = range(1, EVENTS[strategy] + 1, every)
            service.deploy("a", "a")
            return [*_killed(service, seeds, events), _without_router(service, events), *_without_instance(service, events)]
        finally:
            service.journal.close()
            anyio.run(down, service.project)


def _killed(service: Service, seeds: int, events: range) -> Iterator[Figure]:
    draw, runs, ended, stood = random.Random(service.strategy), 0, 0, 0
    version = "b"
    with Load(service.port, posts=False, pause=0.01) as load:  # who judges needs users
        before = service.deploy(version, version)
        assert before is not None
        for seed in range(seeds):
            for event in events:
                at = f"event {event}, seed {seed}"
                fresh = f"v{seed}-{event}"
                ended += not service.killed(fresh, event, draw.uniform(0, LATEST) if seed else 0.0)
                runs += 1
                load.more(5)
                stands = (seed + event) % 2 == 0
                stood += stands
                after = service.deploy(fresh, fresh if stands else "something else")
                service.expect(f"{at}: the next run does not deploy", holds=(after is not None) == stands)
                if after is not None:
                    service.expect(f"{at}: the way back is lost", holds=after.previous == before.group)
                    before, version = after, fresh
                load.more(3)  # what was asked before has its answer
                service.expect_whole(at, load, version, before)
    lost = _lost(service, load)
    name = f"{service.strategy}, killed {seeds} times at each of {len(events)} events"
    more = f"; {ended} had ended by then" if ended else ""
    service.expect(f"{stood} of {runs} next runs were to stand", holds=0 < stood < runs or runs < 2)
    service.expect(f"only {runs - ended} of {runs} runs were killed", holds=ended <= runs // 4)
    detail = f"{runs - ended} runs{more}" + "".join(f"; {one}" for one in lost[:2])
    yield Figure(f"{name}: requests that were lost", len(lost), "", 0, detail=detail)
    yield Figure(f"{name}: what is not as it should be", len(service.wrong), "", 0, detail="; ".join(service.wrong[:3]))


def _without_router(service: Service, events: range) -> Figure:
    service.wrong.clear()
    version, went_on = "r", 0
    with Load(service.port, posts=False, pause=0.01) as load:
        before = service.deploy(version, version)
        assert before is not None
        service.journal.listen(service.see)
        service.kill = service.kill_router
        for event in events:
            fresh = f"r{event}"
            service.left = event
            after = service.deploy(fresh, fresh)
            service.left = 0
            if after is not None:
                version, before, went_on = fresh, after, went_on + 1
            failed = len(load.failures)
            service.expect_whole(f"event {event}", load, version, before)
            service.expect(f"event {event}: {load.failures[-1:]}", holds=len(load.failures) == failed)
    name = f"{service.strategy}, its router killed at each of {len(events)} events: what is not as it should be"
    detail = f"{went_on} rollouts went on, the others back; {len(load.failures):,} requests failed while there was no router"
    return Figure(name, len(service.wrong), "", 0, detail="; ".join([detail, *service.wrong[:3]]))


def _without_instance(service: Service, events: range) -> Iterator[Figure]:
    """After the router's: the service is the same, and its journal is listened to."""
    service.wrong.clear()
    went_on = 0
    with Load(service.port, posts=False, pause=0.01) as load:
        for event in events:
            whole, fresh = f"w{event}", f"i{event}"
            before = service.deploy(whole, whole)
            assert before is not None
            service.left = event
            service.kill = partial(service.kill_instance, before.group, new=event % 2 == 1)
            after = service.deploy(fresh, fresh)
            service.left = 0
            went_on += after is not None
            service.expect_whole(f"event {event}", load, fresh if after else whole, after or before)
    lost, killed = _lost(service, load), service.killed_instances
    service.expect(f"only {killed} of {len(events)} instances were killed", holds=killed >= len(events) * 3 // 4)
    name = f"{service.strategy}, an instance killed at each of {len(events)} events"
    detail = f"{killed} were killed; {went_on} rollouts went on, the others back" + "".join(f"; {one}" for one in lost[:2])
    yield Figure(f"{name}: requests that were lost", len(lost), "", 0, detail=detail)
    yield Figure(f"{name}: what is not as it should be", len(service.wrong), "", 0, detail="; ".join(service.wrong[:3]))


def _lost(service: Service, load: Load) -> list[str]:
    """What failed that was promised not to: while something is recreated, users get the router's page."""
    return [failure for failure in load.failures if service.strategy != "recreate" or not failure.startswith("GET: 503")]
