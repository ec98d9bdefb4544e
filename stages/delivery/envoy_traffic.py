"""What groups do with their requests, as Envoy counts each try of one: group, status, milliseconds.

So a request that one group failed and another one answered in the end is counted with both. Counters are exact at any moment;
how long answers took is known a look later: who looks has Envoy put together what its threads saw. An answer that
took as long as a bound counts as longer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from gates.window import Histogram, Window
from pipeline import StageFailed
from stages.delivery.envoy_admin import Admin, admin
from stages.delivery.envoy_xds import INSIDE, OUTSIDE, STATS
from stages.delivery.router import BOUNDS

LOOKS = 0.1
"""Seconds from one look at Envoy's figures to the next."""


@dataclass(frozen=True)
class Sums:
    """What a group did since Envoy started: tries of requests, those that failed, and how long the others took."""

    requests: int = 0
    errors: int = 0
    counts: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)

    def __sub__(self, other: Sums) -> Sums:
        less = (now - before for now, before in zip(self.counts, other.counts, strict=True))
        return Sums(self.requests - other.requests, self.errors - other.errors, tuple(less))

    @property
    def grown(self) -> bool:
        """Whether this can be what happened from one look to the next: an Envoy that was started again counts from 0."""
        return self.requests >= 0 and self.errors >= 0 and min(self.counts) >= 0


def sums(
    counters: Mapping[str, int], histograms: Mapping[str, Sequence[Mapping[str, Any]]], compared: Collection[str] = ()
) -> dict[str, Sums]:
    """What each group did; of those that are compared by an audience, what it asked.

    A try failed by the instance's fault, or without an answer at all (status 0).
    """
    requests, errors, took = Counter[str](), Counter[str](), dict[str, tuple[int, ...]]()
    for name, count in counters.items():
        if found := re.fullmatch(rf"{STATS}\.tries\.group\.(.+)\.audience\.({INSIDE}|{OUTSIDE})\.status\.(\d+)", name):
            group, inside, status = found[1], found[2] == INSIDE, int(found[3])
            counts = inside or group not in compared
            requests[group] += count if counts else 0
            errors[group] += count if counts and not 100 <= status < 500 else 0
    for name, buckets in histograms.items():
        if found := re.fullmatch(rf"{STATS}\.took\.group\.(.+)\.audience\.({INSIDE}|{OUTSIDE})", name):
            group, inside = found[1], found[2] == INSIDE
            if inside or group not in compared:
                more = (int(bucket["cumulative"]) for bucket in buckets)
                took[group] = tuple(map(sum, zip(took.get(group, Sums.counts), more, strict=True)))
    return {group: Sums(requests[group], errors[group], took.get(group, Sums.counts)) for group in requests}


@dataclass
class Traffic:
    """A watch over Envoy's figures. Known is only what was seen while they could be had all the time."""

    compared: Collection[str] = ()
    """The groups of which only what an audience asked is counted."""
    _now: Mapping[str, Sums] = field(default_factory=dict)
    _looked: Mapping[str, Sums] = field(default_factory=dict)
    """What was there at the last look."""
    _answers: bool = False
    _whole: bool = False
    """Whether they could be had ever since the last look."""

    def windows(self, *sides: Collection[str]) -> list[Window | None]:
        before, now, whole = self._looked, self._now, self._whole
        self._looked, self._whole = now, self._answers
        if not whole:
            return [None] * len(sides)
        return [window([now[group] - before.get(group, Sums()) for group in groups if group in now]) for groups in sides]

    def see(self, now: Mapping[str, Sums] | None) -> None:
        """Take new figures; None where there are none. Figures that are less than before are another Envoy's."""
        grown = now is not None and all((now.get(group, Sums()) - then).grown for group, then in self._now.items())
        self._answers = now is not None
        self._whole = self._whole and grown
        if now is not None:
            self._now = now

    async def look(self, envoy: Admin) -> None:
        try:
            self.see(sums(*await envoy.traffic(), self.compared))
        except StageFailed:
            self.see(None)

    async def follow(self, envoy: Admin) -> None:
        while True:
            await anyio.sleep(LOOKS)
            await self.look(envoy)


def window(groups: Collection[Sums]) -> Window:
    """Several groups together."""
    counts = tuple(map(sum, zip(*(one.counts for one in groups), strict=True))) if groups else Sums.counts
    return Window(
        requests=sum(one.requests for one in groups),
        errors=sum(one.errors for one in groups),
        latency=Histogram(bounds=BOUNDS, counts=counts),
    )


@asynccontextmanager
async def watching(socket: Path, compared: Collection[str] = ()) -> AsyncIterator[Traffic]:
    """A watch that knows of all requests that end from now on."""
    found = Traffic(compared)
    async with admin(socket) as envoy, anyio.create_task_group() as tasks:
        with suppress(StageFailed):  # the look tells that it does not answer
            await envoy.everywhere()  # what was seen before is not of this watch
        await found.look(envoy)
        found.windows()
        tasks.start_soon(found.follow, envoy)
        yield found
        tasks.cancel_scope.cancel()
