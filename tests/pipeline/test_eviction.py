"""What a store gives up: the least recently used, and nothing that is still needed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.eviction import Kept, evict

SIZES = {"a": 10, "b": 20, "c": 30, "shared": 5, "loose": 7}
RESULTS = [Kept("old", 1.0, ["a", "shared"]), Kept("mid", 2.0, ["b", "shared"]), Kept("new", 3.0, ["c"])]


def test_without_a_limit_only_what_nothing_needs_goes() -> None:
    gone = evict(RESULTS, SIZES, ())
    assert (gone.keys, gone.objects) == ((), ("loose",))


def test_what_was_used_least_recently_goes_first() -> None:
    assert evict(RESULTS, SIZES, (), largest=60).keys == ("old",)
    assert evict(RESULTS, SIZES, (), largest=60).objects == ("a", "loose")
    assert evict(RESULTS, SIZES, (), largest=30).keys == ("old", "mid")
    assert evict(RESULTS, SIZES, (), largest=1).keys == ("old", "mid", "new")


def test_a_small_old_result_does_not_outlive_a_large_newer_one() -> None:
    results = [Kept("small", 1.0, ["shared"]), Kept("large", 2.0, ["c"]), Kept("new", 3.0, ["a"])]
    assert evict(results, SIZES, (), largest=20).keys == ("small", "large")


def test_what_was_not_used_since_goes_however_much_room_there_is() -> None:
    assert evict(RESULTS, SIZES, (), oldest=2.5).keys == ("old", "mid")


def test_what_is_needed_stays_however_old_and_large_it_is() -> None:
    gone = evict(RESULTS, SIZES, {"a", "shared"}, largest=1, oldest=9.0)
    assert gone.keys == ("mid", "new")
    assert gone.objects == ("b", "c", "loose")


NAMES = st.sampled_from("abcdefgh")


@given(
    st.lists(st.tuples(st.floats(0, 100), st.lists(NAMES, max_size=4)), max_size=12),
    st.dictionaries(NAMES, st.integers(0, 50)),
    st.sets(NAMES),
    st.integers(0, 150),
    st.floats(0, 100),
)
def test_what_is_kept_is_whole_needed_or_recent_and_fits(
    rows: list[tuple[float, list[str]]], sizes: dict[str, int], needed: set[str], largest: int, oldest: float
) -> None:
    results = [Kept(str(number), used, objects) for number, (used, objects) in enumerate(rows)]
    gone = evict(results, sizes, needed, largest=largest, oldest=oldest)
    left = sizes.keys() - set(gone.objects)
    stay = [result for result in results if result.key not in gone.keys]
    assert needed & sizes.keys() <= left
    assert all(set(result.objects) & sizes.keys() <= left for result in stay)
    assert left == (needed & sizes.keys()).union(*(set(result.objects) & sizes.keys() for result in stay))
    always = sum(sizes[name] for name in needed & sizes.keys())
    assert not largest or sum(sizes[name] for name in left) <= max(largest, always)
    out = [result.used for result in results if result.key in gone.keys and result.used >= oldest]
    kept_for_their_age = [r.used for r in stay if set(r.objects) & sizes.keys() - needed]
    assert not out or not kept_for_their_age or max(out) <= max(kept_for_their_age)
