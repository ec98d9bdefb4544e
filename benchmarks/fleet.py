"""A day of a fleet of engines, simulated: a discrete-event simulation in which everything but the clock is a number.

Runs begin as people work: few at night, most in the afternoon. Each is a graph of stages in layers, one action a stage; an action
starts when all of the layer before it have ended. It needs the tools of its project, the source of its run and an output of the
layer before. What a worker lacks it brings through the cache before the action, and the output is sent there after it. A worker
keeps what was used last, up to the size of its disk. The wire of one worker is a limit; the cache itself is none: what it would
have to stand is a result.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

DAY = 86_400.0


@dataclass(frozen=True)
class World:
    """What is assumed. Sizes in bytes, times in seconds."""

    engines: int = 1_000
    actions: int = 1_000_000
    layers: tuple[int, ...] = (1, 6, 6, 4, 2, 1)
    """Actions of a run, layer by layer."""
    swing: float = 0.9
    """How much more than the mean there is to do in the busiest moment, as a part of the mean."""
    median: float = 25.0
    sigma: float = 1.0
    """Of the durations of actions, lognormal."""
    projects: int = 300
    tools: tuple[int, int] = (150_000_000, 3_000)
    """Bytes and files of a project's tools."""
    source: tuple[int, int] = (20_000_000, 500)
    output: tuple[float, float, int] = (5_000_000.0, 1.5, 3)
    """Of what an action leaves: median of bytes, sigma, files."""
    disk: int = 50_000_000_000
    wire: float = 125_000_000.0
    """Bytes a second that one worker can bring or send: 1 Gbit/s."""
    request: float = 0.0005
    """Seconds of a worker's time that one request to the cache takes, eight of them being on their way at once."""
    overhead: float = 0.05
    """Of one action besides: coordinator, scheduler, the connection."""


@dataclass(slots=True)
class Content:
    size: int
    files: int
    holders: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Task:
    run: Run
    layer: int
    ready: float
    seconds: float
    needs: tuple[Content, ...]
    leaves: Content


@dataclass(slots=True, eq=False)
class Run:
    tools: Content
    source: Content
    left: int = 0
    """Actions of the present layer that have not ended."""
    outputs: list[Content] = field(default_factory=list)
    at: set[int] = field(default_factory=set)
    """Workers that have an action of it."""


@dataclass(slots=True)
class Worker:
    kept: OrderedDict[int, Content] = field(default_factory=OrderedDict)
    size: int = 0
    waiting: deque[Task] = field(default_factory=deque)


@dataclass
class Day:
    """What came of it."""

    waits: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=lambda: [0.0] * 24)
    """Seconds of work that began in each hour."""
    moved: list[int] = field(default_factory=lambda: [0] * 24)
    requests: list[int] = field(default_factory=lambda: [0] * 24)
    begun: list[int] = field(default_factory=lambda: [0] * 24)
    ended: float = 0.0

    def waited(self, part: float) -> float:
        ordered = sorted(self.waits)
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


Policy = Callable[["Fleet", Task], int | None]
"""The worker for a task, which may be at work; None: it waits for whichever is idle next."""


class Fleet:
    """One day under one policy. The same seed gives the same runs, whatever the policy."""

    def __init__(self, world: World, policy: Policy, *, look: float = 0.0, seed: int = 1) -> None:
        self.world, self._policy, self.look = world, policy, look
        self._looked = -math.inf
        self.at: list[Run | None] = [None] * world.engines
        """Whose action each worker is at."""
        self._seen = list(self.at)
        self._work, self.chance = random.Random(seed), random.Random(seed + 1)
        self.workers = [Worker() for _ in range(world.engines)]
        self.idle = list(range(world.engines))
        self._place = {number: number for number in self.idle}
        """Where each idle worker stands in `idle`, so that it is taken out at once."""
        self._queue: deque[Task] = deque()
        self._events: list[tuple[float, int, Task | None, int]] = []
        self._number = 0
        self.day = Day()

    def is_idle(self, number: int) -> bool:
        return number in self._place

    def seems_idle(self, number: int, run: Run) -> bool:
        """Whether a run takes it for idle: of its own actions it knows, and of others what it saw when it last looked."""
        if not self.look:
            return self.is_idle(number)
        return number not in run.at and self._seen[number] in (None, run)

    def any_idle(self, run: Run) -> int | None:
        """One that a run takes for idle, by chance."""
        if not self.look:
            return self.chance.choice(self.idle) if self.idle else None
        for _ in range(LOOKED_AT):
            number = self.chance.randrange(len(self._seen))
            if self.seems_idle(number, run):
                return number
        idle = [number for number in range(len(self._seen)) if self.seems_idle(number, run)]
        return self.chance.choice(idle) if idle else None

    def play(self) -> Day:
        world = self.world
        tools = [Content(*world.tools) for _ in range(world.projects)]
        weights = [1 / (rank + 1) for rank in range(world.projects)]
        for began in self._beginnings(world.actions // sum(world.layers)):
            self._push(began, None, 0)
        while self._events:
            now, _, task, number = heapq.heappop(self._events)
            if task is None:
                run = Run(tools=self._work.choices(tools, weights)[0], source=Content(*world.source))
                self._release(run, 0, now)
            else:
                self._ended(task, number, now)
            self.day.ended = now
        return self.day

    def _beginnings(self, runs: int) -> Iterator[float]:
        """Times of a day, by thinning: most between ten and sixteen o'clock."""
        swing = self.world.swing
        while runs:
            at = self._work.random() * DAY
            if self._work.random() * (1 + swing) < 1 - swing * math.cos(2 * math.pi * (at / DAY - 1 / 24)):
                runs -= 1
                yield at

    def _release(self, run: Run, layer: int, now: float) -> None:
        world, before = self.world, run.outputs
        run.outputs, run.left = [], world.layers[layer]
        for _ in range(run.left):
            median, sigma, files = world.output
            leaves = Content(int(self._work.lognormvariate(math.log(median), sigma)), files)
            needs = (run.tools, run.source, *([self._work.choice(before)] if before else []))
            seconds = self._work.lognormvariate(math.log(world.median), world.sigma)
            self._place_task(Task(run, layer, now, seconds, needs, leaves), now)

    def _place_task(self, task: Task, now: float) -> None:
        if now - self._looked > self.look:
            self._looked, self._seen = now, list(self.at)
        chosen = self._policy(self, task)
        if chosen is not None:
            task.run.at.add(chosen)
        if chosen is None:
            self._queue.append(task)
        elif self.is_idle(chosen):
            self._begin(task, chosen, now)
        else:
            self.workers[chosen].waiting.append(task)

    def _begin(self, task: Task, number: int, now: float) -> None:
        if self.is_idle(number):
            place, last = self._place.pop(number), self.idle.pop()
            if last != number:
                self.idle[place], self._place[last] = last, place
        self.at[number] = task.run
        world, hour = self.world, int(now // 3600) % 24
        lacking = [one for one in task.needs if number not in one.holders]
        size = sum(one.size for one in lacking) + task.leaves.size
        requests = sum(one.files + 1 for one in lacking) + 2 * (task.leaves.files + 1)
        for one in (*task.needs, task.leaves):
            self._keep(number, one)
        took = world.overhead + size / world.wire + requests * world.request + task.seconds
        day = self.day
        day.waits.append(now - task.ready)
        day.busy[hour] += took
        day.moved[hour] += size
        day.requests[hour] += requests
        day.begun[hour] += 1
        self._push(now + took, task, number)

    def _keep(self, number: int, content: Content) -> None:
        worker = self.workers[number]
        if number in content.holders:
            worker.kept.move_to_end(id(content))
            return
        worker.kept[id(content)] = content
        content.holders.add(number)
        worker.size += content.size
        while worker.size > self.world.disk:
            _, oldest = worker.kept.popitem(last=False)
            oldest.holders.discard(number)
            worker.size -= oldest.size

    def _ended(self, task: Task, number: int, now: float) -> None:
        self._place[number] = len(self.idle)
        self.idle.append(number)
        run = task.run
        self.at[number] = None
        run.at.discard(number)
        run.outputs.append(task.leaves)
        run.left -= 1
        if not run.left and task.layer + 1 < len(self.world.layers):
            self._release(run, task.layer + 1, now)
        queue = self.workers[number].waiting or self._queue
        if queue and self.is_idle(number):
            self._begin(queue.popleft(), number, now)

    def _push(self, at: float, task: Task | None, number: int) -> None:
        self._number += 1
        heapq.heappush(self._events, (at, self._number, task, number))  # the number keeps tasks from being compared


def at_random(fleet: Fleet, _task: Task) -> int | None:
    """Any worker, whatever it has to do."""
    return fleet.chance.randrange(len(fleet.workers))


def least_loaded(fleet: Fleet, task: Task) -> int | None:
    """An idle worker, any of them."""
    return fleet.any_idle(task.run)


LOOKED_AT = 32
"""Holders of one content of which the best is taken: where there are more, the others are as good."""


def affinity(fleet: Fleet, task: Task) -> int | None:
    """The idle worker that need bring least, as `pipeline.workers.member.best` chooses."""
    best, most = fleet.any_idle(task.run), 0
    if best is None:
        return at_random(fleet, task) if fleet.look else None
    for content in sorted(task.needs, key=lambda one: len(one.holders)):
        seen = 0
        for number in content.holders:
            if fleet.seems_idle(number, task.run):
                there = sum(one.size for one in task.needs if number in one.holders)
                if there > most:
                    best, most = number, there
                seen += 1
                if seen == LOOKED_AT:
                    break
    return best
