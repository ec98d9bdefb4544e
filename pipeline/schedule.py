"""The order of work: which stage may start next. Pure bookkeeping; it starts nothing itself."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple

from pipeline.dag import Pipeline
from pipeline.errors import WiringError
from pipeline.stage import Effect, Stage


@dataclass(frozen=True)
class Capacity:
    """What all running stages may use together: processors, MiB of memory (0: not limited)."""

    cpu: int
    memory: int = 0


def priorities(
    pipeline: Pipeline, wanted: Iterable[Stage[Any]], seconds: Mapping[str, float], least: float = 0.0
) -> dict[Stage[Any], float]:
    """For each stage of `wanted` the seconds from its start to the end of the run, were there no other work.

    `seconds` holds measured durations by name; a stage never measured counts as one second. `least` is what follows on each of
    them besides those among `wanted`.
    """
    longest: dict[Stage[Any], float] = dict.fromkeys(wanted, least)
    for stage in reversed(pipeline.stages):
        if stage in longest:
            longest[stage] += seconds.get(pipeline.name_of(stage), 1.0)
            for source in pipeline.inputs(stage):
                if source in longest:
                    longest[source] = max(longest[source], longest[stage])
    return longest


Need = tuple[int, int, bool]
"""Processors, MiB of memory, and whether the work may be done elsewhere."""

Waiting = tuple[float, int, Stage[Any]]
"""A ready stage after its urgency and its place in the pipeline: the most urgent sorts first."""


class Reserved(NamedTuple):
    """When there should be room for the most urgent stage, and what is left beside it then."""

    at: float
    cpu: int
    memory: int


@dataclass(slots=True)
class Schedule:
    """Stages wait for their inputs, then for resources; the longest way to the end goes first.

    Where the most urgent one needs more than is free, only what should have ended by the time there is room for it goes before
    it, or what leaves it that room (EASY backfilling: D. Lifka, The ANL/IBM SP Scheduling System, 1995).

    `elsewhere` are the processors just now of other machines, where pure stages have their work done; 0: they do it here.
    `expected` are the seconds a stage should take, by a `clock` in seconds.
    """

    pipeline: Pipeline
    wanted: frozenset[Stage[Any]]
    capacity: Capacity
    priority: dict[Stage[Any], float]
    elsewhere: Callable[[], int] = lambda: 0
    expected: Callable[[Stage[Any]], float] = lambda _stage: 1.0
    clock: Callable[[], float] = time.monotonic
    _missing: dict[Stage[Any], int] = field(init=False)
    _below: dict[Stage[Any], list[Stage[Any]]] = field(init=False)
    _ready: dict[Need, list[Waiting]] = field(init=False, default_factory=dict)
    """Of the ready stages that need the same a heap each: there are few kinds of needs, however many stages."""
    _aside: dict[str, list[Waiting]] = field(init=False, default_factory=dict)
    """Of the ready stages that wait for a lock a heap each, by its name."""
    _cpu: dict[bool, int] = field(init=False, default_factory=lambda: {False: 0, True: 0})
    """Processors in use here, and elsewhere."""
    _away: set[Stage[Any]] = field(init=False, default_factory=set)
    """Stages whose processors are taken elsewhere."""
    _memory: int = field(init=False, default=0)
    _locks: set[str] = field(init=False, default_factory=set)
    _woken: bool = field(init=False, default=False)
    """Whether a stage that waited for a lock became ready again."""
    _since: dict[Stage[Any], float] = field(init=False, default_factory=dict)
    """When each stage that runs was taken."""
    _order: dict[Stage[Any], int] = field(init=False)

    def __post_init__(self) -> None:
        self._order = {stage: number for number, stage in enumerate(self.pipeline.stages)}
        self._missing = {stage: len(self._named(stage)) for stage in self.wanted}
        self._below = {stage: [] for stage in self.wanted}
        for stage in self.wanted:
            self._check_fits(stage, self.pipeline)
            for source in self._named(stage):
                self._below[source].append(stage)
            if self._missing[stage] == 0:
                self._push(stage)

    def _named(self, stage: Stage[Any]) -> tuple[Stage[Any], ...]:
        """The stages that must have ended first; one that always runs may come after some that take no part."""
        inputs = self.pipeline.inputs(stage)
        return tuple(source for source in inputs if source in self.wanted) if stage.always else inputs

    def _check_fits(self, stage: Stage[Any], pipeline: Pipeline) -> None:
        """Raise WiringError for a stage that would wait for ever."""
        if stage.resources.memory > self.capacity.memory > 0:
            raise WiringError(
                f"{pipeline.name_of(stage)} needs {stage.resources.memory} MiB of memory",
                right=f"at most {self.capacity.memory} MiB, or a larger `memory` in [tool.pipeline]",
            )

    def settle(self, stage: Stage[Any]) -> None:
        """The stage has a result, or never will: what waited for it may be ready now."""
        for below in self._below[stage]:
            self._missing[below] -= 1
            if self._missing[below] == 0:
                self._push(below)

    def take(self) -> Stage[Any] | None:
        """The most urgent ready stage that fits beside the running ones and keeps no more urgent one waiting.

        Its resources are taken.
        """
        there = self.elsewhere()
        if len(self._ready) == 1:  # as nearly always
            (need,) = self._ready
            return self._taken(need, there) if self._fits(need, there) and self._first(need) is not None else None
        first = self._tops()
        first.sort(key=itemgetter(0))
        reserved: Reserved | None = None
        for (_, _, stage), need in first:
            if self._fits(need, there):
                if reserved is None or not self._delays(stage, need, reserved):
                    return self._taken(need, there)
            elif reserved is None and not (there and need[2]):
                reserved = self._reserved(need)
        return None

    def _tops(self) -> list[tuple[Waiting, Need]]:
        """The most urgent stage of each kind of need whose locks are free."""
        while True:
            self._woken = False
            found = [(top, need) for need in list(self._ready) if (top := self._first(need)) is not None]
            if not self._woken:  # who was woken may be ready among those that were looked at already
                return found

    def _first(self, need: Need) -> Waiting | None:
        """The most urgent of the stages with that need whose locks are free; the others on the way to it are set aside."""
        heap = self._ready[need]
        while heap:
            locks = heap[0][2].resources.locks
            taken = next((lock for lock in locks if lock in self._locks), None) if locks else None
            if taken is None:
                return heap[0]
            heapq.heappush(self._aside.setdefault(taken, []), heapq.heappop(heap))
            self._wake(lock for lock in locks if lock not in self._locks)
        self._ready.pop(need, None)
        return None

    def _wake(self, locks: Iterable[str]) -> None:
        """Of those that wait for a lock that is free the most urgent one is ready again: only one of them could take it."""
        for lock in locks:
            heap = self._aside.get(lock)
            if heap:
                self._woken = True
                self._push(heapq.heappop(heap)[2])
            if not heap:
                self._aside.pop(lock, None)

    def _taken(self, need: Need, there: int) -> Stage[Any]:
        _, _, found = heapq.heappop(self._ready[need])
        if there and need[2]:
            self._away.add(found)
        self._since[found] = self.clock()
        self._use(found, 1)
        return found

    def _reserved(self, need: Need) -> Reserved:
        """When there should be room here for what needs so much, as the stages that run here end one after the other."""
        cpu, memory, _ = need
        at, used, in_use = self.clock(), self._cpu[False], self._memory
        here = ((stage, since) for stage, since in self._since.items() if stage not in self._away)
        ends = sorted(((since + self.expected(stage), stage.resources) for stage, since in here), key=itemgetter(0))
        for end, needs in ends:
            if self._has_room(used, in_use, cpu, memory):
                break
            at, used, in_use = max(at, end), used - needs.cpu, in_use - needs.memory
        free = self.capacity.memory - in_use - memory if self.capacity.memory else 0
        return Reserved(at, self.capacity.cpu - used - cpu, free)

    def _delays(self, stage: Stage[Any], need: Need, reserved: Reserved) -> bool:
        """Whether the stage, started now, would take of what is reserved."""
        cpu, memory, pure = need
        if (pure and self.elsewhere()) or self.clock() + self.expected(stage) <= reserved.at:
            return False
        return cpu > max(reserved.cpu, 0) or (self.capacity.memory > 0 and memory > reserved.memory)

    def grow(self, whole: Stage[Any], further: Pipeline, parts: Mapping[Stage[Any], float]) -> None:
        """Let `parts`, with the urgency of each, come before `whole`, which was taken and is to be taken again after them.

        What they need besides each other is settled. `further` is the pipeline with them. Raises WiringError, and changes
        nothing, where one of them would wait for ever.
        """
        for part in parts:
            self._check_fits(part, further)
        self.pipeline = further
        self.wanted |= frozenset(parts)
        self.priority |= parts
        self._missing[whole] = 0
        for part in parts:
            self._order[part] = len(self._order)
            self._below[part] = []
        for stage in (*parts, whole):
            above = [source for source in further.inputs(stage) if source in parts]
            self._missing[stage] = len(above)
            for source in above:
                self._below[source].append(stage)
            if not above:
                self._push(stage)

    def give_back(self, stage: Stage[Any]) -> None:
        """The stage does not run any more."""
        self._use(stage, -1)
        self._away.discard(stage)
        self._since.pop(stage, None)
        if stage.resources.locks:
            self._wake(stage.resources.locks)

    def _push(self, stage: Stage[Any]) -> None:
        needs = stage.resources
        heap = self._ready.setdefault((needs.cpu, needs.memory, stage.effect is Effect.PURE), [])
        heapq.heappush(heap, (-self.priority[stage], self._order[stage], stage))

    def _fits(self, need: Need, there: int) -> bool:
        cpu, memory, pure = need
        if pure and there > 0:
            used = self._cpu[True]
            return used == 0 or cpu == 0 or used + cpu <= there
        return self._has_room(self._cpu[False], self._memory, cpu, memory)

    def _has_room(self, used: int, in_use: int, cpu: int, memory: int) -> bool:
        """Whether so much fits here beside what is in use; more processors than there are get all of them."""
        if self.capacity.memory and in_use + memory > self.capacity.memory:
            return False
        return used == 0 or cpu == 0 or used + cpu <= self.capacity.cpu

    def _use(self, stage: Stage[Any], sign: int) -> None:
        needs, away = stage.resources, stage in self._away
        self._cpu[away] += sign * needs.cpu
        self._memory += 0 if away else sign * needs.memory
        if needs.locks:
            (self._locks.update if sign > 0 else self._locks.difference_update)(needs.locks)
