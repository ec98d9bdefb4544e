"""Keys: what they are made of, and that nothing that matters is left out."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import Result, WiringError
from pipeline.key import code, plain
from stages.ruff import Lint
from tests.pipeline.toys import Constant


class Colour(Enum):
    RED = 1


@dataclass(frozen=True)
class Limit:
    at_most: int


class Model(Result):
    x: int


def adder(number: int) -> Any:
    return lambda value: value + number


def other(number: int) -> Any:
    return lambda value: value - number


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (adder(1), adder(2)),
        (adder(1), other(1)),
        (Limit(1), Limit(2)),
        (Model(x=1), Model(x=2)),
        (functools.partial(adder, 1), functools.partial(adder, 2)),
        (Path("a"), Path("b")),
        (b"a", b"b"),
        (Colour.RED, "RED"),
        (frozenset({1}), frozenset({2})),
        ({"a": 1}, {"a": 2}),
        (Limit, Model),
        (("a", "b"), ("ab",)),
        (1, True and "1"),
    ],
)
def test_different_settings_have_different_forms(one: Any, two: Any) -> None:
    assert plain(one, "x") != plain(two, "x")


def test_equal_settings_have_one_form_whatever_their_order() -> None:
    assert plain(frozenset({"b", "a"}), "x") == plain(frozenset({"a", "b"}), "x") == ["a", "b"]
    assert plain(adder(1), "x") == plain(adder(1), "x")


def test_what_has_no_form_is_refused_with_its_place() -> None:
    with pytest.raises(WiringError, match=r"Stage.field holds a object, which cannot be part of a key"):
        plain(object(), "Stage.field")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_plain_data_stays_what_it_is(value: Any) -> None:
    assert plain(value, "x") == value


def test_the_code_of_a_stage_covers_the_modules_it_is_made_of() -> None:
    assert code(Lint) != code(Constant)
    assert len(code(Lint)) == 64
    assert code(int) == "built in"
