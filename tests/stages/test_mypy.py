"""mypy as a stage."""

from __future__ import annotations

import dataclasses

import pytest

from gates import Ruling, no_findings
from pipeline import Project
from stages.environment import Tool
from stages.mypy import TypeCheck, from_text
from stages.source import WorkingCopy
from tests.conftest import RunStage, StageDidNotPass


def check(project: Project, text: str) -> TypeCheck:
    (project.root / "src").mkdir()
    (project.root / "src" / "a.py").write_text(text)
    return TypeCheck(source=WorkingCopy(include=("src",)), environment=Tool(name="pytest"))


def test_errors_are_findings_and_imports_are_found_in_the_environment(project: Project, run_stage: RunStage) -> None:
    text = "import pytest\n\ndef f(x): return x\n\ny: int = pytest.approx(1)\nz: int = 'a'\n"
    found = run_stage(check(project, text))
    assert [(f.rule, f.path, f.line) for f in found.findings] == [
        ("no-untyped-def", "src/a.py", 3),
        ("assignment", "src/a.py", 5),
        ("assignment", "src/a.py", 6),
    ]
    assert found.targets == 1
    assert no_findings(found).ruling is Ruling.FAILED


def test_typed_code_passes(project: Project, run_stage: RunStage) -> None:
    found = run_stage(check(project, "def f(x: int) -> int:\n    return x\n"))
    assert (found.findings, found.targets) == ((), 1)
    assert no_findings(found).passed


def test_settings_of_the_project_do_not_change_how_errors_are_read(project: Project, run_stage: RunStage) -> None:
    stage = check(project, "x: int = ''\n")
    settings = "[mypy]\npretty = true\nshow_column_numbers = true\nshow_error_end = true\nshow_error_context = true\n"
    (project.root / "src" / "mypy.ini").write_text(settings)
    found = run_stage(dataclasses.replace(stage, args=("--strict", "--config-file=src/mypy.ini")))
    assert [(f.path, f.line) for f in found.findings] == [("src/a.py", 1)]


def test_a_syntax_error_fails_the_stage(project: Project, run_stage: RunStage) -> None:
    with pytest.raises(StageDidNotPass, match="exit code 2"):
        run_stage(check(project, "def (:\n"))


def test_paths_that_are_not_there_fail_the_stage(project: Project, run_stage: RunStage) -> None:
    with pytest.raises(StageDidNotPass, match="exit code 2"):
        run_stage(dataclasses.replace(check(project, ""), paths=("elsewhere",)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a.py:1: error: no  [misc]\n",
        "Found 2 errors in 1 file (checked 1 source file)\n",
        "a.py:1: error: no  [misc]\nFound 1 error in 1 file (errors prevented further checking)\n",
        "Success: no issues found in 1 source file\nand more\n",
    ],
)
def test_a_report_that_does_not_add_up_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"it ends with|it shows"):
        from_text(text)
