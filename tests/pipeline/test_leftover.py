"""What is open: the fold of the events about an effect, also of a run that was killed anywhere."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import Effect, Journal, Pipeline, Project, Stage, StageFailed, Store, Work
from pipeline.journal import Event
from pipeline.leftover import Leftover, left_open, leftover
from pipeline.settings import Settings
from tests.conftest import run_pipeline
from tests.pipeline.toys import Constant, Fails, Half, Number


def test_nothing_is_open_after_the_last_word() -> None:
    last = ("effect.failed", "effect.stands", "undo.done", "undo.failed")
    assert [leftover(Event(run="r", kind=kind), undoable=True) for kind in last] == [None] * 4
    assert leftover(None, undoable=True) is None


def test_what_is_done_is_open_as_long_as_it_can_be_taken_back() -> None:
    done = Event(run="r", kind="effect.done", data={"about": "a", "result": "d"})
    assert leftover(done, undoable=True) == Leftover(run="r", about="a", result="d")
    assert leftover(done, undoable=False) is None
    assert leftover(Event(run="r", kind="effect.intended", data={"about": "a"}), undoable=False) == Leftover(
        run="r", about="a", result=None
    )


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


FATES = ("stands", "refused", "cut off", "taken back", "stuck")


@st.composite
def effects(draw: st.DrawFn) -> Pipeline:
    """One to four effects, beside or below each other; below some something fails."""
    stages: dict[str, Stage[Number]] = {"source": Constant(value=8)}
    for number in range(draw(st.integers(1, 4))):
        fate = draw(st.sampled_from(FATES))
        kind = draw(st.sampled_from((Final, Undoable, Found)))
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
