"""The frozen base: fields by keyword, compared by value, nothing changed afterwards."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pipeline import Only, Stage, WiringError, Work
from pipeline.frozen import Frozen
from tests.pipeline.toys import Constant, Number, Sum


class Point(Frozen):
    x: int
    y: int = 2
    names: list[str] = dataclasses.field(default_factory=list)
    hidden: str = dataclasses.field(default="", repr=False, compare=False)


def test_fields_are_given_by_keyword_and_have_defaults() -> None:
    point = Point(x=1)
    assert (point.x, point.y, point.names) == (1, 2, [])
    assert point.names is not Point(x=1).names
    assert dataclasses.replace(point, y=3) == Point(x=1, y=3)
    made: Any = Point
    with pytest.raises(TypeError, match="positional"):
        made(1)


def test_a_field_that_is_missing_or_unknown_is_named_with_what_would_have_been_right() -> None:
    made: Any = Sum
    with pytest.raises(WiringError, match=r"Sum needs parts\n  expected: Sum\(parts=...\)"):
        made()
    with pytest.raises(WiringError, match=r"Sum has no field 'prats'\n  expected: did you mean 'parts'\?"):
        made(prats=())


def test_a_field_that_a_class_fills_itself_is_not_given() -> None:
    class Line(Frozen):
        text: str
        length: int = dataclasses.field(init=False, default=0)

        def __post_init__(self) -> None:
            object.__setattr__(self, "length", len(self.text))

    made: Any = Line
    assert made(text="four").length == 4
    with pytest.raises(WiringError, match="Line has no field 'length'"):
        made(text="four", length=5)


def test_nothing_is_changed_or_deleted_afterwards() -> None:
    point: Any = Point(x=1)
    with pytest.raises(dataclasses.FrozenInstanceError, match="x"):
        point.x = 2
    with pytest.raises(dataclasses.FrozenInstanceError, match="x"):
        del point.x
    assert point.x == 1


def test_values_are_compared_by_type_and_fields_and_stages_by_identity() -> None:
    class Other(Point):
        """Has the same fields."""

    assert Point(x=1, names=["a"]) == Point(x=1, names=["a"], hidden="h")
    assert Point(x=1) != Point(x=2)
    assert Point(x=1) != Other(x=1)
    assert Point(x=1) != 1
    first, second = Constant(value=1), Constant(value=1)
    assert first == first  # noqa: PLR0124 - the point of it
    assert first != second
    assert len({first, second}) == 2


def test_equal_values_have_equal_hashes() -> None:
    class Key(Frozen):
        x: int

    assert len({Key(x=1), Key(x=1), Key(x=2)}) == 2


def test_a_value_shows_its_fields_and_a_stage_only_its_class() -> None:
    assert repr(Point(x=1, hidden="h")) == "Point(x=1, y=2, names=[])"
    assert repr(Constant(value=1)) == "<Constant>"


def test_what_a_class_checks_of_its_fields_is_checked_when_an_instance_is_made() -> None:
    class Positive(Stage[Number]):
        value: int

        def __post_init__(self) -> None:
            if self.value <= 0:
                raise WiringError("value is not positive")

        async def run(self, work: Work) -> Number:
            return Number(value=self.value)

    assert Positive(value=1).value == 1
    with pytest.raises(WiringError, match="not positive"):
        Positive(value=0)


def test_a_text_in_place_of_a_tuple_is_refused_before_it_is_taken_letter_by_letter() -> None:
    made: Any = Only
    with pytest.raises(WiringError, match=r"Only.branch is the text 'main'\n  expected: a tuple: \('main',\)"):
        made(branch="main")
    both: Any = dataclasses.make_dataclass("Both", [("names", "tuple[str, ...] | str")], bases=(Frozen,), init=False)
    assert both(names="main").names == "main"
