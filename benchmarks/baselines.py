"""How Kayenta, Flagger and Argo Rollouts decide, at their defaults, written anew: when each of them gives a canary up.

Each takes what the judge takes, by ticks: requests, errors and the 95th percentile of latency of both sides, and returns the
number of ticks after which it aborts, or None. Kayenta is given errors and latency, both as critical metrics.
Sources: Kayenta's NetflixACAJudge (MannWhitneyClassifier with a confidence of 0.98, tolerance 0.25 and critical metrics; marginal
50, pass 75); Flagger's documentation (request-success-rate at least 99 over one minute, threshold 5, request-duration at most 500
ms); Argo Rollouts' documentation (success rate at least 0.95 over each interval, failureLimit 0).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Counts: TypeAlias = NDArray[np.int64]
Values: TypeAlias = NDArray[np.float64]

MINUTE = 60.0


@dataclass(frozen=True)
class Series:
    """One rollout: for each tick requests, errors and 95th percentile (ms) of the old and of the new release; -1: not known."""

    seconds: float
    n0: Counts
    k0: Counts
    q0: Values
    n1: Counts
    k1: Counts
    q1: Values

    @property
    def each(self) -> int:
        """Ticks in a minute."""
        return round(MINUTE / self.seconds)


def flagger(series: Series) -> int | None:
    """Each minute in which less than 99 % of the canary's requests succeed, or take 500 ms, counts; at the fifth it goes back.

    The percentile of latency is the 95th here, and the 99th in its documentation.
    """
    failed = 0
    for end in range(series.each, len(series.n1) + 1, series.each):
        n, k = _known(series, end)
        slow = series.q1[end - series.each : end].mean() > 500
        failed += bool(n and ((n - k) / n < 0.99 or slow))
        if failed == 5:
            return end
    return None


def argo(series: Series) -> int | None:
    """The first minute in which less than 95 % of the canary's requests succeed fails the analysis."""
    for end in range(series.each, len(series.n1) + 1, series.each):
        n, k = _known(series, end)
        if n and (n - k) / n < 0.95:
            return end
    return None


def _known(series: Series, end: int) -> tuple[int, int]:
    last = slice(end - series.each, end)
    known = series.n1[last] >= 0
    return int(series.n1[last][known].sum()), int(series.k1[last][known].sum())


def kayenta(series: Series) -> int | None:
    """Each minute all that is known so far is compared: a critical metric that is classified High ends the analysis."""
    for end in range(series.each, len(series.n1) + 1, series.each):
        known = (series.n1[:end] > 0) & (series.n0[:end] > 0)
        errors = [k[:end][known] / n[:end][known] for k, n in ((series.k1, series.n1), (series.k0, series.n0))]
        slow = [series.q1[:end][known], series.q0[:end][known]]
        if known.any() and (is_high(*errors) or is_high(*slow)):
            return end
    return None


def is_high(new: Values, old: Values, *, confidence: float = 0.98, tolerance: float = 0.25) -> bool:
    """Whether the interval of the shift (Hodges and Lehmann) lies above the tolerance, and the mean is larger."""
    if np.ptp(new) == np.ptp(old) == 0:  # nothing to rank
        return bool(new.mean() > old.mean())
    differences = np.sort((new[:, None] - old[None, :]).ravel())
    shift = float(np.median(differences))
    lower = float(differences[max(_rank(new, old, confidence), 0)])
    return bool(lower > tolerance * abs(shift) and new.mean() >= old.mean())


def _rank(new: Values, old: Values, confidence: float) -> int:
    """Which of the sorted differences is the lower end of the interval, by the normal approximation corrected for ties."""
    m, n = len(new), len(old)
    _, ties = np.unique(np.concatenate([new, old]), return_counts=True)
    together = m + n
    corrected = (together + 1) - float((ties**3 - ties).sum()) / (together * (together - 1))
    sigma = math.sqrt(m * n / 12 * max(corrected, 0.0))
    z = NormalDist().inv_cdf(1 - (1 - confidence) / 2)
    return math.floor(m * n / 2 - z * sigma - 0.5)
