"""Baselines: kept by an earlier run, or committed."""

from __future__ import annotations

import dataclasses
import os
import uuid
from pathlib import Path

import pytest

from gates import CoverageReport, FileCoverage, Findings
from pipeline import Journal, Project, Stage, WiringError, Work
from stages.baseline import Baseline, KeepBaseline, write
from stages.source import WorkingCopy
from tests.conftest import RunStage, StageDidNotPass


class Measured(Stage[CoverageReport]):
    lines: int

    async def run(self, work: Work) -> CoverageReport:
        file = FileCoverage(path="a.py", lines=self.lines, covered_lines=1, branches=0, covered_branches=0)
        return CoverageReport(tool="t", files=(file,))


@pytest.fixture
def project(project: Project, tmp_path: Path) -> Project:
    return dataclasses.replace(project, home=tmp_path / "state")


def test_what_one_run_keeps_the_next_one_compares_with(project: Project, run_stage: RunStage) -> None:
    baseline = Baseline(model=CoverageReport, kept="main")
    for lines in (7, 9):
        run_stage(KeepBaseline(evidence=Measured(lines=lines)))
        assert run_stage(baseline).lines == lines


def test_a_first_run_is_refused_with_the_way_out(run_stage: RunStage) -> None:
    with pytest.raises(StageDidNotPass, match="there is no CoverageReport to compare with yet") as refused:
        run_stage(Baseline(model=CoverageReport, kept="main"))
    assert "KeepBaseline" in str(refused.value)


def test_a_first_run_may_be_accepted_and_the_log_says_so(run_stage: RunStage, project: Project, journal: Journal) -> None:
    name = uuid.uuid4().hex
    stage = Baseline(model=CoverageReport, kept=name, first="accept", instead=Measured(lines=3))
    assert run_stage(stage).lines == 3
    logs = "".join(path.read_text() for path in project.home.rglob("*.note.log"))
    assert "nothing is compared" in logs
    assert [event.data["where"] for event in journal.events(kind="baseline.missing")] == [f"the baseline {name!r}"]
    run_stage(KeepBaseline(evidence=Measured(lines=5), kept=name))
    assert run_stage(stage).lines == 5


def test_a_baseline_is_read_from_a_committed_file(project: Project, run_stage: RunStage) -> None:
    run_stage(KeepBaseline(evidence=Measured(lines=4), file="baselines/coverage.json"))
    stage = Baseline(model=CoverageReport, source=WorkingCopy(), path="baselines/coverage.json")
    assert run_stage(stage).lines == 4


def test_a_file_that_is_not_there_is_refused(project: Project, run_stage: RunStage) -> None:
    with pytest.raises(StageDidNotPass, match=r"coverage\.json: there is no CoverageReport"):
        run_stage(Baseline(model=CoverageReport, source=WorkingCopy(), path="coverage.json"))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"tool": "t", "files": [1]}', '{"tool": "t", "files": [], "more": 1}'])
def test_a_file_that_is_something_else_fails_also_where_a_first_run_is_accepted(
    text: str, project: Project, run_stage: RunStage
) -> None:
    (project.root / "coverage.json").write_text(text)
    for first, instead in (("refuse", None), ("accept", Measured(lines=1))):
        stage = Baseline(model=CoverageReport, source=WorkingCopy(), path="coverage.json", first=first, instead=instead)  # type: ignore[arg-type]
        with pytest.raises(StageDidNotPass, match="it is no CoverageReport"):
            run_stage(stage)


def test_baselines_of_different_types_do_not_meet(run_stage: RunStage) -> None:
    run_stage(KeepBaseline(evidence=Measured(lines=1)))
    with pytest.raises(StageDidNotPass, match="there is no Findings"):
        run_stage(Baseline(model=Findings, kept="main"))


def test_a_name_that_leaves_the_directory_is_refused(run_stage: RunStage) -> None:
    with pytest.raises(StageDidNotPass, match="cannot name a baseline"):
        run_stage(KeepBaseline(evidence=Measured(lines=1), kept="../main"))


def test_a_baseline_from_nowhere_or_from_two_places_is_not_wired() -> None:
    with pytest.raises(WiringError, match="either kept or a file"):
        Baseline(model=CoverageReport)
    with pytest.raises(WiringError, match="either kept or a file"):
        Baseline(model=CoverageReport, kept="main", source=WorkingCopy(), path="a.json")
    with pytest.raises(WiringError, match="instead"):
        Baseline(model=CoverageReport, kept="main", first="accept")


def test_two_that_write_a_baseline_at_once_leave_one_of_them_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "baseline.json"

    def meanwhile(_: int) -> None:
        monkeypatch.undo()
        write(place, b"second")

    monkeypatch.setattr(os, "fsync", meanwhile)
    write(place, b"first")
    assert place.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [place]
