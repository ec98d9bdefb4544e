"""What an experiment says of its sides: pure, and simulated."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gates.eprocess import Counts
from gates.experiment import MISMATCH, Tally, compared, lift

EVENTS, REQUESTS = st.integers(0, 1000), st.integers(1000, 9000)
TICKS = st.lists(st.builds(Counts, EVENTS, REQUESTS, EVENTS, REQUESTS), min_size=1, max_size=5)


def tally(*ticks: Counts) -> Tally:
    found = Tally()
    for tick in ticks:
        found = found.after(tick)
    return found


@given(TICKS, st.floats(0.001, 0.2))
def test_to_be_surer_an_interval_is_wider(ticks: list[Counts], alpha: float) -> None:
    found = tally(*ticks)
    low, high = lift(found, alpha)
    wider_low, wider_high = lift(found, alpha / 2)
    assert wider_low <= low
    assert (high or math.inf) <= (wider_high or math.inf)


@given(TICKS)
def test_sides_that_change_places_have_the_inverse_lift(ticks: list[Counts]) -> None:
    low, high = lift(tally(*ticks), 0.05)
    other_low, other_high = lift(tally(*(Counts(tick.k1, tick.n1, tick.k0, tick.n0) for tick in ticks)), 0.05)
    assert (high is None, other_high is None) == (other_low == 0, low == 0)
    assert high is None or high * other_low == pytest.approx(1, rel=1e-6)
    assert other_high is None or low * other_high == pytest.approx(1, rel=1e-6)


@given(st.integers(30, 300), st.integers(30, 300), REQUESTS)
def test_an_interval_of_one_tick_is_that_of_a_beta_mixture_where_sides_are_as_large(k0: int, k1: int, n: int) -> None:
    """In closed form: the mixture over all chances alike is a beta function (Robbins)."""
    low, high = lift(tally(Counts(k0, n, k1, n)), 0.05)
    mixed = math.lgamma(k1 + 1) + math.lgamma(k0 + 1) - math.lgamma(k0 + k1 + 2)

    def sure(one: float) -> float:
        return mixed - k1 * math.log(one / (1 + one)) - k0 * math.log(1 / (1 + one)) + math.log(0.05)

    assert high is not None
    assert sure(low / 1.03) > 0 > sure(low * 1.03)
    assert sure(high * 1.03) > 0 > sure(high / 1.03)


def test_where_nothing_happened_nothing_is_known() -> None:
    assert lift(Tally(), 0.05) == (0.0, None)
    assert lift(tally(Counts(0, 50, 0, 50), Counts(3, 9, 0, 0)), 0.05) == (0.0, None)


def test_what_happens_to_both_while_most_come_to_one_side_is_nobodys_fault() -> None:
    """One in a hundred fails on both sides, and one in ten in an incident, when the new side gets a tenth of the requests."""
    quiet, incident = Counts(50, 5000, 50, 5000), Counts(900, 9000, 100, 1000)
    low, high = lift(tally(quiet, incident), 0.05)
    assert high is not None
    assert low < 1 < high


@pytest.mark.parametrize("true", [0.5, 1.0, 1.5])
def test_an_interval_that_is_looked_at_after_every_tick_leaves_out_the_true_lift_in_fewer_than_alpha_of_all_experiments(
    true: float,
) -> None:
    """The share of the new side and how often something happens to both change from tick to tick, together."""
    draw, missed = random.Random(7), 0
    for _ in range(200):
        found, out = Tally(), False
        for _ in range(40):
            busy = draw.random()
            n0, n1, often = 100, round(100 * (1.05 - busy)) + 1, 0.02 + 0.1 * busy
            k0 = sum(draw.random() < often for _ in range(n0))
            k1 = sum(draw.random() < often * true for _ in range(n1))
            found = found.after(Counts(k0, n0, k1, n1))
            low, high = lift(found, 0.1)
            out = out or not low <= true <= (high if high is not None else true)
        missed += out
    assert missed <= 20


def test_what_is_sure_is_said() -> None:
    fewer = compared("orders given up", tally(Counts(500, 5000, 300, 5000)), alpha=0.05, share=0.5)
    assert fewer.found == "fewer"
    assert fewer.said() == (
        "orders given up: 300 of 5,000 (6.00%), before 500 of 5,000 (10.00%), 0.60 times as often (0.46 to 0.78): fewer"
    )
    assert compared("x", tally(Counts(300, 5000, 500, 5000)), alpha=0.05).found == "more"
    unsure = compared("x", tally(Counts(0, 50, 1, 50)), alpha=0.05)
    assert (unsure.found, unsure.high, unsure.lift) == ("open", None, None)
    assert "(0.03 to" in unsure.said()
    assert "to …): open" in unsure.said()


def test_sides_that_are_not_as_large_as_was_wanted_are_noticed() -> None:
    even = compared("x", tally(Counts(0, 5040, 0, 4960)), alpha=0.05, share=0.5)
    uneven = compared("x", tally(Counts(0, 5400, 0, 4600)), alpha=0.05, share=0.5)
    assert even.mismatch is not None
    assert uneven.mismatch is not None
    assert even.mismatch > 0.1
    assert uneven.mismatch < MISMATCH
    assert compared("x", tally(Counts(0, 9000, 0, 1000)), alpha=0.05, share=0.1).mismatch == 1.0
