"""Past one machine: what it costs to have an action executed by a worker, measured on two of them; and 1,000 engines, simulated.

Measured are chains of stages, each of which executes a command on the file that the one before left: on a real cluster of two
workers with nginx as the cache, and without a cluster. Everything else is a simulation (`benchmarks.fleet`) of a day with
1,000,000 actions; docs/scale.md says what is assumed.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from benchmarks.figure import Figure
from benchmarks.fleet import DAY, Day, Fleet, Policy, World, affinity, at_random, least_loaded
from pipeline import Action, Blob, Pipeline, Result, Stage, Work
from tests.pipeline.remote.servers import LOCKED, NGINX, Nginx, nginx
from tests.pipeline.workers.clusters import Cluster, Coordinator, cluster

EVENTS = 4
"""That a stage with one action journals."""


class File(Result):
    blob: Blob


class Step(Stage[File]):
    """A file of 1,000 bytes from that of the stage before."""

    number: int
    before: tuple[Stage[File], ...] = ()

    async def run(self, work: Work) -> File:
        inputs = {f"in/{number}": work[one].blob for number, one in enumerate(self.before)}
        script = f"head -c 996 /dev/zero >out && printf %04d {self.number} >>out"
        result = await work.execute(Action(argv=("sh", "-c", script), inputs=inputs, outputs=("out",)))
        return File(blob=result.require().output("out").blob)


class Case(NamedTuple):
    """One way to place the actions of a day."""

    name: str
    world: World
    policy: Policy
    look: float = 0.0
    """Seconds between one look of a run at the cluster and the next; 0: it always knows who is idle."""
    fleets: int = 1


def measure(*, steps: int = 60, engines: int = 1_000, actions: int = 1_000_000) -> Iterator[Figure]:
    yield from measured(steps)
    yield from simulated(engines, actions)


def measured(steps: int) -> Iterator[Figure]:
    if NGINX is None:
        yield Figure("an action on a worker", 0, "ms", detail="not measured: nginx is not installed")
        return
    with (
        tempfile.TemporaryDirectory(prefix="lockgate-bench-") as place,
        nginx(Path(place, "nginx"), LOCKED) as cache,
        cluster(Path(place, "cluster"), cache.address) as two,
    ):
        two.have(2)
        yield from compared(Path(place), two, cache, steps)


def compared(place: Path, two: Cluster, cache: Nginx, steps: int) -> Iterator[Figure]:
    taken(place / "warm", two, 2)
    here, _ = taken(place / "here", None, steps)
    before = len((cache.place / "requests").read_text().splitlines())
    there, processor = taken(place / "there", two, steps)
    requests = (len((cache.place / "requests").read_text().splitlines()) - before) / steps
    detail = f"{1e3 * there:.0f} ms, {1e3 * here:.0f} ms on this machine without them; all share its processors"
    yield Figure("what a worker adds to an action, one after another", 1e3 * (there - here), "ms", detail=detail)
    yield Figure(
        "processor time of the run's own process for such an action",
        1e3 * processor,
        "ms",
        detail="its engine's share is the workers'",
    )
    yield Figure("requests to the cache for an action with a file in and a file out", requests, "", detail="the log included")


def taken(place: Path, on: Cluster | None, steps: int) -> tuple[float, float]:
    """Seconds of wall time and of this process's for each stage of a chain."""
    chain: list[Step] = []
    for number in range(steps):
        chain.append(Step(number=number, before=tuple(chain[-1:])))
    machine = Coordinator(place)
    started, used = time.perf_counter(), time.process_time()
    outcome, _ = machine.run(Pipeline("chain", steps=tuple(chain)), on)
    wall, own = time.perf_counter() - started, time.process_time() - used
    if outcome.failed or (on and not all(machine.placed().values())):
        raise RuntimeError(f"not every action was executed where it should be: {outcome.failed or machine.placed()}")
    machine.journal.close()
    return wall / steps, own / steps


def simulated(engines: int, actions: int, fleets: int = 20) -> Iterator[Figure]:
    whole = World(engines=engines, actions=actions)
    part = replace(whole, engines=engines // fleets, actions=actions // fleets, projects=whole.projects // fleets)
    cases = [
        Case("any worker", whole, at_random),
        Case("an idle worker", whole, least_loaded),
        Case("affinity", whole, affinity),
        Case(f"affinity, seen {engines / 200:g} s ago", whole, affinity, engines / 200),
        Case(f"affinity, {fleets} clusters, seen 1 s ago", part, affinity, 1.0, fleets),
    ]
    with ProcessPoolExecutor(os.cpu_count()) as processes:
        found = [[processes.submit(played, case, seed) for seed in range(case.fleets)] for case in cases]
        for case, days in zip(cases, found, strict=True):
            yield from told(case, together([day.result() for day in days]), engines)


def played(case: Case, seed: int) -> Day:
    return Fleet(case.world, case.policy, look=case.look, seed=seed).play()


def together(days: list[Day]) -> Day:
    def added(name: str) -> list[int]:
        return [sum(hour) for hour in zip(*(getattr(day, name) for day in days), strict=True)]

    waits = [wait for day in days for wait in day.waits]
    busy = [sum(hour) for hour in zip(*(day.busy for day in days), strict=True)]
    return Day(waits, busy, added("moved"), added("requests"), added("begun"), max(day.ended for day in days))


def told(case: Case, day: Day, engines: int) -> Iterator[Figure]:
    name, count = f"simulated, {case.name}", len(day.waits)
    median, most = (day.waited(part) for part in (0.5, 0.99))
    waits = f"median {median:.2f} s, 99 of 100 {most:.1f} s, mean {statistics.fmean(day.waits):.2f} s"
    yield Figure(f"{name}: 95 of 100 actions wait at most", day.waited(0.95), "s", detail=waits)
    peak = f"{100 * max(day.busy) / 3600 / engines:.0f} % in the busiest hour"
    yield Figure(f"{name}: engines at work", 100 * sum(day.busy) / DAY / engines, "%", detail=peak)
    wire = f"{max(day.moved) * 8 / 3600 / 1e9:.1f} Gbit/s in the busiest hour"
    yield Figure(f"{name}: through the cache", sum(day.moved) / 1e12, "TB", detail=wire)
    yield Figure(
        f"{name}: requests a second", sum(day.requests) / DAY, "", detail=f"{max(day.requests) / 3600:,.0f} in the busiest hour"
    )
    events = f"{EVENTS * max(day.begun) / 3600:.0f} in the busiest hour, of all runs together"
    yield Figure(f"{name}: journal events a second", EVENTS * count / DAY, "", detail=events)
