"""Ruff as stages."""

from __future__ import annotations

import json

import pytest

from gates import Ruling, no_findings
from pipeline import Project, Store
from stages.ruff import Formatted, Lint
from stages.source import WorkingCopy
from tests.conftest import RunStage, StageDidNotPass


def write(project: Project, **files: str) -> WorkingCopy:
    for name, text in files.items():
        (project.root / f"{name}.py").write_text(text)
    return WorkingCopy(include=("*.py", "ruff.toml"))


def test_violations_are_findings_with_their_place(project: Project, run_stage: RunStage) -> None:
    found = run_stage(Lint(source=write(project, a="x = f'y'\nz = missing\n", b="y = 2\n")))
    assert [(f.rule, f.path, f.line) for f in found.findings] == [("F541", "a.py", 1), ("F821", "a.py", 2)]
    assert found.targets == 2
    assert found.tool.startswith("ruff 0.")
    assert no_findings(found).ruling is Ruling.FAILED


def test_only_the_rules_about_security_are_told_as_such(project: Project, run_stage: RunStage, store: Store) -> None:
    (project.root / "ruff.toml").write_text("lint.select = ['F', 'S']\n")
    found = run_stage(Lint(source=write(project, a="import os\nassert True\n")))
    results = json.loads(store.read(found.report))["runs"][0]["results"]
    assert {one["ruleId"]: "properties" in one for one in results} == {"F401": False, "S101": True}


def test_clean_code_passes(project: Project, run_stage: RunStage) -> None:
    found = run_stage(Lint(source=write(project, a="x = 1\n")))
    assert (found.findings, found.targets) == ((), 1)
    assert no_findings(found).passed


def test_a_file_that_is_no_python_is_a_finding(project: Project, run_stage: RunStage) -> None:
    assert no_findings(run_stage(Lint(source=write(project, a="def (:\n")))).ruling is Ruling.FAILED


def test_wrong_settings_fail_the_stage(project: Project, run_stage: RunStage) -> None:
    (project.root / "ruff.toml").write_text("line-length = 'wide'\n")
    with pytest.raises(StageDidNotPass, match="exit code 2"):
        run_stage(Lint(source=write(project, a="x = 1\n")))


def test_nothing_to_lint_is_no_pass(project: Project, run_stage: RunStage) -> None:
    (project.root / "ruff.toml").write_text("")
    found = run_stage(Lint(source=write(project)))
    assert found.targets == 0
    assert no_findings(found).ruling is Ruling.ERROR


def test_a_file_that_would_be_reformatted_is_one_finding(project: Project, run_stage: RunStage) -> None:
    found = run_stage(Formatted(source=write(project, a="x=1\ny = 2\nz=3\n", b="y = 2\n")))
    assert [finding.path for finding in found.findings] == ["a.py"]
    assert found.targets == 2


def test_a_file_that_cannot_be_formatted_fails_the_stage(project: Project, run_stage: RunStage) -> None:
    with pytest.raises(StageDidNotPass, match="exit code 2"):
        run_stage(Formatted(source=write(project, a="def (:\n")))
