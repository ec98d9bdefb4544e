"""Rolling: instances of the old release are replaced by those of the new one, a few at a time. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from gates.judge import Judge
from pipeline import WiringError
from pipeline.numbers import need_numbers
from stages.delivery.model import State, spread
from stages.delivery.step import Drain, Rest, Retire, Split, Start, Step, Stop, WaitReady, Weigh
from stages.delivery.strategy import BlueGreen, back, shared, superseded

PERCENT = re.compile(r"[1-9][0-9]?%|100%")


@dataclass(frozen=True)
class Rolling:
    """Start some instances of green, end as many of blue, and so on, until none of blue is left.

    At most `max_surge` instances run beyond those of the release, and at most `max_unavailable` of them are missing; both are
    numbers or percent of them (`"25%"`, a surge rounded up, what is missing rounded down, as in Kubernetes), but one always
    serves. `by_zone` replaces all instances of a zone before any of the next. A batch that does not get ready pauses the rollout
    for people to decide; with `pauses=False` it goes back at once. A `judge` weighs green against what is left of blue after each
    batch. Blue rests at the end, and is started again on the way back. Seconds as of `BlueGreen`.
    """

    max_surge: int | str = 1
    max_unavailable: int | str = 0
    by_zone: bool = False
    pauses: bool = True
    judge: Judge | None = None
    tick: float = 1.0
    ready: float = 60.0
    drain: float = 30.0

    def __post_init__(self) -> None:
        need_numbers(self)
        for name in ("max_surge", "max_unavailable"):
            value = getattr(self, name)
            percent = isinstance(value, str) and (PERCENT.fullmatch(value) or value == "0%")
            if not percent and not (isinstance(value, int) and value >= 0):
                raise WiringError(f"Rolling.{name} is {value!r}", right='a number from 0 on, or percent: "25%"')
        if not any(number(value, 100, up=True) for value in (self.max_surge, self.max_unavailable)):
            raise WiringError(
                "Rolling: nothing can be replaced where none may be more and none may be missing",
                right="max_surge or max_unavailable of 1 or more",
            )

    def forward(self, now: State, green: str) -> tuple[Step, ...]:
        """Over the instances that run now, to as many of green as `now.wanted` says."""
        blue = {group: Counter(one.zone for one in now.groups[group].instances) for group in now.serving if group != green}
        if not blue:
            return BlueGreen(self.ready, self.drain).forward(now, green)
        zones = now.zones or ("",)
        have = Counter(one.zone for one in now.groups[green].instances) if green in now.groups else Counter[str]()
        fleet = Fleet(green=green, wanted=Counter(spread(now.wanted, zones)), have=have, blue=blue)
        return (
            *((WaitReady(green, self.ready, tuple(sorted(have.items()))), self._split(fleet)) if have else ()),
            *self._batches(fleet),
            *(step for group in superseded(now, green) for step in (Drain(group, self.drain), Stop(group))),
        )

    def back(self, before: State, green: str) -> tuple[Step, ...]:
        """What was ended is started again before green, which serves meanwhile, is drained and stopped."""
        return back(before, green, self.ready, self.drain, ended=True)

    def _batches(self, fleet: Fleet) -> Iterator[Step]:
        """Down as far as may be missing, up as far as may be more, until all of blue is gone and all of green is there."""
        total = fleet.wanted.total()
        surge, missing = number(self.max_surge, total, up=True), number(self.max_unavailable, total, up=False)
        missing = min(missing, total - 1)  # somebody always serves
        surge = surge or int(missing == 0)  # percent of few may be none of either: then nothing would ever be replaced
        for zone in fleet.wanted if self.by_zone else ("",):
            chosen = zone if self.by_zone else None
            while fleet.to_start(chosen) or fleet.to_end(chosen):
                up, down = fleet.to_start(chosen), fleet.to_end(chosen)
                spare, room = fleet.running - (total - missing), total + surge - fleet.running
                if down and (spare > 0 or not up):
                    yield from self._down(fleet, min(down, spare) if up else down, chosen)
                else:
                    yield from self._up(fleet, max(1, min(up, room)), chosen)

    def _up(self, fleet: Fleet, count: int, zone: str | None) -> Iterator[Step]:
        for _ in range(count):
            fleet.start(zone)
        counts = tuple(sorted((where, have) for where, have in fleet.have.items() if have))
        yield Start(fleet.green, counts)
        yield WaitReady(fleet.green, self.ready, counts, self.pauses)
        yield self._split(fleet)
        if self.judge is not None and fleet.left:
            yield Weigh(fleet.green, tuple(fleet.left), self.judge, self.tick)

    def _down(self, fleet: Fleet, count: int, zone: str | None) -> Iterator[Step]:
        ended: dict[str, Counter[str]] = {}
        for _ in range(count):
            group, where = fleet.end(zone)
            ended.setdefault(group, Counter())[where] += 1
        for group, gone in ended.items():
            if fleet.blue[group].total():
                yield Retire(group, tuple(sorted(gone.items())), self._split(fleet).weights, self.drain)
            else:
                yield self._split(fleet)
                yield Drain(group, self.drain)
                yield Rest(group)

    def _split(self, fleet: Fleet) -> Split:
        """Shares by instances, so that each gets as much."""
        return Split(shared(100, {fleet.green: fleet.have.total(), **{g: c.total() for g, c in fleet.blue.items()}}))


@dataclass
class Fleet:
    """How many instances run in which zone, as the plan goes on."""

    green: str
    wanted: Counter[str]
    have: Counter[str]
    blue: dict[str, Counter[str]] = field(default_factory=dict)

    @property
    def running(self) -> int:
        return self.have.total() + sum(found.total() for found in self.blue.values())

    @property
    def left(self) -> list[str]:
        """The groups of blue that still run."""
        return [group for group, found in self.blue.items() if found.total()]

    def to_start(self, zone: str | None) -> int:
        """Instances of green that are missing, in the zone or anywhere."""
        return (self.wanted - self.have)[zone] if zone is not None else (self.wanted - self.have).total()

    def to_end(self, zone: str | None) -> int:
        """Instances of blue that run, in the zone or anywhere; those in zones that are not wanted go with the last."""
        last = zone == next(reversed(self.wanted))
        return sum(
            count
            for found in self.blue.values()
            for where, count in found.items()
            if zone is None or where == zone or (last and where not in self.wanted)
        )

    def start(self, zone: str | None) -> None:
        """One more of green, where the most are missing."""
        missing = self.wanted - self.have
        self.have[zone if zone is not None else max(missing, key=lambda where: (missing[where], where))] += 1

    def end(self, zone: str | None) -> tuple[str, str]:
        """One less of blue, where the most run; the group and the zone."""
        places = [
            (count, group, where)
            for group, found in self.blue.items()
            for where, count in found.items()
            if count and (zone is None or where == zone or where not in self.wanted)
        ]
        _, group, where = max(places)
        self.blue[group][where] -= 1
        return group, where


def number(value: int | str, of: int, *, up: bool) -> int:
    """A number, or percent of so many, rounded up or down.

    >>> number("25%", 3, up=True), number("25%", 3, up=False), number(2, 3, up=True)
    (1, 0, 2)
    """
    if isinstance(value, int):
        return value
    whole, rest = divmod(int(value.removesuffix("%")) * of, 100)
    return whole + (1 if up and rest else 0)
