"""What groups did between two looks at counters that only grow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gates.window import Share
from stages.delivery.sources.polled import Ledger, Reading, Unknown

SIDES = (frozenset({"a", "b"}), frozenset({"c"}))
NOTHING = [Share(part=0, of=0), Share(part=0, of=0)]


def readings(at: float, a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> dict[str, Reading]:
    return {name: Reading(part=part, of=of, at=at) for name, (part, of) in (("a", a), ("b", b), ("c", c))}


def test_before_anything_was_read_nothing_is_known() -> None:
    assert Ledger(SIDES).shares() == [None, None]


def test_what_was_counted_before_the_first_reading_is_nobodys_and_groups_of_a_side_are_added_up() -> None:
    ledger = Ledger(SIDES)
    ledger.see(readings(1, (5, 100), (0, 7), (9, 9)))
    assert ledger.shares() == NOTHING
    ledger.see(readings(2, (6, 110), (1, 10), (9, 12)))
    assert ledger.shares() == [Share(part=2, of=13), Share(part=0, of=3)]
    assert ledger.shares() == NOTHING


def test_one_side_that_was_counted_anew_waits_for_the_other() -> None:
    ledger = Ledger(SIDES)
    ledger.see(readings(1, (0, 0), (0, 0), (0, 0)))
    ledger.see({**readings(2, (1, 10), (0, 10), (0, 0)), "c": Reading(part=0, of=0, at=1)})
    assert ledger.shares() == NOTHING
    ledger.see({**readings(2, (1, 10), (0, 10), (0, 0)), "c": Reading(part=4, of=8, at=2.5)})
    assert ledger.shares() == [Share(part=1, of=20), Share(part=4, of=8)]


def test_a_counter_that_goes_down_is_unknown_at_that_look_and_begun_anew() -> None:
    ledger = Ledger(SIDES)
    ledger.see(readings(1, (5, 10), (0, 0), (0, 10)))
    with pytest.raises(Unknown, match="the counters of c went down"):
        ledger.see(readings(2, (6, 20), (0, 0), (0, 3)))
    assert ledger.shares() == [None, None]
    ledger.see(readings(3, (7, 30), (0, 0), (1, 5)))
    assert ledger.shares() == [Share(part=1, of=10), Share(part=1, of=2)]


def test_what_was_counted_while_nobody_could_read_is_told_when_somebody_can() -> None:
    ledger = Ledger(SIDES)
    ledger.see(readings(1, (0, 0), (0, 0), (0, 0)))
    ledger.miss()
    assert ledger.shares() == [None, None]
    ledger.see(readings(9, (1, 2), (0, 0), (2, 3)))
    assert ledger.shares() == [Share(part=1, of=2), Share(part=2, of=3)]


GROWS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.booleans()), min_size=1, max_size=30)


@given(old=GROWS, new=GROWS)
def test_nothing_is_lost_or_counted_twice_whatever_the_moments_of_looks(
    old: list[tuple[int, int, bool]], new: list[tuple[int, int, bool]]
) -> None:
    """Parts may come before or after their whole, and a group may not have been counted anew at a look."""
    ledger = Ledger((frozenset({"old"}), frozenset({"new"})))
    now = {"old": Reading(0, 0, 0), "new": Reading(0, 0, 0)}
    told = {"old": (0, 0), "new": (0, 0)}

    def look() -> None:
        ledger.see(now)
        for side, share in zip(("old", "new"), ledger.shares(), strict=True):
            assert share is not None
            told[side] = (told[side][0] + share.part, told[side][1] + share.of)

    look()
    for number, steps in enumerate(zip(old, new, strict=False), 1):
        for side, (part, of, moves) in zip(("old", "new"), steps, strict=True):
            if moves:
                now[side] = Reading(now[side].part + part, now[side].of + of, number)
        look()
        assert all(told[side][0] <= now[side].part and told[side][1] <= now[side].of for side in told)
    now = {side: Reading(one.part, one.of + 1000, 1e6) for side, one in now.items()}
    look()
    assert told == {side: (one.part, one.of) for side, one in now.items()}
