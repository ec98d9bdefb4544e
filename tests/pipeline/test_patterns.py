"""Which files patterns mean, and whether two may mean the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.patterns import EVERYTHING, Patterns


def only(*include: str, without: tuple[str, ...] = ()) -> Patterns:
    return Patterns(include=include, exclude=without)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (only("docs/**"), only("src/**")),
        (only("docs"), only("src", "pyproject.toml")),
        (only("docs/*.md"), only("docs/*.py")),
        (only("src/a.py"), only("src/b.py")),
        (only("src/test_*"), only("src/bench_*")),
        (only("docs"), only(without=("docs",))),
        (only("docs/**"), only("src", "docs", without=("docs/**",))),
        (only("docs/guide", "docs/x.md"), only(without=("docs/*",))),
    ],
)
def test_patterns_that_can_mean_no_file_in_common_are_told_apart(one: Patterns, other: Patterns) -> None:
    assert not one.overlap(other)
    assert not other.overlap(one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (EVERYTHING, only("src")),
        (only("src"), only("src/pkg/**")),
        (only("**/*.py"), only("src")),
        (only("src/a/c/b.py"), only("src/**/b.py")),
        (only("src", "tests"), only("src", "pyproject.toml")),
        (only("src/*.py"), only("src/[ab].py")),
        (only("a*c"), only("ab*")),
        (only("src"), only(without=("src/generated",))),
    ],
)
def test_patterns_that_may_mean_one_file_overlap(one: Patterns, other: Patterns) -> None:
    assert one.overlap(other)
    assert other.overlap(one)


paths = st.lists(st.text("abc", min_size=1, max_size=2), min_size=1, max_size=3).map("/".join)
words = st.sampled_from(["a", "b", "ab", "*", "a*", "*b", "?", "[ab]", "**", "[!a]*", "a]b", "*]"])
patterns = st.lists(words, min_size=1, max_size=3).map("/".join)
chosen = st.builds(Patterns, include=st.lists(patterns, max_size=2).map(tuple), exclude=st.lists(patterns, max_size=1).map(tuple))


@given(paths, chosen, chosen)
def test_a_file_that_both_mean_is_never_overlooked(path: str, one: Patterns, other: Patterns) -> None:
    if list(one.choose([path])) and list(other.choose([path])):
        assert one.overlap(other)


def test_patterns_say_what_they_mean() -> None:
    assert str(only("src", "docs/**", without=("docs/old",))) == "src, docs/** without docs/old"
    assert str(EVERYTHING) == "all files"
