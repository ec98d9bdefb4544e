"""The order of work: which stage may start next. Pure bookkeeping; it starts nothing itself."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from pipeline.dag import Pipeline
from pipeline.errors import WiringError
from pipeline.stage import Effect, Resources, Stage


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


@dataclass(slots=True)
class Schedule:
    """Stages wait for their inputs, then for resources; the longest way to the end goes first.

    `elsewhere` are the processors just now of other machines, where pure stages have their work done; 0: they do it here.
    """

    pipeline: Pipeline
    wanted: frozenset[Stage[Any]]
    capacity: Capacity
    priority: dict[Stage[Any], float]
    elsewhere: Callable[[], int] = lambda: 0
    _missing: dict[Stage[Any], int] = field(init=False)
    _below: dict[Stage[Any], list[Stage[Any]]] = field(init=False)
    _ready: dict[tuple[Resources, bool], list[tuple[float, int, Stage[Any]]]] = field(init=False, default_factory=dict)
    """Of the ready stages that need the same a heap each: there are few kinds of needs, however many stages."""
    _cpu: dict[bool, int] = field(init=False, default_factory=lambda: {False: 0, True: 0})
    """Processors in use here, and elsewhere."""
    _away: set[Stage[Any]] = field(init=False, default_factory=set)
    """Stages whose processors are taken elsewhere."""
    _memory: int = field(init=False, default=0)
    _locks: set[str] = field(init=False, default_factory=set)
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
        """The most urgent ready stage that fits beside the running ones; its resources are taken."""
        there = self.elsewhere()
        fitting = [(heap[0], heap, kind) for kind, heap in self._ready.items() if self._fits(*kind, there)]
        if not fitting:
            return None
        _, heap, kind = fitting[0] if len(fitting) == 1 else min(fitting, key=itemgetter(0))
        _, _, found = heapq.heappop(heap)
        if not heap:
            del self._ready[kind]  # there may be as many kinds of needs as stages, as with a lock for each
        if there and kind[1]:
            self._away.add(found)
        self._use(found, 1)
        return found

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

    def _push(self, stage: Stage[Any]) -> None:
        heap = self._ready.setdefault((stage.resources, stage.effect is Effect.PURE), [])
        heapq.heappush(heap, (-self.priority[stage], self._order[stage], stage))

    def _fits(self, needs: Resources, pure: bool, there: int) -> bool:
        if needs.locks and not self._locks.isdisjoint(needs.locks):
            return False
        away = pure and there > 0
        if not away and self.capacity.memory and self._memory + needs.memory > self.capacity.memory:
            return False
        used, most = self._cpu[away], there if away else self.capacity.cpu
        return used == 0 or needs.cpu == 0 or used + needs.cpu <= most

    def _use(self, stage: Stage[Any], sign: int) -> None:
        needs, away = stage.resources, stage in self._away
        self._cpu[away] += sign * needs.cpu
        self._memory += 0 if away else sign * needs.memory
        if needs.locks:
            (self._locks.update if sign > 0 else self._locks.difference_update)(needs.locks)
