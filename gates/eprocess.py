"""Evidence that may be looked at after every tick: e-processes for "the new release fails more often than is tolerated".

In a tick the old release has `k0` of `n0`, the new one `k1` of `n1`. Given k = k0 + k1, where the two fail equally often, k1 is
binomial with q = n1 / (n0 + n1); where the new one fails `lift` times as often, with q = lift n1 / (lift n1 + n0). So what is
common to both in a tick, a slow database or the hour of the day, cancels out. The product of the ratios of these likelihoods
over all ticks, averaged over several lifts, is an e-process: while the new release is not worse, the chance that it ever reaches
1/alpha is at most alpha (Ville's inequality), however often it is looked at.
Sources: A. Ramdas, P. Grünwald, V. Vovk, G. Shafer, Game-theoretic statistics and safe anytime-valid inference, Statistical
Science 38 (2023); R. Turner, A. Ly, P. Grünwald, Generic e-variables for exact sequential k-sample tests (2024).

Counts that vary more than chance alone (each side by a factor of its own in each tick, drawn from a gamma distribution with
the squared coefficient of variation `spread`) are negative binomial; given k, k1 then has the weights
C(k1 + r - 1, k1) C(k0 + r - 1, k0) phi^k1 with r = 1 / spread and phi of both means. `Spread` estimates it on the old release.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

LIFTS = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0)
"""How many times as often as is tolerated the new release may fail: what evidence is gathered for."""

PROTECTIONS = (1.0, 0.8, 0.6, 0.4, 0.2)
"""How many times as often, of what would be harm, it may fail: what evidence against harm is gathered for."""

OVERFLOW = 1e200


@dataclass(frozen=True)
class Counts:
    """Of one tick: `k0` of `n0` on the old side, `k1` of `n1` on the new one."""

    k0: int
    n0: int
    k1: int
    n1: int

    @property
    def comparable(self) -> bool:
        """Whether both sides did anything."""
        return self.n0 > 0 and self.n1 > 0


NOTHING = Counts(0, 0, 0, 0)


@dataclass(frozen=True)
class Spread:
    """How much more than by chance the old release's counts vary from tick to tick, and how often it fails.

    Two ticks in a row are compared, so that what changes slowly, as with the hour of the day, does not count.
    """

    excess: float = 0.0
    weight: float = 0.0
    square: float = 0.0
    last: tuple[int, int] | None = None
    failed: float = 0.0
    of: float = 0.0
    """Failures and requests, those of ten ticks ago weighing a third."""

    def after(self, k0: int, n0: int) -> Spread:
        """With one more tick of the old release."""
        if n0 <= 0:
            return self
        seen = replace(self, last=(k0, n0), failed=0.9 * self.failed + k0, of=0.9 * self.of + n0)
        if self.last is None:
            return seen
        k, n = self.last
        pooled = (k + k0) / (n + n0)
        more = (k0 / n0 - k / n) ** 2 - pooled * (1 / n + 1 / n0)
        return replace(
            seen,
            excess=self.excess + more,
            weight=self.weight + 2 * (k0 / n0) * (k / n),
            square=self.square + more * more,
        )

    @property
    def variation(self) -> float:
        """The squared coefficient of variation beyond chance; 0 where nothing is known of it.

        One standard error is put on top, and of few failures in a tick less: there it hardly matters how much they vary.
        """
        if self.weight <= 0:
            return 0.0
        each = 0.1 * self.failed
        return max(self.excess + math.sqrt(self.square) * each / (each + 10), 0.0) / self.weight

    def rate(self, counts: Counts) -> float:
        """How often requests of both sides fail, by this tick and those before: a function of k and of the past alone."""
        own = (counts.k0 + counts.k1) / (counts.n0 + counts.n1)
        return (self.failed / self.of + 0.5 * own) / 1.5 if self.of else own


def likelihoods(counts: Counts, lifts: tuple[float, ...], *, variation: float, rate: float) -> list[float]:
    """The logarithm of the likelihood of k1, given k, for each lift; up to a constant that all of them have."""
    if variation * rate * counts.n0 < 1e-3 or rate <= 0:
        return [_binomial(counts, lift) for lift in lifts]
    return _negative_binomial(counts, lifts, 1 / variation, rate)


def _binomial(counts: Counts, lift: float) -> float:
    q = lift * counts.n1 / (lift * counts.n1 + counts.n0)
    return counts.k1 * math.log(q) + counts.k0 * math.log1p(-q)


def _negative_binomial(counts: Counts, lifts: tuple[float, ...], shape: float, rate: float) -> list[float]:
    old = counts.n0 * rate
    odds = [(lift * counts.n1 * rate) * (old + shape) / ((lift * counts.n1 * rate + shape) * old) for lift in lifts]
    sums, ones, logs = [1.0] * len(odds), [1.0] * len(odds), [0.0] * len(odds)
    k = counts.k0 + counts.k1
    for j in range(k - 1, -1, -1):  # Horner's scheme, from the highest power down
        ratio = (j + shape) / (j + 1) * (k - j) / (k - j - 1 + shape)
        for number, phi in enumerate(odds):
            value = ones[number] + sums[number] * ratio * phi
            if value > OVERFLOW:
                logs[number] += math.log(value)
                ones[number], value = ones[number] / value, 1.0
            sums[number] = value
    return [counts.k1 * math.log(phi) - math.log(total) - log for phi, total, log in zip(odds, sums, logs, strict=True)]


def within_budget(k1: int, n1: int, budget: float, share: float, *, variation: float) -> float:
    """The logarithm of how much likelier `k1` failures of `n1` are at `share` of the budget than at the budget itself."""
    mean, less = n1 * budget, n1 * budget * share
    if variation * mean < 1e-3:
        return k1 * math.log(share) + (n1 - k1) * (math.log1p(-budget * share) - math.log1p(-budget))
    shape = 1 / variation
    return k1 * math.log(share * (mean + shape) / (less + shape)) + shape * math.log((mean + shape) / (less + shape))


def average(logs: tuple[float, ...]) -> float:
    """The mean of e-values that are given as logarithms; an e-value is capped where a float ends."""
    return sum(math.exp(min(log, 700.0)) for log in logs) / len(logs)
