"""What a running stage may know and keep."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import Journal, Pipeline, Project, Stage, Store, Work
from pipeline.engines.platform import host_platform
from pipeline.errors import Exit
from tests.pipeline.toys import Number
from tests.running import run_pipeline


class Looks(Stage[Number]):
    """Counts its runs, in a directory of the project and in the journal."""

    async def run(self, work: Work) -> Number:
        counter = work.state("looks") / "count"
        before = len(counter.read_text()) if counter.exists() else 0
        counter.write_text("x" * (before + 1))
        assert [event.data["number"] for event in work.events("looked")] == list(range(before))
        work.record("looked", number=before, engine=work.engine, platform=work.platform)
        return Number(value=before)


def test_what_a_stage_keeps_and_records_is_there_in_the_next_run(tmp_path: Path, project: Project, journal: Journal) -> None:
    mine = Project(root=project.root, home=tmp_path / "home", settings=project.settings)
    pipeline = Pipeline("thing", looks=Looks())
    for number in range(3):
        outcome, results = run_pipeline(pipeline, mine, Store(tmp_path / "store"), journal, again=frozenset({"looks"}))
        assert (outcome.failed, results["looks"]) == ({}, Number(value=number))
    assert (tmp_path / "home" / "state" / "looks" / "count").read_text() == "xxx"


class Says(Stage[Number]):
    """Writes a line to its log."""

    async def run(self, work: Work) -> Number:
        work.say("something")
        return Number(value=1)


def test_a_log_that_cannot_be_kept_is_said_with_its_place(tmp_path: Path, project: Project, journal: Journal) -> None:
    mine = Project(root=project.root, home=tmp_path / "home", settings=project.settings)
    mine.home.mkdir()
    (mine.home / "logs").touch()
    outcome, _ = run_pipeline(Pipeline("thing", says=Says()), mine, Store(tmp_path / "store"), journal)
    assert outcome.exit is Exit.UNUSABLE
    assert outcome.failed["says"].startswith(f"{mine.home}/logs")


def test_a_stage_knows_what_its_actions_are_executed_by(tmp_path: Path, project: Project, journal: Journal) -> None:
    mine = Project(root=project.root, home=tmp_path / "home", settings=project.settings)
    run_pipeline(Pipeline("thing", looks=Looks()), mine, Store(tmp_path / "store"), journal)
    (looked,) = journal.events(kind="looked")
    assert looked.data == {"number": 0, "engine": "host", "platform": host_platform()}


class Tells(Stage[Number]):
    """Records something odd."""

    kind: str
    value: str

    async def run(self, work: Work) -> Number:
        work.record(self.kind, value=float(self.value))
        return Number(value=1)


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        ("run.finished", "1", "tells records 'run.finished', which is not a stage's to tell"),
        ("effect.done", "1", "tells records 'effect.done', which is not a stage's to tell"),
        ("mine.noted", "nan", "tells records 'mine.noted' with what JSON cannot hold"),
    ],
)
def test_a_stage_records_neither_what_is_told_of_it_nor_what_json_cannot_hold(
    tmp_path: Path, project: Project, journal: Journal, kind: str, value: str, said: str
) -> None:
    pipeline = Pipeline("thing", tells=Tells(kind=kind, value=value))
    outcome, _ = run_pipeline(pipeline, project, Store(tmp_path / "store"), journal)
    assert outcome.failed["tells"].startswith(said)
    assert not [event for event in journal.events(kind=kind) if event.stage]
