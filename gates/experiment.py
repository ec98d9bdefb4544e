"""What an experiment found: how often something happened on each side, and by how much more, at any moment.

Both sides get fixed shares at the same time. Of the k = k0 + k1 events of a tick, each is one of the new side with the chance
theta = lift n1 / (lift n1 + n0), whatever happens to both at that moment, and however many come to each by then. The
likelihood of all ticks, mixed over lifts, by that of any one lift is a martingale where that one is true, so all lifts at which
it never reached 1/alpha hold the true one with a chance of 1 - alpha however often it is looked at. Whether as many came to each
side as was wanted is tested in the same way. Lifts are looked at on a grid, 1 % apart; bounds are those of the next one outside.
Sources: H. Robbins, Statistical methods related to the law of the iterated logarithm (1970), section 9; M. Lindon, A. Malek,
Anytime-valid inference for multinomial count data (2022), also for sample ratio mismatch. Exact for events that are rare and come
on their own; where they are frequent (a third of all, say), intervals are wider than they need be. Events of one user do
not come on their own: what counts users is better evidence than what counts requests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from gates.eprocess import NOTHING, Counts
from pipeline import Result

WIDEST, STEPS = 64.0, 400
GRID = tuple(WIDEST ** (place / STEPS) for place in range(-STEPS, STEPS + 1))
"""The lifts that are looked at; beyond its ends there is no bound."""
LOGS = tuple(map(math.log, GRID))

_WEIGHTS = tuple(lift / (1 + lift) ** 2 for lift in GRID)
PRIOR = tuple(math.log(weight / sum(_WEIGHTS)) for weight in _WEIGHTS)
"""The mixture: where both sides are as large, every chance of an event to be the new side's alike. Logarithms."""


@dataclass(frozen=True)
class Tally:
    """One measure, tick by tick: counts so far, and of each lift of `GRID` the log-likelihood, but for a constant."""

    counts: Counts = NOTHING
    likelihoods: tuple[float, ...] = (0.0,) * len(GRID)

    def after(self, tick: Counts) -> Tally:
        """With one more tick; one in which a side did nothing, or nothing happened, tells nothing of the lift."""
        so_far = self.counts
        counts = Counts(so_far.k0 + tick.k0, so_far.n0 + tick.n0, so_far.k1 + tick.k1, so_far.n1 + tick.n1)
        events = tick.k0 + tick.k1
        if not (tick.comparable and events):
            return replace(self, counts=counts)
        found = zip(self.likelihoods, GRID, LOGS, strict=True)
        return Tally(
            counts,
            tuple(known + tick.k1 * log - events * math.log(lift * tick.n1 + tick.n0) for known, lift, log in found),
        )


class Compared(Result):
    """One measure: k0 of n0 on the old side, k1 of n1 on the new one; the lift is between `low` and `high` (None: no bound)."""

    measure: str
    k0: int
    n0: int
    k1: int
    n1: int
    low: float = 0.0
    high: float | None = None
    mismatch: float | None = None
    """The largest chance with which as uneven sides would ever be seen by chance alone; None where that was not tested."""

    @property
    def lift(self) -> float | None:
        """How many times as often it happened on the new side; None where it never did on the old one."""
        return (self.k1 / self.n1) / (self.k0 / self.n0) if self.k0 and self.n1 else None

    @property
    def found(self) -> str:
        """What is sure: `fewer` or `more` on the new side, or `open`."""
        if self.high is not None and self.high < 1:
            return "fewer"
        return "more" if self.low > 1 else "open"

    def said(self) -> str:
        top = "…" if self.high is None else f"{self.high:.2f}"
        lift = "" if self.lift is None else f", {self.lift:.2f} times as often"
        return (
            f"{self.measure}: {self.k1:,} of {self.n1:,} ({_percent(self.k1, self.n1)}), before {self.k0:,} of {self.n0:,} "
            f"({_percent(self.k0, self.n0)}){lift} ({self.low:.2f} to {top}): {self.found}"
        )


class ExperimentReport(Result):
    """An experiment that has ended; traffic is as it was before. `sure` is the chance with which all intervals hold at once."""

    group: str
    against: tuple[str, ...]
    audience: str
    share: int
    seconds: float
    unknown: float
    """Seconds of which nothing is known: they are not in the counts."""
    sure: float
    compared: tuple[Compared, ...]

    @property
    def uneven(self) -> tuple[Compared, ...]:
        """Measures of which more came to one side than chance explains: what they say is not to be trusted."""
        return tuple(one for one in self.compared if one.mismatch is not None and one.mismatch < MISMATCH)

    @property
    def decided(self) -> bool:
        return all(one.found != "open" for one in self.compared)

    def summary(self) -> str:
        warned = f"; uneven sides: {', '.join(one.measure for one in self.uneven)}" if self.uneven else ""
        return "; ".join(one.said() for one in self.compared) + warned


MISMATCH = 0.001
"""Sides that are as uneven with a smaller chance are not what was wanted: something is wrong with the experiment itself."""


def compared(measure: str, tally: Tally, *, alpha: float, share: float | None = None) -> Compared:
    """What is known by now; with the share of the new side (0 to 1), also whether the sides are as large as was wanted."""
    low, high = lift(tally, alpha)
    counts = tally.counts
    uneven = None if share is None else min(1.0, math.exp(-evidence(counts.n1, counts.n0, share)))
    return Compared(measure=measure, k0=counts.k0, n0=counts.n0, k1=counts.k1, n1=counts.n1, low=low, high=high, mismatch=uneven)


def lift(tally: Tally, alpha: float) -> tuple[float, float | None]:
    """Between what the lift is with a chance of 1 - `alpha`, at all moments together; no upper bound is None."""
    mixed = [prior + log for prior, log in zip(PRIOR, tally.likelihoods, strict=True)]
    most = max(mixed)
    bound = most + math.log(sum(math.exp(log - most) for log in mixed)) + math.log(alpha)
    left = [place for place, log in enumerate(tally.likelihoods) if log > bound]  # in one piece: it is concave
    first, last = left[0], left[-1]
    return GRID[first - 1] if first else 0.0, GRID[last + 1] if last + 1 < len(GRID) else None


def evidence(ones: int, zeros: int, chance: float) -> float:
    """The logarithm of the e-value against one chance of a one, by a mixture over all of them alike."""
    mixed = math.lgamma(ones + 1) + math.lgamma(zeros + 1) - math.lgamma(ones + zeros + 2)
    one = ones * math.log(chance) if ones else 0.0
    zero = zeros * math.log1p(-chance) if zeros else 0.0
    return mixed - one - zero


def _percent(part: int, of: int) -> str:
    return f"{100 * part / of:.2f}%" if of else "-"
