"""Coverage as a stage."""

from __future__ import annotations

import dataclasses
import subprocess

import pytest

from gates import CoverageReport, MinCoverage, Ruling
from pipeline import Project
from stages.coverage import Coverage, from_diff, from_json
from stages.environment import Tool
from stages.pytest import IntegrationTests, UnitTests
from stages.source import WorkingCopy
from tests.conftest import RunStage, StageDidNotPass

CODE = """\
def sign(number):
    if number > 0:
        return 1
    if number < 0:
        return -1
    return 0
"""


def git(project: Project, *arguments: str) -> None:
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *identity, *arguments], cwd=project.root, check=True, capture_output=True)


@pytest.fixture
def coverage(project: Project) -> Coverage:
    (project.root / "src" / "thing").mkdir(parents=True)
    (project.root / "src" / "thing" / "__init__.py").write_text(CODE)
    (project.root / "src" / "thing" / "unused.py").write_text("number = 1\n")
    (project.root / "tests").mkdir()
    (project.root / "tests" / "test_plus.py").write_text("import thing\ndef test_it(): assert thing.sign(5) == 1\n")
    (project.root / "tests" / "test_minus.py").write_text("import thing\ndef test_it(): assert thing.sign(-5) == -1\n")
    source, tool = WorkingCopy(), Tool(name="pytest")
    tests = UnitTests(source=source, environment=tool, tests=("tests/test_plus.py",), cover=("src/thing",))
    return Coverage(tests=(tests,), source=source, environment=tool)


def measuring(coverage: Coverage, *, cover: tuple[str, ...]) -> UnitTests:
    first = coverage.tests[0]
    assert isinstance(first, UnitTests)
    return dataclasses.replace(first, cover=cover)


def test_lines_and_branches_are_counted_by_file_also_of_those_never_imported(coverage: Coverage, run_stage: RunStage) -> None:
    report = run_stage(coverage)
    assert [(f.path, f.lines, f.covered_lines, f.branches, f.covered_branches, f.missing) for f in report.files] == [
        ("src/thing/__init__.py", 6, 3, 4, 1, (4, 5, 6)),
        ("src/thing/unused.py", 1, 0, 0, 0, (1,)),
    ]
    assert report.tool.startswith("coverage 7.")
    assert report.changed is None


def test_the_data_of_several_test_stages_are_combined(coverage: Coverage, run_stage: RunStage) -> None:
    first = coverage.tests[0]
    assert isinstance(first, UnitTests)
    second = IntegrationTests(
        source=first.source, environment=first.environment, tests=("tests/test_minus.py",), cover=first.cover
    )
    report = run_stage(dataclasses.replace(coverage, tests=(first, second)))
    assert report.files[0].missing == (6,)


def test_tests_that_measured_nothing_are_an_error_not_full_coverage(coverage: Coverage, run_stage: RunStage) -> None:
    unmeasured = measuring(coverage, cover=())
    with pytest.raises(StageDidNotPass, match=r"tests\[0\] measured no coverage"):
        run_stage(dataclasses.replace(coverage, tests=(unmeasured,)))


def test_cover_that_names_nothing_is_an_error_not_full_coverage(coverage: Coverage, run_stage: RunStage) -> None:
    elsewhere = measuring(coverage, cover=("nothing_of_that_name",))
    with pytest.raises(StageDidNotPass, match="No data to report"):
        run_stage(dataclasses.replace(coverage, tests=(elsewhere,)))


def test_lines_excluded_by_the_project_do_not_count_and_its_limit_is_not_ours(
    coverage: Coverage, project: Project, run_stage: RunStage
) -> None:
    (project.root / ".coveragerc").write_text(
        "[report]\nfail_under = 100\nexclude_also =\n    if number < 0\nomit = */unused.py\n"
    )
    assert [(file.path, file.missing) for file in run_stage(coverage).files] == [("src/thing/__init__.py", (6,))]


def test_changed_lines_are_those_since_the_merge_base_committed_or_not(
    coverage: Coverage, project: Project, run_stage: RunStage
) -> None:
    git(project, "add", ".")
    git(project, "commit", "-m", "one")
    git(project, "checkout", "-b", "work")
    code = project.root / "src" / "thing" / "__init__.py"
    code.write_text(CODE.replace("number > 0", "number > 0.5"))
    git(project, "commit", "-am", "two")
    code.write_text(code.read_text().replace("return 0", "return 0.0"))
    (project.root / "src" / "thing" / "fresh.py").write_text("# new\na = 1\nb = 2\n")
    report = run_stage(dataclasses.replace(coverage, base="main"))
    assert report.changed is not None
    assert (report.changed.lines, report.changed.covered) == (4, 1)
    assert report.changed.missing == ("src/thing/__init__.py:6", "src/thing/fresh.py:2", "src/thing/fresh.py:3")
    assert MinCoverage(changed=90)(report).ruling is Ruling.FAILED


def test_a_base_that_git_does_not_know_is_no_pass(coverage: Coverage, run_stage: RunStage) -> None:
    report = run_stage(dataclasses.replace(coverage, base="nowhere"))
    assert report.changed is None
    assert MinCoverage(changed=1)(report).ruling is Ruling.ERROR


def test_a_base_whose_files_git_does_not_have_is_no_pass(coverage: Coverage, project: Project, run_stage: RunStage) -> None:
    git(project, "add", ".")
    git(project, "commit", "-m", "one")
    git(project, "branch", "base")
    code = project.root / "src" / "thing" / "__init__.py"
    before = subprocess.check_output(["git", "rev-parse", "HEAD:src/thing/__init__.py"], cwd=project.root, text=True).strip()
    code.write_text(CODE.replace("number > 0", "number > 0.5"))
    git(project, "commit", "-am", "two")
    (project.root / ".git" / "objects" / before[:2] / before[2:]).unlink()
    report = run_stage(dataclasses.replace(coverage, base="base"))
    assert report.changed is None
    assert MinCoverage(changed=1)(report).ruling is Ruling.ERROR


def test_added_lines_that_look_like_a_diff_are_content() -> None:
    diff = """\
diff --git a/a.py b/a.py
--- a/a.py
+++ b/a.py
@@ -1 +1,2 @@
--- a/old
+++ b/other.py
+@@ -1 +9 @@
@@ -7,2 +8,0 @@
-x
-y
diff --git a/n b/n
new file mode 100644
--- /dev/null
+++ "b/with \\"quote\\" \\303\\251.py"
@@ -0,0 +1 @@
+x = 1
\\ No newline at end of file
diff --git a/gone.py b/gone.py
--- a/gone.py
+++ /dev/null
@@ -1 +0,0 @@
-x
"""
    assert from_diff(diff) == {"a.py": frozenset({1, 2}), 'with "quote" é.py': frozenset({1})}


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"{}", b'{"files": {}}', b'{"files": []}', b'{"files": {"a.py": {}}}', b'{"files": {"a.py": 1}}', b'{"fil'],
)
def test_what_is_no_coverage_report_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"not JSON with|names no file|lacks"):
        from_json(text)


def test_nothing_measured_is_no_pass() -> None:
    assert MinCoverage(total=0)(CoverageReport(tool="coverage", files=())).ruling is Ruling.ERROR
