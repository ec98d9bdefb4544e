"""Evidence that may be looked at after every tick: it is fair, it grows on what it is for, and knows its own spread."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gates.eprocess import LIFTS, PROTECTIONS, Counts, Spread, average, likelihoods, within_budget

SIZES = st.integers(min_value=1, max_value=400)


def given_k(k: int, n0: int, n1: int, lift: float, shape: float, rate: float) -> list[float]:
    """The chance of each k1 given k, from the formula as it is written: binomial, or weights of two negative binomials."""
    if math.isinf(shape):
        q = lift * n1 / (lift * n1 + n0)
        return [math.comb(k, k1) * q**k1 * (1 - q) ** (k - k1) for k1 in range(k + 1)]
    m0, m1 = n0 * rate, lift * n1 * rate
    phi = (m1 / (m1 + shape)) / (m0 / (m0 + shape))

    def ways(number: int) -> float:
        return math.exp(math.lgamma(number + shape) - math.lgamma(shape) - math.lgamma(number + 1))

    weights = [ways(k1) * ways(k - k1) * phi**k1 for k1 in range(k + 1)]
    return [weight / sum(weights) for weight in weights]


@given(k=st.integers(0, 40), n0=SIZES, n1=SIZES, variation=st.sampled_from([0.0, 0.05, 0.5, 2.0]))
def test_ratios_of_likelihoods_are_those_of_the_distributions_they_stand_for(k: int, n0: int, n1: int, variation: float) -> None:
    rate = 0.05
    negligible = variation * rate * n0 < 1e-3
    shape = math.inf if negligible else 1 / variation
    for k1 in range(k + 1):
        base, *found = likelihoods(Counts(k - k1, n0, k1, n1), (1.0, *LIFTS), variation=variation, rate=rate)
        for lift, log in zip(LIFTS, found, strict=True):
            expected = given_k(k, n0, n1, lift, shape, rate)[k1] / given_k(k, n0, n1, 1.0, shape, rate)[k1]
            assert math.exp(log - base) == pytest.approx(expected, rel=1e-6)


@given(k=st.integers(0, 40), n0=SIZES, n1=SIZES, variation=st.sampled_from([0.0, 0.5]), part=st.sampled_from(PROTECTIONS[1:]))
def test_evidence_is_worth_one_on_average_where_it_should_say_nothing(
    k: int, n0: int, n1: int, variation: float, part: float
) -> None:
    """Its mean over all that can happen is 1 at the border of what it speaks against, and less inside."""
    rate = 0.05
    shape = math.inf if variation * rate * n0 < 1e-3 else 1 / variation
    for truth, border, other in ((1.0, 1.0, 5.0), (0.5, 1.0, 5.0), (2.0, 2.0, 2.0 * part), (3.0, 2.0, 2.0 * part)):
        chances = given_k(k, n0, n1, truth, shape, rate)
        logs = [likelihoods(Counts(k - k1, n0, k1, n1), (border, other), variation=variation, rate=rate) for k1 in range(k + 1)]
        mean = sum(chance * math.exp(theirs - own) for chance, (own, theirs) in zip(chances, logs, strict=True))
        assert mean == pytest.approx(1.0, rel=1e-6) if truth == border else mean <= 1.0 + 1e-9


def test_thousands_of_failures_in_a_tick_overflow_nothing() -> None:
    found = likelihoods(Counts(30_000, 900_000, 3_000, 50_000), (1.0, 20.0), variation=0.3, rate=0.03)
    assert all(math.isfinite(log) for log in found)
    assert found[0] > found[1]


@given(
    n1=st.integers(1, 60),
    variation=st.sampled_from([0.0, 0.5]),
    share=st.sampled_from([0.05, 0.5]),
    truth=st.sampled_from([0.02, 0.05]),
)
def test_evidence_of_a_budget_that_is_kept_is_worth_at_most_one_where_it_is_not(
    n1: int, variation: float, share: float, truth: float
) -> None:
    budget = 0.02
    if variation:  # negative binomial
        shape, mean = 1 / variation, n1 * truth
        chance = [
            math.exp(
                math.lgamma(k + shape) - math.lgamma(shape) - math.lgamma(k + 1)
                + k * math.log(mean / (mean + shape)) + shape * math.log(shape / (mean + shape))
            )
            for k in range(400)
        ]  # fmt: skip
        if variation * n1 * budget < 1e-3:
            return
    else:
        chance = [math.comb(n1, k) * truth**k * (1 - truth) ** (n1 - k) for k in range(n1 + 1)]
    mean_value = sum(one * math.exp(within_budget(k, n1, budget, share, variation=variation)) for k, one in enumerate(chance))
    assert mean_value <= 1.0 + 1e-6
    if truth == budget:
        assert mean_value == pytest.approx(1.0, rel=1e-4)


def spread_of(variation: float, *, drift: float = 0.0, ticks: int = 300, seed: int = 1) -> Spread:
    rng, spread = random.Random(seed), Spread()
    for number in range(ticks):
        often = 0.02 * (1 + drift * math.sin(number / 30))
        often *= rng.gammavariate(1 / variation, variation) if variation else 1.0
        spread = spread.after(sum(rng.random() < often for _ in range(2_000)), 2_000)
    return spread


def test_counts_that_vary_more_than_by_chance_are_seen_to() -> None:
    assert spread_of(0.0).variation < 0.02
    assert 0.1 < spread_of(0.2).variation < 0.5
    assert spread_of(0.0, drift=0.5).variation < 0.02  # what changes slowly is the same for both


def test_nothing_is_known_of_the_spread_before_two_ticks_and_nothing_is_learnt_from_an_empty_one() -> None:
    assert Spread().variation == Spread().after(3, 100).variation == 0.0
    assert Spread().after(0, 0) == Spread()


def test_the_rate_of_failures_is_that_of_both_sides_now_and_of_the_old_one_before() -> None:
    counts = Counts(k0=4, n0=80, k1=6, n1=20)
    assert Spread().rate(counts) == pytest.approx(0.1)
    assert Spread().after(1, 100).rate(counts) == pytest.approx((0.01 + 0.05) / 1.5)


def test_an_average_of_evidence_is_one_where_nothing_is_known_and_never_overflows() -> None:
    assert average((0.0, 0.0)) == 1.0
    assert average((1e6, 0.0)) > 1e300
