"""Bandit as a stage."""

from __future__ import annotations

import dataclasses

import pytest

from gates import MaxFindings, Ruling, Severity, no_findings
from pipeline import Project, Store
from stages.bandit import Bandit, looked_at
from stages.source import WorkingCopy
from tests.conftest import RunStage, StageDidNotPass

INJECTION = "import sqlite3\n\ndef find(name):\n    sqlite3.connect('a').execute(\"select * from t where a = '%s'\" % name)\n"


def write(project: Project, **files: str) -> Bandit:
    (project.root / "src").mkdir()
    (project.root / "src" / "note.txt").write_text("nothing to see")
    for name, text in files.items():
        (project.root / "src" / f"{name}.py").write_text(text)
    return Bandit(source=WorkingCopy())


def test_an_sql_injection_is_found(project: Project, run_stage: RunStage, store: Store) -> None:
    found = run_stage(write(project, a=INJECTION, b="x = 1\n"))
    assert [(f.rule, f.path, f.line, f.severity) for f in found.findings] == [("B608", "src/a.py", 4, Severity.MEDIUM)]
    assert (found.targets, found.tool) == (2, "bandit 1.9.4")
    assert MaxFindings()(found).ruling is Ruling.FAILED
    assert b"security-severity" in store.read(found.report)


def test_clean_code_passes(project: Project, run_stage: RunStage) -> None:
    assert no_findings(run_stage(write(project, a="x = 1\n"))).passed


def test_a_file_that_cannot_be_parsed_fails_the_stage(project: Project, run_stage: RunStage) -> None:
    with pytest.raises(StageDidNotPass, match=r"src/a\.py: syntax error"):
        run_stage(write(project, a="def (:\n", b="x = 1\n"))


def test_nothing_to_scan_is_no_pass(project: Project, run_stage: RunStage) -> None:
    found = run_stage(write(project))
    assert found.targets == 0
    assert no_findings(found).ruling is Ruling.ERROR


def test_settings_of_the_project_are_used_and_wrong_ones_fail(project: Project, run_stage: RunStage) -> None:
    stage = write(project, a=INJECTION)
    (project.root / "bandit.yaml").write_text("skips: [B608]\n")
    assert run_stage(dataclasses.replace(stage, config="bandit.yaml")).findings == ()
    (project.root / "bandit.yaml").write_text("skips: [\n")
    with pytest.raises(StageDidNotPass, match="exit code 2"):
        run_stage(dataclasses.replace(stage, config="bandit.yaml"))


@pytest.mark.parametrize("text", [b"", b"{}", b'{"runs": []}', b'{"runs": [{"properties": {"metrics": 1}}]}'])
def test_a_report_without_figures_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="no metrics"):
        looked_at(text)
