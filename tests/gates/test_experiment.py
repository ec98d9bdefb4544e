"""What an experiment says of its sides: pure, and simulated."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gates.eprocess import Counts
from gates.experiment import MISMATCH, chances, compared, evidence, lift

NUMBERS = st.integers(0, 10_000)


@given(NUMBERS, NUMBERS, st.floats(0.001, 0.5))
def test_an_interval_holds_what_was_seen_and_its_edges_are_where_the_evidence_is_as_much_as_needed(
    ones: int, zeros: int, alpha: float
) -> None:
    if not ones + zeros:
        assert lift(Counts(0, 5, 0, 5), alpha) == (0.0, None)
        return
    low, high = chances(ones, zeros, alpha)
    assert 0 <= low <= ones / (ones + zeros) <= high <= 1
    for edge in (low, high):
        if 0 < edge < 1:
            assert evidence(ones, zeros, edge) == pytest.approx(-math.log(alpha), abs=1e-6)


@given(NUMBERS, NUMBERS, st.floats(0.001, 0.2))
def test_to_be_surer_an_interval_is_wider(ones: int, zeros: int, alpha: float) -> None:
    if ones + zeros:
        low, high = chances(ones, zeros, alpha)
        wider_low, wider_high = chances(ones, zeros, alpha / 2)
        assert wider_low <= low
        assert high <= wider_high


@given(st.integers(1, 1000), st.integers(1, 1000), st.integers(1000, 9000), st.integers(1000, 9000))
def test_sides_that_change_places_have_the_inverse_lift(k0: int, k1: int, n0: int, n1: int) -> None:
    low, high = lift(Counts(k0, n0, k1, n1), 0.05)
    other_low, other_high = lift(Counts(k1, n1, k0, n0), 0.05)
    assert high is not None
    assert other_high is not None
    assert low * other_high == pytest.approx(1, rel=1e-6)
    assert high * other_low == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("true", [0.5, 1.0, 1.5])
def test_an_interval_that_is_looked_at_after_every_tick_leaves_out_the_true_lift_in_fewer_than_alpha_of_all_experiments(
    true: float,
) -> None:
    draw, missed = random.Random(7), 0
    for _ in range(300):
        k0 = k1 = n = 0
        out = False
        for _ in range(60):
            n += 100
            k0 += sum(draw.random() < 0.05 for _ in range(100))
            k1 += sum(draw.random() < 0.05 * true for _ in range(100))
            low, high = lift(Counts(k0, n, k1, n), 0.1)
            out = out or not low <= true <= (high if high is not None else true)
        missed += out
    assert missed <= 30


def test_what_is_sure_is_said() -> None:
    fewer = compared("orders given up", Counts(500, 5000, 300, 5000), alpha=0.05, share=0.5)
    assert fewer.found == "fewer"
    assert fewer.said() == (
        "orders given up: 300 of 5,000 (6.00%), before 500 of 5,000 (10.00%), 0.60 times as often (0.46 to 0.77): fewer"
    )
    assert compared("x", Counts(300, 5000, 500, 5000), alpha=0.05).found == "more"
    unsure = compared("x", Counts(0, 50, 1, 50), alpha=0.05)
    assert (unsure.found, unsure.high, unsure.lift) == ("open", None, None)
    assert "(0.03 to" in unsure.said()
    assert "to …): open" in unsure.said()


def test_sides_that_are_not_as_large_as_was_wanted_are_noticed() -> None:
    even = compared("x", Counts(0, 5040, 0, 4960), alpha=0.05, share=0.5)
    uneven = compared("x", Counts(0, 5400, 0, 4600), alpha=0.05, share=0.5)
    assert even.mismatch is not None
    assert uneven.mismatch is not None
    assert even.mismatch > 0.1
    assert uneven.mismatch < MISMATCH
    assert compared("x", Counts(0, 9000, 0, 1000), alpha=0.05, share=0.1).mismatch == 1.0
