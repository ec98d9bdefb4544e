"""The judge: whether a release may go on, from what it and the one before it did in the same moments.

It may be asked after every tick. A release that is no worse is aborted with a chance of at most `alpha` in the whole of a
rollout, one that does harm is promoted with a chance of at most `beta` in each step. Silence never promotes, and what is not
known is never good.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Protocol

from gates.eprocess import LIFTS, NOTHING, PROTECTIONS, Counts, Spread, average, likelihoods, within_budget
from gates.window import Histogram, Tick, Window
from gates.words import counted
from pipeline.errors import WiringError
from pipeline.numbers import need_numbers


class Advice(Enum):
    """What the judge says."""

    PROMOTE = "promote"
    """There is evidence against harm, by every measure."""
    HOLD = "hold"
    """There is not enough to say yet."""
    ABORT = "abort"
    """There is evidence that the new release is worse than is tolerated."""
    INCONCLUSIVE = "inconclusive"
    """The time is over, or nothing was known for too long: people have to look."""


class Measure(Protocol):
    """Something that should not happen, and how often each release did it."""

    @property
    def name(self) -> str: ...
    @property
    def tolerated(self) -> float:
        """How many times as often it may happen to the new release."""
        ...

    @property
    def harm(self) -> float:
        """From how many times as often on that is harm: more than `tolerated`."""
        ...

    @property
    def budget(self) -> float:
        """The share of requests to which it may happen whatever happens to the old release; 0: none."""
        ...

    def counts(self, window: Window, known: Histogram | None) -> tuple[int, int] | None:
        """How many of how many, with what is known of the old release before this tick; None where that is not known."""
        ...


@dataclass(frozen=True, kw_only=True)
class ErrorRate:
    """Requests that failed. A release whose share of them is below `budget` does no harm, however few fail on the old one."""

    tolerated: float = 1.0
    harm: float = 2.0
    budget: float = 0.01

    @property
    def name(self) -> str:
        return "errors"

    def counts(self, window: Window, known: Histogram | None) -> tuple[int, int] | None:
        return window.errors, window.requests


@dataclass(frozen=True, kw_only=True)
class SlowAnswers:
    """Answers that took longer than `quantile` of the old release's did, as it was seen before, and than `floor` milliseconds.

    A process that is rarely asked answers a little later than one that is asked all the time: where answers take a few
    milliseconds, a release with a small share would be blamed for its share.
    """

    quantile: float = 0.95
    tolerated: float = 1.0
    harm: float = 2.0
    floor: float = 10.0

    @property
    def name(self) -> str:
        return f"answers slower than p{100 * self.quantile:g}"

    @property
    def budget(self) -> float:
        """What is harm by its own share, where the old release has no answers that are slower than the bound at all."""
        return self.harm * (1 - self.quantile)

    def counts(self, window: Window, known: Histogram | None) -> tuple[int, int] | None:
        bound = known.bound(self.quantile) if known is not None else None
        if bound is None or window.latency is None or known is None or window.latency.bounds != known.bounds:
            return None
        bound = next((one for one in known.bounds if one >= max(bound, self.floor)), bound)
        return window.latency.above(bound), window.latency.total


@dataclass(frozen=True, kw_only=True)
class Business:
    """A share of what should not happen, as the source of metrics names it: orders that were given up, counts that are off."""

    of: str
    tolerated: float = 1.0
    harm: float = 2.0
    budget: float = 0.0

    @property
    def name(self) -> str:
        return self.of

    def counts(self, window: Window, known: Histogram | None) -> tuple[int, int] | None:
        share = window.business.get(self.of)
        return (share.part, share.of) if share is not None else None


SHARES = (0.8, 0.6, 0.4, 0.2, 0.05)
"""Of the budget: what evidence below it is gathered for."""


@dataclass(frozen=True)
class Evidence:
    """What is known by one measure: counts of all ticks that were weighed, and the logarithms of e-values."""

    counts: Counts = NOTHING
    spread: Spread = field(default_factory=Spread)
    worse: tuple[float, ...] = (0.0,) * len(LIFTS)
    """Against "no worse than is tolerated", for each lift; since the rollout began."""
    harmless: tuple[float, ...] = (0.0,) * len(PROTECTIONS)
    """Against "harm", for each share of it; since the last step."""
    frugal: tuple[float, ...] = (0.0,) * len(SHARES)
    """Against "above the budget"; since the last step."""

    @property
    def e_worse(self) -> float:
        return average(self.worse)

    @property
    def e_harmless(self) -> float:
        """The mean of the two: each is one against the same "does harm and is above the budget"."""
        return average(self.harmless + self.frugal)


@dataclass(frozen=True, kw_only=True)
class Judge:
    """What is weighed, and how sure the judge has to be. Times in seconds.

    The new release's first `warm_up` is not weighed: caches are cold then. Nothing is promoted on less than `floor` requests, and
    none before it has had its share for `at_least`, which should be as long as a request may take: one that hangs is seen only
    when it is given up. `at_most` is how long one step may go without a decision, `blind` how long nothing may be known in a row.
    """

    measures: tuple[Measure, ...] = (ErrorRate(), SlowAnswers())
    alpha: float = 0.01
    beta: float = 0.05
    warm_up: float = 10.0
    floor: int = 100
    at_least: float = 30.0
    at_most: float = 600.0
    blind: float = 30.0

    def __post_init__(self) -> None:
        need_numbers(self)
        if not self.measures:
            raise WiringError("a Judge without measures finds nothing wrong with anything", right="measures=(ErrorRate(), ...)")
        if self.at_least > self.at_most:
            raise WiringError(
                f"Judge: a step lasts at least {self.at_least:g} s and at most {self.at_most:g} s", right="at_most above at_least"
            )
        if not (0 < self.alpha < 1 and 0 < self.beta < 1):
            raise WiringError(f"Judge: alpha is {self.alpha}, beta is {self.beta}", right="chances between 0 and 1")
        for measure in self.measures:
            if not 0 < measure.tolerated < measure.harm:
                raise WiringError(
                    f"Judge: {measure.name} tolerates {measure.tolerated:g} times as many, and {measure.harm:g} times are harm",
                    right="harm above what is tolerated, and that above 0",
                )
            if not 0 <= measure.budget < 1:
                raise WiringError(f"Judge: {measure.name} has a budget of {measure.budget:g}", right="a share of 1: 0.01 is 1 %")

    def begin(self, before: Iterable[Window] = ()) -> Trial:
        """A trial in which nothing was seen yet but the old release on its own."""
        trial = Trial(self, (Evidence(),) * len(self.measures))
        for window in before:
            trial = trial.knowing(window)
        return trial


@dataclass(frozen=True)
class Trial:
    """A rollout before its judge: a fold over its ticks."""

    judge: Judge
    evidence: tuple[Evidence, ...]
    known: Histogram | None = None
    """How long the old release's answers took, before the tick that is judged."""
    seconds: float = 0.0
    """Since the new release first served."""
    step: float = 0.0
    """Since its share last changed."""
    unknown: float = 0.0
    """Nothing has been known for so long."""
    silent: bool = False
    """Whether nobody asked either release in all that time."""
    requests: int = 0
    """Of the new release since its share last changed."""
    reached: float = 0.0
    """The most evidence there ever was that it is worse: an e-process may go down again, and counts all the same."""

    def knowing(self, window: Window) -> Trial:
        """The trial with one more window of the old release, against which nothing is weighed."""
        evidence = tuple(
            replace(one, spread=one.spread.after(*found)) if (found := measure.counts(window, self.known)) else one
            for measure, one in zip(self.judge.measures, self.evidence, strict=True)
        )
        known = window.latency
        if known is not None and self.known is not None and known.bounds == self.known.bounds:
            known = self.known + known
        return replace(self, evidence=evidence, known=known or self.known)

    def after(self, tick: Tick) -> Trial:
        """The trial with one more tick."""
        on = replace(self, seconds=self.seconds + tick.seconds, step=self.step + tick.seconds)
        if tick.old is None or tick.new is None:
            return replace(on, unknown=self.unknown + tick.seconds, silent=False)
        old, new = tick.old, tick.new
        pairs = [(measure.counts(old, self.known), measure.counts(new, self.known)) for measure in self.judge.measures]
        blind = any(before is None or now is None for before, now in pairs)
        silent = blind and not (old.requests or new.requests) and (self.silent or not self.unknown)
        on = replace(on, unknown=self.unknown + tick.seconds if blind else 0.0, silent=silent)
        if self.seconds >= self.judge.warm_up:
            weighed = zip(self.judge.measures, self.evidence, pairs, strict=True)
            evidence = tuple(_weighed(measure, one, pair) for measure, one, pair in weighed)
            reached = max(self.reached, sum(one.e_worse for one in evidence) / len(evidence))
            on = replace(on, evidence=evidence, requests=self.requests + new.requests, reached=reached)
        return on.knowing(old)

    def next_step(self) -> Trial:
        """The new release gets another share: that it does no harm with it has to be seen anew."""
        fresh = tuple(replace(one, harmless=Evidence.harmless, frugal=Evidence.frugal) for one in self.evidence)
        return replace(self, evidence=fresh, step=0.0, requests=0)

    @property
    def advice(self) -> Advice:
        judge = self.judge
        if self.reached >= 1 / judge.alpha:
            return Advice.ABORT
        if self.unknown >= judge.blind:
            return Advice.INCONCLUSIVE
        enough = self.requests >= judge.floor and self.step >= judge.at_least and self.unknown == 0
        if enough and all(one.e_harmless >= 1 / judge.beta for one in self.evidence):
            return Advice.PROMOTE
        return Advice.INCONCLUSIVE if self.step >= judge.at_most else Advice.HOLD

    def said(self) -> str:
        """A sentence: what was seen by each measure, and what follows or is missing."""
        seen = "; ".join(_seen(measure, one) for measure, one in zip(self.judge.measures, self.evidence, strict=True))
        decided = self.advice in (Advice.ABORT, Advice.PROMOTE)
        text = f"{seen}; {self._why()}" if decided else f"{self._why()}; {seen}"  # first what people look for
        return f"{self.advice.value} after {self.seconds:.0f} s: {text}"

    def _why(self) -> str:
        match self.advice:
            case Advice.ABORT:
                most = max(zip(self.evidence, self.judge.measures, strict=True), key=lambda pair: pair[0].e_worse)[1].name
                above_all = f" ({most} above all)" if len(self.judge.measures) > 1 else ""
                return f"if it were no worse, that{above_all} would be seen at most once in {self.reached:,.0f} rollouts"
            case Advice.PROMOTE:
                least = min(one.e_harmless for one in self.evidence)
                return f"if it did harm, that would be seen at most once in {least:,.0f} steps"
            case _:
                return "missing: " + ", ".join(self._missing())

    def _missing(self) -> list[str]:
        if self.unknown and self.silent:
            return [f"requests: nobody asked either release for {self.unknown:.0f} s"]
        if self.unknown:
            return [f"metrics, for {self.unknown:.0f} s"]
        judge, found = self.judge, []
        if self.step < judge.at_least:
            found.append(f"{judge.at_least - self.step:.0f} s with this share")
        if self.requests < judge.floor:
            found.append(f"{counted(judge.floor - self.requests, 'request')} more to the new release")
        found += [
            f"evidence that {measure.name} do no harm ({one.e_harmless:.2g} of {1 / judge.beta:g})"
            for measure, one in zip(judge.measures, self.evidence, strict=True)
            if one.e_harmless < 1 / judge.beta
        ]
        return found


def _weighed(measure: Measure, evidence: Evidence, pair: tuple[tuple[int, int] | None, tuple[int, int] | None]) -> Evidence:
    """The evidence with what both sides did in one tick; as it was where one of them is not known or did nothing."""
    old, new = pair
    if old is None or new is None:
        return evidence
    counts, spread = Counts(*old, *new), evidence.spread
    if not counts.comparable:
        return evidence
    lifts = [measure.tolerated * lift for lift in (1.0, *LIFTS)] + [measure.harm * part for part in (1.0, *PROTECTIONS)]
    variation = spread.variation
    found = likelihoods(counts, tuple(lifts), variation=variation, rate=spread.rate(counts))
    (base, *worse), (harm, *less) = found[: 1 + len(LIFTS)], found[1 + len(LIFTS) :]
    frugal = [within_budget(*new, measure.budget, part, variation=variation) if measure.budget else 0.0 for part in SHARES]
    before = evidence.counts
    return replace(
        evidence,
        counts=Counts(before.k0 + counts.k0, before.n0 + counts.n0, before.k1 + counts.k1, before.n1 + counts.n1),
        worse=tuple(log + more - base for log, more in zip(evidence.worse, worse, strict=True)),
        harmless=tuple(log + more - harm for log, more in zip(evidence.harmless, less, strict=True)),
        frugal=tuple(log + more for log, more in zip(evidence.frugal, frugal, strict=True)),
    )


def _seen(measure: Measure, evidence: Evidence) -> str:
    k0, n0, k1, n1 = evidence.counts.k0, evidence.counts.n0, evidence.counts.k1, evidence.counts.n1
    if not (n0 and n1):
        return f"{measure.name}: nothing was compared yet"
    times = f", {(k1 / n1) / (k0 / n0):.2g} times as many" if k0 else ""
    return f"{measure.name}: {k1:,} of {n1:,} ({k1 / n1:.2%}), before {k0:,} of {n0:,} ({k0 / n0:.2%}){times}"
