"""Which stages are meant by names, by what failed and by what changed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import Facts, Pipeline, Stage, WiringError, Work
from pipeline.errors import ConfigError
from pipeline.patterns import Patterns
from pipeline.plan import World, plan
from pipeline.record import Record
from pipeline.selection import Selection, aims, check_alone, select
from tests.pipeline.toys import Constant, Half, Number, Sum


class Files(Stage[Number]):
    include: tuple[str, ...] = ()

    def origin(self) -> str:
        return "the working copy"

    def chosen(self) -> Patterns:
        return Patterns(include=self.include)

    async def run(self, work: Work) -> Number:
        return Number(value=0)


class Tells(Files):
    """Tells of all files and takes none."""

    def chosen(self) -> None:  # type: ignore[override]
        return None


SRC, DOCS, ABOUT = Files(include=("src",)), Files(include=("docs",)), Tells()
BUILD = Half(of=SRC)
PAGES = Half(of=DOCS)
SHIP = Sum(parts=(BUILD, PAGES))
THING = Pipeline("thing", src=SRC, docs=DOCS, about=ABOUT, build=BUILD, pages=PAGES, ship=SHIP)


def names(stages: frozenset[Stage[Any]]) -> set[str]:
    return {THING.name_of(stage) for stage in stages}


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        (Selection(), {"src", "docs", "about", "build", "pages", "ship"}),
        (Selection(stages=("build",)), {"src", "build"}),
        (Selection(stages=("build", "about")), {"src", "build", "about"}),
        (Selection(since=("pages",)), {"src", "docs", "build", "pages", "ship"}),
        (Selection(since=("ship",)), {"src", "docs", "build", "pages", "ship"}),
        (Selection(without=("pages",)), {"src", "docs", "about", "build"}),
        (Selection(without=("docs", "about")), {"src", "build"}),
        (Selection(since=("src",), without=("ship",)), {"src", "build"}),
        (Selection(failed=frozenset({"pages", "of another time"})), {"docs", "pages"}),
        (Selection(failed=frozenset()), set()),
        (Selection(changed=frozenset({"docs/a.md"})), {"src", "docs", "about", "build", "pages", "ship"}),
        (Selection(changed=frozenset({"other"})), {"about"}),
        (Selection(changed=frozenset()), set()),
        (Selection(changed=frozenset({"src/a.py"}), without=("ship",)), {"src", "about", "build"}),
    ],
)
def test_what_is_asked_for_is_meant_with_all_it_needs(asked: Selection, meant: set[str]) -> None:
    assert names(select(THING, asked)) == meant


def test_a_name_that_no_stage_has_is_refused_wherever_it_is_given() -> None:
    for asked in (Selection(stages=("biuld",)), Selection(since=("biuld",)), Selection(without=("biuld",))):
        with pytest.raises(WiringError, match="did you mean 'build'"):
            select(THING, asked)


def test_names_that_leave_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="no stage is left"):
        select(THING, Selection(stages=("build",), without=("src",)))


ENV, UNIT = Constant(value=1), Constant(value=2)
LOAD = Half(of=ENV)
STOPS = Half(of=ENV, after=(LOAD, UNIT), always=True)
LAST = Constant(value=3, after=(STOPS,), always=True)
CLEANED = Pipeline("cleaned", env=ENV, unit=UNIT, load=LOAD, stops=STOPS, last=LAST)


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        (Selection(stages=("load",)), {"env", "load", "stops", "last"}),
        (Selection(stages=("unit",)), {"unit"}),  # nothing was put up
        (Selection(stages=("load",), alone=True), {"env", "load"}),
        (Selection(stages=("stops",)), {"env", "stops", "last"}),
        (Selection(stages=("last",)), {"last"}),
        (Selection(without=("load",)), {"env", "unit", "stops", "last"}),
        (Selection(without=("stops",)), {"env", "unit", "load", "last"}),
        (Selection(stages=("load",), without=("stops",)), {"env", "load"}),
        (Selection(without=("env",)), {"unit", "last"}),
        (Selection(since=("load",)), {"env", "load", "stops", "last"}),
        (Selection(failed=frozenset({"load"})), {"env", "load", "stops", "last"}),
        (Selection(failed=frozenset()), set()),
    ],
)
def test_what_cleans_up_comes_along_with_what_it_cleans_up_after(asked: Selection, meant: set[str]) -> None:
    assert {CLEANED.name_of(stage) for stage in select(CLEANED, asked)} == meant


NAMES = st.lists(st.sampled_from(["src", "docs", "about", "build", "pages", "ship"]), max_size=3).map(tuple)


@given(NAMES, NAMES, NAMES)
def test_what_is_meant_is_closed_under_inputs_and_holds_nothing_that_was_left_out(
    stages: tuple[str, ...], since: tuple[str, ...], without: tuple[str, ...]
) -> None:
    asked = Selection(stages=stages, since=since, without=without)
    try:
        found = select(THING, asked)
    except ConfigError:
        return
    assert found == THING.upstream(found)
    aimed = aims(THING, asked)
    assert not {THING[name] for name in without} & aimed
    assert all(not stages or THING.name_of(stage) in stages for stage in aimed)


def world(records: dict[str, Record]) -> World:
    return World(facts=Facts(), engine="host", platform="here", observed={}, lookup=records.get, last=lambda _: None)


def test_alone_what_is_needed_has_to_be_there() -> None:
    one = Constant(value=1)
    two = Half(of=one)
    pipeline = Pipeline("thing", one=one, two=two)
    asked = Selection(stages=("two",), alone=True)
    wanted = select(pipeline, asked)
    with pytest.raises(ConfigError, match="nothing else is to be run, and one would have to be") as caught:
        check_alone(plan(pipeline, wanted, world({})), asked)
    assert caught.value.next == "python -m pipeline run --only one two"
    key = plan(pipeline, wanted, world({})).steps[0].key
    assert key is not None
    there = Record("a" * 64, 1, "r", 1.0, "", "", [], "{}")
    check_alone(plan(pipeline, wanted, world({key: there})), asked)
    check_alone(plan(pipeline, wanted, world({})), Selection(stages=("two",)))
