"""How long runs take by the order of work that Lockgate chooses: its own `Schedule`, driven by a clock that is only a number.

Each of 200 graphs of four shapes is run by 2, 8 and 32 workers. How long that takes is held against the weaker of what no
order can beat (the longest way, and all the work shared by all workers) and the best of three rules of list scheduling, which
are written anew here: the longest way to the end first (HLFET), the longest task first (LPT), most tasks below it first.
"""

from __future__ import annotations

import heapq
import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.figure import Figure
from benchmarks.graph import SHAPES, Graph, below
from pipeline import Pipeline, Result, Stage, Work
from pipeline.schedule import Capacity, Schedule, priorities

WORKERS = (2, 8, 32)


class Done(Result):
    pass


class Task(Stage[Done]):
    number: int
    inputs: tuple[Stage[Done], ...] = ()

    async def run(self, work: Work) -> Done:
        return Done()


@dataclass(frozen=True)
class Case:
    """A graph and the seconds each of its tasks takes."""

    graph: Graph
    seconds: tuple[float, ...]


Timetable = Mapping[int, tuple[float, float]]
"""When each task starts and ends."""


def measure(*, graphs: int = 200, workers: Sequence[int] = WORKERS) -> Iterator[Figure]:
    known, first, bounds = [], [], []
    for seed in range(graphs):
        one = case(seed)
        pipeline = pipeline_of(one.graph)
        for many in workers:
            bound = lower_bound(one, many)
            allowed = max(bound, min(makespan(listed(one, rule, many)) for rule in rules(one)))
            known.append(makespan(scheduled(pipeline, one, many)) / allowed)
            first.append(makespan(scheduled(pipeline, one, many, measured=False)) / allowed)
            bounds.append(known[-1] * allowed / bound)
    name = "longest makespan against the best of three rules of list scheduling"
    detail = f"{within(known)} within 5 %; against the lower bound {statistics.mean(bounds):.3f} x in the mean"
    yield Figure(name, max(known), "x", 1.05, detail=detail)
    detail = f"{within(first)} within 5 %; nothing is known yet of how long a stage takes, and the rules know it"
    yield Figure("the same in the first run of a pipeline", max(first), "x", detail=detail)


def within(ratios: list[float]) -> str:
    return f"{sum(ratio <= 1.05 for ratio in ratios)} of {len(ratios)}"


def case(seed: int) -> Case:
    """A graph of 20 to 150 tasks; most tasks are short and a few very long, as stages are."""
    rng = random.Random(seed)
    graph = SHAPES[seed % len(SHAPES)](rng.randint(20, 150), rng)
    return Case(graph, tuple(rng.lognormvariate(0, 1) for _ in graph))


def pipeline_of(graph: Graph) -> Pipeline:
    tasks: list[Task] = []
    for number, inputs in enumerate(graph):
        tasks.append(Task(number=number, inputs=tuple(tasks[one] for one in inputs)))
    return Pipeline("tasks", tasks=tuple(tasks))


def scheduled(pipeline: Pipeline, one: Case, workers: int, *, measured: bool = True) -> Timetable:
    """The tasks in the order that Lockgate chooses; `measured`: how long each takes is known from an earlier run."""
    stages: dict[Stage[Any], int] = {stage: stage.number for stage in pipeline if isinstance(stage, Task)}
    seconds = {pipeline.name_of(stage): one.seconds[number] for stage, number in stages.items()} if measured else {}
    wanted = frozenset(stages)
    priority = priorities(pipeline, wanted, seconds)
    schedule = Schedule(pipeline=pipeline, wanted=wanted, capacity=Capacity(cpu=workers), priority=priority)
    clock, table, running = 0.0, dict[int, tuple[float, float]](), list[tuple[float, int, Stage[Done]]]()
    while True:
        while (stage := schedule.take()) is not None:
            number = stages[stage]
            table[number] = clock, clock + one.seconds[number]
            heapq.heappush(running, (table[number][1], number, stage))
        if not running:
            return table
        clock, _, stage = heapq.heappop(running)
        schedule.give_back(stage)
        schedule.settle(stage)


def listed(one: Case, rank: Sequence[float], workers: int) -> Timetable:
    """List scheduling: whenever a worker is free it takes the ready task of the highest rank."""
    missing, users = [len(inputs) for inputs in one.graph], below(one.graph)
    ready = [(-rank[number], number) for number, many in enumerate(missing) if not many]
    heapq.heapify(ready)
    clock, table, running = 0.0, dict[int, tuple[float, float]](), list[tuple[float, int]]()
    while ready or running:
        while ready and len(running) < workers:
            _, number = heapq.heappop(ready)
            table[number] = clock, clock + one.seconds[number]
            heapq.heappush(running, (table[number][1], number))
        clock, number = heapq.heappop(running)
        for user in users[number]:
            missing[user] -= 1
            if not missing[user]:
                heapq.heappush(ready, (-rank[user], user))
    return table


def rules(one: Case) -> tuple[Sequence[float], ...]:
    """The ranks by the three rules."""
    return ways(one), one.seconds, [len(users) for users in below(one.graph)]


def ways(one: Case) -> list[float]:
    """For each task the seconds of the longest way from its start to the end."""
    found = list(one.seconds)
    for number, users in reversed(list(enumerate(below(one.graph)))):
        found[number] += max((found[user] for user in users), default=0.0)
    return found


def lower_bound(one: Case, workers: int) -> float:
    return max(*ways(one), sum(one.seconds) / workers)


def makespan(table: Timetable) -> float:
    return max(end for _, end in table.values())
