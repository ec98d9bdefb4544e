"""pytest as a stage."""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
import uuid
from pathlib import Path

import pytest

from gates import AllPassed, Ruling, Status, all_passed
from pipeline import Entry, Project, Stage, Store, Tree, Work
from stages.environment import PythonEnvironment, Tool, shipped
from stages.pytest import UnitTests, from_junit
from stages.source import WorkingCopy
from tests.conftest import RunStage, StageDidNotPass
from tests.stages.installed import Lock


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


FLAKY = """
import pathlib, pytest
def once(name):
    mark = pathlib.Path("/tmp", "lockgate-test-{key}-" + name)
    if mark.exists():
        mark.unlink()
    else:
        mark.touch()
        raise AssertionError("the first try of " + name)
class TestShaky:
    @pytest.mark.parametrize("kind", ["a::b", "c/d"])
    def test_it(self, kind): once("it" + kind[0])
def test_always(): assert False, "never good"
def test_good(): pass
@pytest.fixture
def shaky(): once("fixture")
def test_fixture(shaky): pass
"""


def test_a_failed_test_that_passes_when_run_again_is_flaky_and_says_why_it_failed(project: Project, run_stage: RunStage) -> None:
    write(project, FLAKY.replace("{key}", uuid.uuid4().hex))
    report = run_stage(UnitTests(source=WorkingCopy(), environment=Tool(name="pytest"), reruns=1))
    assert {case.name: case.status for case in report.cases} == {
        "TestShaky::test_it[a::b]": Status.FLAKY,
        "TestShaky::test_it[c/d]": Status.FLAKY,
        "test_always": Status.FAILED,
        "test_good": Status.PASSED,
        "test_fixture": Status.FLAKY,
    }
    assert "the first try of ita" in report.cases[0].message
    assert {case.file for case in report.cases} == {"tests/test_it.py"}
    assert not report.reusable()
    assert all_passed(report).ruling is Ruling.FAILED


def test_a_flaky_test_is_no_pass_unless_the_rule_allows_it(project: Project, run_stage: RunStage) -> None:
    write(project, FLAKY.replace("{key}", uuid.uuid4().hex).replace('def test_always(): assert False, "never good"', ""))
    report = run_stage(UnitTests(source=WorkingCopy(), environment=Tool(name="pytest"), reruns=2))
    assert all_passed(report).ruling is Ruling.FAILED
    assert AllPassed(flaky=3)(report).passed


def test_a_second_run_that_does_not_report_leaves_the_failures_failed(project: Project, run_stage: RunStage) -> None:
    mark = f"/tmp/lockgate-test-{uuid.uuid4().hex}"
    write(
        project,
        f"import os, pathlib\nmark = pathlib.Path({mark!r})\n"
        "def test_it():\n    if mark.exists():\n        mark.unlink(); os._exit(0)\n    mark.touch(); assert False\n",
    )
    report = run_stage(UnitTests(source=WorkingCopy(), environment=Tool(name="pytest"), reruns=1))
    assert [case.status for case in report.cases] == [Status.FAILED]


def covered(project: Project) -> UnitTests:
    (project.root / "src" / "thing").mkdir(parents=True)
    (project.root / "src" / "thing" / "__init__.py").write_text("")
    (project.root / "src" / "thing" / "__main__.py").write_text("print('hello')\n")
    write(
        project,
        "import subprocess, sys, thing\n"
        "def test_it(tmp_path): subprocess.run([sys.executable, '-m', 'thing'], check=True, cwd=tmp_path)\n",
    )
    return UnitTests(source=WorkingCopy(), environment=Tool(name="pytest"), cover=("thing",))


def test_coverage_of_child_processes_is_measured_under_relative_names(
    project: Project, run_stage: RunStage, store: Store, tmp_path: Path
) -> None:
    report = run_stage(covered(project))
    (tmp_path / "data").write_bytes(store.read(report.coverage))
    with contextlib.closing(sqlite3.connect(tmp_path / "data")) as data:
        assert {name for (name,) in data.execute("select path from file")} == {"src/thing/__init__.py", "src/thing/__main__.py"}


def test_an_environment_without_coverage_cannot_measure_it(project: Project, run_stage: RunStage) -> None:
    stage = covered(project)
    bare = PythonEnvironment(source=Lock(text="\n".join(without(shipped("pytest"), "coverage"))))
    with pytest.raises(StageDidNotPass, match="does not hold coverage"):
        run_stage(dataclasses.replace(stage, environment=bare))


def without(lock: str, name: str) -> list[str]:
    kept, skip = [], False
    for line in lock.splitlines():
        skip = skip if line.startswith(" ") else line.startswith(f"{name}==")
        kept += [] if skip else [line]
    return kept


class Laid(Stage[Tree]):
    """A site-packages tree with the files it was given."""

    files: tuple[tuple[str, str], ...]

    async def run(self, work: Work) -> Tree:
        blobs = [(path, work.store.put(text.encode())) for path, text in self.files]
        return work.store.tree(Entry(path, "file", blob.digest, blob.size) for path, blob in blobs)


def test_further_site_trees_bring_packages_with_their_metadata(project: Project, run_stage: RunStage) -> None:
    write(
        project,
        "import extra\nfrom importlib.metadata import version\n"
        "def test_it(): assert version('extra') == '3.1' and extra.number == 7\n",
    )
    package = Laid(
        files=(
            ("extra.py", "number = 7\n"),
            ("extra-3.1.dist-info/METADATA", "Metadata-Version: 2.1\nName: extra\nVersion: 3.1\n"),
        )
    )
    report = run_stage(dataclasses.replace(stage(), packages=(package,)))
    assert all_passed(report).passed


def test_only_the_marked_tests_run(project: Project, run_stage: RunStage) -> None:
    write(project, "import pytest\n@pytest.mark.fast\ndef test_a(): pass\ndef test_b(): pass\n")
    report = run_stage(dataclasses.replace(stage(), markers="fast", args=("-W", "ignore")))
    assert [case.name for case in report.cases] == ["test_a"]


def test_the_report_names_the_version_of_pytest(project: Project, run_stage: RunStage) -> None:
    write(project, "def test_it(): pass\n")
    assert run_stage(stage()).tool == "pytest 9.0.2"


@pytest.mark.parametrize("text", [b"", b"<html/>", b"\xff\xfe", b"<testsuites>"])
def test_what_is_no_junit_report_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"not readable as XML|not <testsuites>"):
        from_junit(text)
