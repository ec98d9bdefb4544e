"""pytest as a stage."""

from __future__ import annotations

import pytest

from gates import Ruling, Status, all_passed
from pipeline import Project
from stages.environment import Tool
from stages.pytest import UnitTests, from_junit
from stages.source import WorkingCopy
from tests.conftest import RunStage, StageDidNotPass


def write(project: Project, body: str) -> None:
    (project.root / "tests").mkdir()
    (project.root / "tests" / "test_it.py").write_text(body)


def stage() -> UnitTests:
    return UnitTests(source=WorkingCopy(), environment=Tool(name="pytest"))


def test_a_failing_test_is_evidence_not_an_error(project: Project, run_stage: RunStage) -> None:
    write(project, "def test_good(): pass\ndef test_bad(): assert 1 == 2, 'no sum'\n")
    report = run_stage(stage())
    assert {case.name: case.status for case in report.cases} == {"test_good": Status.PASSED, "test_bad": Status.FAILED}
    assert "no sum" in report.bad()[0].message
    assert not report.reusable()


def test_no_tests_at_all_are_a_report_that_no_rule_passes(project: Project, run_stage: RunStage) -> None:
    write(project, "")
    report = run_stage(stage())
    assert report.cases == ()
    assert all_passed(report).ruling is Ruling.ERROR


def test_a_crash_of_the_test_process_fails_the_stage(project: Project, run_stage: RunStage) -> None:
    write(project, "import os\ndef test_it(): os._exit(9)\n")
    with pytest.raises(StageDidNotPass, match="exit code 9"):
        run_stage(stage())


def test_a_module_that_cannot_be_imported_is_no_pass(project: Project, run_stage: RunStage) -> None:
    write(project, "import nothing_of_that_name\n")
    with pytest.raises(StageDidNotPass, match="exit code 2"):
        run_stage(stage())


@pytest.mark.parametrize("text", [b"", b"<html/>", b"\xff\xfe", b"<testsuites>"])
def test_what_is_no_junit_report_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="not readable as XML|not <testsuites>"):
        from_junit(text)
