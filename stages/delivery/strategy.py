"""Strategies: from what runs now and what should run to a list of steps. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from gates.judge import Judge
from pipeline import StageFailed, WiringError
from pipeline.numbers import need_numbers
from stages.delivery.audience import Audience, Chosen, Cohort
from stages.delivery.model import State
from stages.delivery.step import Again, Drain, Rest, Split, Start, Step, Stop, WaitReady, Weigh
from stages.delivery.visitors import Visitors


class Strategy(Protocol):
    """Decides the steps of a rollout and of its way back."""

    def forward(self, now: State, green: str) -> tuple[Step, ...]:
        """From `now` to the group `green` serving."""
        ...

    def back(self, before: State, green: str) -> tuple[Step, ...]:
        """From any point of that rollout back to `before`."""
        ...


def judge_of(strategy: Strategy) -> Judge | None:
    """Who weighs a release in it, if anybody does."""
    found = getattr(strategy, "judge", None)
    return found if isinstance(found, Judge) else None


@dataclass(frozen=True)
class BlueGreen:
    """Start green beside blue, switch all traffic at once, drain blue and keep it warm for the way back.

    Groups older than blue are stopped after the switch. Seconds: `ready` for green to become ready,
    `drain` for requests in flight.
    """

    ready: float = 60.0
    drain: float = 30.0

    def __post_init__(self) -> None:
        need_numbers(self)

    def forward(self, now: State, green: str) -> tuple[Step, ...]:
        blue = tuple(group for group in now.serving if group != green)
        older = superseded(now, green)
        return (
            Start(green),
            WaitReady(green, self.ready),
            Split(((green, 100),)),
            *(Drain(group, self.drain) for group in (*blue, *older)),
            *(Stop(group) for group in older),
        )

    def back(self, before: State, green: str) -> tuple[Step, ...]:
        return back(before, green, self.ready, self.drain)


@dataclass(frozen=True)
class Canary:
    """Give green a growing share of the traffic, as long as the judge finds it no worse than what serves beside it.

    `shares` are percent of all requests; before each next one the judge has to have seen that green does no harm with the one
    it has. Green that is worse goes back, and green of which nobody can tell in time pauses. Where nothing serves yet there is
    nothing to compare with, and green gets all at once. `visitors` come while green is judged, where users are few. Seconds:
    `tick` from one look of the judge to the next, others as of `BlueGreen`.

    With an `audience`, shares below 100 are percent of it, everybody else stays on what serves, and at 100 green gets all of
    everybody: compared is what the audience does on both sides. With `whole`, all of the audience gets green before everybody
    does; it is compared with everybody else then, who are other people, so this is to be asked for.
    """

    shares: tuple[int, ...] = (1, 5, 10, 25, 50, 75, 90, 100)
    judge: Judge = field(default_factory=Judge)
    tick: float = 1.0
    visitors: Visitors | None = None
    ready: float = 60.0
    drain: float = 30.0
    audience: Audience | None = None
    whole: bool = False

    def __post_init__(self) -> None:
        need_numbers(self)
        whole = isinstance(self.shares, tuple) and all(isinstance(share, int) for share in self.shares)
        ascending = whole and all(low < high for low, high in itertools.pairwise((0, *self.shares)))
        if not ascending or self.shares[-1:] != (100,):
            raise WiringError(f"Canary.shares are {self.shares}", right="percent that grow, in a tuple: (5, 25, 100)")
        if not self.tick > 0:
            raise WiringError(f"Canary.tick is {self.tick:g}", right="seconds, more than 0")
        if self.whole and (self.audience is None or isinstance(self.audience, Cohort)):
            raise WiringError("Canary.whole is for an audience that is not everybody", right="an audience that is no cohort")
        if self.audience is not None and self.shares == (100,) and not self.whole:
            raise WiringError(
                f"Canary: {self.audience} would get nothing before everybody does",
                right="a share below 100, as in (50, 100), or whole=True",
            )

    def forward(self, now: State, green: str) -> tuple[Step, ...]:
        blue = {group: now.weights[group] for group in now.serving if group != green}
        if not blue:
            return BlueGreen(self.ready, self.drain).forward(now, green)
        older = superseded(now, green)
        grows: list[Step] = []
        for share in self.shares:
            if share == 100:
                grows += self._whole(green, blue)
            rest = shared(100 - share, blue)
            grows.append(self._split(green, share, rest, blue))
            if rest:
                grows.append(self._weigh(green, rest))
        return (
            Start(green),
            WaitReady(green, self.ready),
            *grows,
            *(Drain(group, self.drain) for group in (*blue, *older)),
            *(Stop(group) for group in older),
        )

    def _split(self, green: str, share: int, rest: tuple[tuple[str, int], ...], blue: Mapping[str, int]) -> Split:
        weights = ((green, share), *rest)
        if self.audience is None or share == 100:
            return Split(weights)
        return Split(shared(100, blue), Chosen(self.audience, weights))

    def _whole(self, green: str, blue: Mapping[str, int]) -> tuple[Step, ...]:
        if self.audience is None or not self.whole:
            return ()
        rest = shared(100, blue)
        return Split(rest, Chosen(self.audience, ((green, 100),))), self._weigh(green, rest)

    def _weigh(self, green: str, rest: tuple[tuple[str, int], ...]) -> Weigh:
        return Weigh(green, tuple(group for group, _ in rest), self.judge, self.tick, self.visitors)

    def back(self, before: State, green: str) -> tuple[Step, ...]:
        return back(before, green, self.ready, self.drain)


@dataclass(frozen=True)
class Recreate:
    """End blue, then start green: for what cannot run twice at once. Nobody is served meanwhile but the router's own page.

    Blue rests and is started again on the way back. Seconds as of `BlueGreen`; green that is not ready within `ready` goes back.
    """

    ready: float = 60.0
    drain: float = 30.0

    def __post_init__(self) -> None:
        need_numbers(self)

    def forward(self, now: State, green: str) -> tuple[Step, ...]:
        blue = tuple(group for group in now.serving if group != green)
        if not blue:
            return BlueGreen(self.ready, self.drain).forward(now, green)
        return (
            *(step for group in superseded(now, green) for step in (Drain(group, self.drain), Stop(group))),
            Split(()),
            *(step for group in blue for step in (Drain(group, self.drain), Rest(group))),
            Start(green),
            WaitReady(green, self.ready),
            Split(((green, 100),)),
        )

    def back(self, before: State, green: str) -> tuple[Step, ...]:
        """Green ends before what served is started again, unless it ran beside it before."""
        last = (*_again(before, green, self.ready, ended=True), _as_before(before))
        return last if green in before.groups else (Split(()), Drain(green, self.drain), Stop(green), *last)


def without(now: State, group: str, drain: float = 30.0) -> tuple[Step, ...]:
    """The steps by which a group is taken out of the traffic; its share goes to the others. Raises StageFailed."""
    if group not in now.groups:
        raise StageFailed(f"there is no group {group!r}", right=f"one of: {', '.join(now.groups) or 'none runs'}")
    others = {name: now.weights[name] for name in now.serving if name != group}
    if not others:
        raise StageFailed(
            f"{group} is the only one that serves", right="another group that serves", next="python -m pipeline deployments"
        )
    return (Split(shared(100, others)), Drain(group, drain))


def superseded(now: State, green: str) -> list[str]:
    """The groups that go: all but green and what serves; none where green serves already, as what is kept for it stays."""
    kept = (*now.serving, green)
    return [] if green in now.serving else sorted(group for group in {*now.groups, *now.resting} if group not in kept)


def back(before: State, green: str, ready: float, drain: float, *, ended: bool = False) -> tuple[Step, ...]:
    """Traffic as it was; then green is drained and stopped, where it did not serve or run before.

    What served and rests by now, as after a rollout by another strategy, is started again first; `ended`: instances of what
    ran before may have ended too.
    """
    drained = () if before.weights.get(green) else (Drain(green, drain),)
    gone = () if green in before.groups else (Stop(green),)
    return (*_again(before, green, ready, ended=ended), _as_before(before), *drained, *gone)


def _as_before(before: State) -> Split:
    """The shares of those that served."""
    return Split(tuple(sorted((group, share) for group, share in before.weights.items() if share > 0)))


def _again(before: State, green: str, ready: float, *, ended: bool) -> tuple[Step, ...]:
    """Start those again that served: all but green, or those of them that do not run."""
    served = [group for group, _ in _as_before(before).weights if group != green and (ended or group not in before.groups)]
    return tuple(step for group in served for step in (Again(group), WaitReady(group, ready, some=True)))


def shared(percent: int, groups: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """So many percent for groups in the proportion of their numbers, in whole percent; the largest rests are rounded up."""
    total = sum(groups.values())
    exact = {group: percent * share / total for group, share in groups.items()}
    parts = {group: int(part) for group, part in exact.items()}
    for group in sorted(exact, key=lambda one: parts[one] - exact[one])[: percent - sum(parts.values())]:
        parts[group] += 1
    return tuple((group, part) for group, part in parts.items() if part)
