"""What an experiment found: how often something happened on each side, and by how much more, at any moment.

Both sides get fixed shares at the same time. Of k = k0 + k1 events, each is one of the new side with the chance
theta = lift n1 / (lift n1 + n0). Mixed over all theta alike, the likelihood of what was seen by that of any one theta is a
martingale there, so all theta at which it never reached 1/alpha hold the true one with a chance of 1 - alpha however often it
is looked at. Whether as many came to each side as was wanted is tested in the same way.
Sources: H. Robbins, Statistical methods related to the law of the iterated logarithm (1970), section 9; M. Lindon, A. Malek,
Anytime-valid inference for multinomial count data (2022), also for sample ratio mismatch. Exact for events that are rare and come
on their own; where they are frequent (a third of all, say), intervals are wider than they need be. Events of one user do
not come on their own: what counts users is better evidence than what counts requests.
"""

from __future__ import annotations

import math

from gates.eprocess import Counts
from pipeline import Result

CLOSE = 60
"""Bisections: more than doubles can tell apart."""


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


def compared(measure: str, counts: Counts, *, alpha: float, share: float | None = None) -> Compared:
    """What is known by now; with the share of the new side (0 to 1), also whether the sides are as large as was wanted."""
    low, high = lift(counts, alpha)
    uneven = None if share is None else min(1.0, math.exp(-evidence(counts.n1, counts.n0, share)))
    return Compared(measure=measure, k0=counts.k0, n0=counts.n0, k1=counts.k1, n1=counts.n1, low=low, high=high, mismatch=uneven)


def lift(counts: Counts, alpha: float) -> tuple[float, float | None]:
    """Between what the lift is with a chance of 1 - `alpha`, at all moments together; no upper bound is None."""
    if not counts.comparable or not counts.k0 + counts.k1:
        return 0.0, None
    least, most = chances(counts.k1, counts.k0, alpha)
    odds = counts.n0 / counts.n1
    return odds * least / (1 - least), odds * most / (1 - most) if most < 1 else None


def chances(ones: int, zeros: int, alpha: float) -> tuple[float, float]:
    """The chances of a one that are not ruled out by so many ones and zeros."""
    middle, bound = ones / (ones + zeros), -math.log(alpha)

    def edge(outside: float) -> float:
        inside = middle
        for _ in range(CLOSE):
            between = (inside + outside) / 2
            inside, outside = (between, outside) if evidence(ones, zeros, between) < bound else (inside, between)
        return outside

    return (edge(0.0) if ones else 0.0), (edge(1.0) if zeros else 1.0)


def evidence(ones: int, zeros: int, chance: float) -> float:
    """The logarithm of the e-value against one chance of a one, by a mixture over all of them alike."""
    mixed = math.lgamma(ones + 1) + math.lgamma(zeros + 1) - math.lgamma(ones + zeros + 2)
    one = ones * math.log(chance) if ones else 0.0
    zero = zeros * math.log1p(-chance) if zeros else 0.0
    return mixed - one - zero


def _percent(part: int, of: int) -> str:
    return f"{100 * part / of:.2f}%" if of else "-"
