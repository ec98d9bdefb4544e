"""The names of stages, and the directories they have."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import WiringError
from pipeline.names import LONGEST, checked_name, directory_name, is_label, member_name
from pipeline.project import log_directory


@pytest.mark.parametrize("name", ["unit", "unit-3.12", "_x", "größe", "a" * LONGEST])
def test_words_with_dots_and_dashes_are_names(name: str) -> None:
    assert checked_name(name) == name


@pytest.mark.parametrize("name", ["", "a/b", "..", ".", "-x", "a b", "a\n", "\x1b[31m", "a[b]", "3d", "\ud800"])
def test_what_cannot_be_typed_or_made_a_directory_of_is_no_name(name: str) -> None:
    with pytest.raises(WiringError, match="no stage may have the name") as caught:
        checked_name(name)
    assert "as in 'unit' or 'unit-3.12'" in caught.value.right


def test_a_name_is_at_most_as_long_as_that_of_a_file() -> None:
    with pytest.raises(WiringError, match="has 256 bytes"):
        checked_name("a" * 256)
    with pytest.raises(WiringError, match="has 256 bytes"):
        checked_name("é" * 128)


@pytest.mark.parametrize("label", ["", "a\nb", " a", "a ", "\u202e", "\ud800", "a" * 250, "/" * 84])
def test_what_cannot_be_seen_or_made_a_directory_of_is_no_label(label: str) -> None:
    assert not is_label("tests", label)


@given(st.lists(st.text("ab/%2F._ é[]"), min_size=2, max_size=2, unique=True))
def test_two_labels_never_share_a_directory_and_each_has_one(labels: list[str]) -> None:
    names = [member_name("tests", label) for label in labels if is_label("tests", label)]
    found = [log_directory(Path("home"), "run", name) for name in names]
    assert len(set(found)) == len(names)
    assert all(place.parent == Path("home/logs/run") and len(place.name.encode()) <= LONGEST for place in found)


def test_an_ordinary_name_is_its_own_directory() -> None:
    assert directory_name("tests[3.12]") == "tests[3.12]"


def test_a_slash_is_not_taken_for_what_stands_for_it() -> None:
    names = ["m[a/b]", "m[a%2Fb]", "m[a%252Fb]", "m[a_b]"]
    assert len({directory_name(name) for name in names}) == len(names)
