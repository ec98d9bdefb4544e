"""What is open: the fold of the events about an effect, also of a run that was killed anywhere."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import Effect, Journal, Pipeline, Project, Stage, StageFailed, Store, Work
from pipeline.journal import Event
from pipeline.leftover import Leftover, left_open, leftovers
from pipeline.settings import Settings
from tests.pipeline.toys import Constant, Fails, Half, Number
from tests.running import run_pipeline

LAST = ("effect.failed", "effect.stands", "effect.unknown", "undo.done", "undo.failed")


def said(kind: str, **data: str) -> Event:
    return Event(run="r", kind=kind, data=data)


@pytest.mark.parametrize("last", LAST)
def test_nothing_is_open_after_the_last_word(last: str) -> None:
    intended = said("effect.intended", about="a")
    assert leftovers([], undoable=True) == leftovers([intended, said(last, about="a")], undoable=True) == ()


def test_what_is_done_is_open_as_long_as_it_can_be_taken_back() -> None:
    intended, done = said("effect.intended", about="a"), said("effect.done", about="a", result="d")
    assert leftovers([intended, done], undoable=True) == (Leftover(run="r", about="a", result="d"),)
    assert leftovers([intended, done], undoable=False) == ()
    assert leftovers([intended], undoable=False) == (Leftover(run="r", about="a", result=None),)


def test_what_must_not_be_taken_back_yet_stays_open() -> None:
    done = said("effect.done", about="a", result="d")
    refused = Event(run="r", kind="undo.failed", data={"about": "a", "later": True})
    assert leftovers([done, refused], undoable=True) == (Leftover(run="r", about="a", result="d", refused=True),)
    assert leftovers([done, refused, said("undo.done", about="a")], undoable=True) == ()


@pytest.mark.parametrize("last", LAST)
def test_the_last_word_about_one_effect_is_none_about_another_of_the_same_stage(last: str) -> None:
    events = [said("effect.intended", about="a"), said("effect.intended", about="b"), said(last, about="b")]
    assert leftovers(events, undoable=True) == (Leftover(run="r", about="a", result=None),)


@pytest.mark.parametrize("last", LAST)
def test_a_last_word_from_before_they_named_what_they_are_about_is_the_last_about_everything(last: str) -> None:
    assert leftovers([said("effect.intended", about="a"), said(last)], undoable=True) == ()


class Final(Stage[Number]):
    """An effect that nobody can take back. Its fate says how it ends."""

    effect: ClassVar[Effect] = Effect.ONCE

    of: Stage[Number]
    fate: str

    async def run(self, work: Work) -> Number:
        if self.fate == "refused":
            raise StageFailed("refused")
        if self.fate == "cut off":
            raise RuntimeError("nobody knows")
        return work[self.of]


class Undoable(Final):
    """One that can be taken back."""

    async def undo(self, work: Work, result: Any) -> None:
        if self.fate == "stuck":
            raise StageFailed("stuck")


class Found(Undoable):
    """One that can find out what came of it."""

    async def recover(self, work: Work) -> Number | None:
        return work[self.of]


class Again(Undoable):
    """One that may be repeated."""

    effect: ClassVar[Effect] = Effect.RETRYABLE


class FoundAgain(Found):
    """One that may be repeated and can find out what came of it."""

    effect: ClassVar[Effect] = Effect.RETRYABLE


FATES = ("stands", "refused", "cut off", "taken back", "stuck")


@st.composite
def effects(draw: st.DrawFn) -> Pipeline:
    """One to four effects, beside or below each other; below some something fails."""
    stages: dict[str, Stage[Number]] = {"source": Constant(value=8)}
    for number in range(draw(st.integers(1, 4))):
        fate = draw(st.sampled_from(FATES))
        kind = draw(st.sampled_from((Final, Undoable, Found, Again, FoundAgain)))
        stages[f"effect{number}"] = made = kind(of=draw(st.sampled_from(list(stages.values()))), fate=fate)
        stages[f"below{number}"] = Fails(of=made) if fate in {"taken back", "stuck"} else Half(of=made)
    return Pipeline("thing", **stages)


def open_by_what_was_written(pipeline: Pipeline, events: list[Event]) -> set[str]:
    """The effects whose intention is written, and that neither stand nor did not take place nor were taken back."""
    found = set()
    for event in events:
        final = event.kind == "effect.done" and not pipeline[event.stage].can_undo()
        if event.kind == "effect.intended":
            found.add(event.stage)
        elif final or event.kind in {"effect.failed", "effect.stands", "undo.done", "undo.failed"}:
            found.discard(event.stage)
    return found


@settings(max_examples=25)
@given(effects())
def test_wherever_a_run_is_killed_what_is_intended_and_neither_confirmed_nor_taken_back_is_open(pipeline: Pipeline) -> None:
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as stack:
        root = Path(place)
        whole = stack.enter_context(contextlib.closing(Journal(root / "journal.db")))
        cut = stack.enter_context(contextlib.closing(Journal(root / "cut.db")))
        run_pipeline(pipeline, Project(root=root, home=root, settings=Settings()), Store(root / "store"), whole)
        told: list[Event] = []
        found: set[str] = set()
        for event in whole.events():
            cut.append(Event(run=event.run, kind=event.kind, stage=event.stage, data=event.data))
            told.append(event)
            found = {name for stage in pipeline if left_open(cut, stage, name := pipeline.name_of(stage))}
            assert found == open_by_what_was_written(pipeline, told)
        intended = {event.stage for event in told if event.kind == "effect.intended"}
        nobody_knows = {name for name in intended if getattr(pipeline[name], "fate", "") == "cut off"}
        assert found == {name for name in nobody_knows if not isinstance(pipeline[name], Found)}
