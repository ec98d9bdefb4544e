"""Tests that are split between several stages."""

from __future__ import annotations

from dataclasses import replace

import pytest
from defusedxml import ElementTree
from hypothesis import given
from hypothesis import strategies as st

from gates import AllPassed, Ruling, Status
from gates.tests import Case
from pipeline import Facts, Journal, Pipeline, Project, Retry, Store, WiringError
from pipeline.history import fold
from stages.coverage import Coverage
from stages.environment import Tool
from stages.source import WorkingCopy
from stages.split_tests import SplitTests, chosen, divided, joined, seconds_by_file
from tests.conftest import RunStage, StageDidNotPass
from tests.running import run_pipeline


def write(project: Project, **files: str) -> SplitTests:
    for name, text in {"src/thing.py": "def one():\n    return 1\n\ndef two():\n    return 2\n", **files}.items():
        place = project.root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return SplitTests(source=WorkingCopy(), environment=Tool(name="pytest"), into=2)


GOOD = "def test_good(): pass\n"


def test_the_parts_together_give_one_report(project: Project, run_stage: RunStage, store: Store) -> None:
    files = {"tests/test_a.py": GOOD, "tests/test_b.py": GOOD + "def test_bad(): assert 1 == 2\n", "tests/below/test_c.py": GOOD}
    report = run_stage(write(project, **files))
    assert {(case.file, case.name): case.status for case in report.cases} == {
        ("tests/test_a.py", "test_good"): Status.PASSED,
        ("tests/test_b.py", "test_good"): Status.PASSED,
        ("tests/test_b.py", "test_bad"): Status.FAILED,
        ("tests/below/test_c.py", "test_good"): Status.PASSED,
    }
    assert AllPassed()(report).ruling is Ruling.FAILED
    assert len(list(ElementTree.fromstring(store.read(report.report)).iter("testcase"))) == 4


def test_the_parts_are_divided_by_how_long_they_took(project: Project, journal: Journal, store: Store) -> None:
    slow = "import time\n\ndef test_it(): time.sleep({})\n"
    times = {"a": 0.3, "b": 0.01, "c": 0.01, "d": 0.3}
    files = {f"tests/test_{name}.py": slow.format(seconds) for name, seconds in times.items()}
    unit = write(project, **files)
    pipeline = Pipeline("thing", unit=unit)
    assert run_pipeline(pipeline, project, store, journal)[0].failed == {}
    (project.root / "src" / "thing.py").write_text("")
    outcome, _ = run_pipeline(pipeline, project, store, journal)
    assert outcome.failed == {}
    argv = {
        event.stage: {word for word in event.data["argv"] if word.startswith("tests/")}
        for event in journal.events(outcome.run, kind="action.started")
    }
    slowest = [[name for name in ("a", "d") if f"tests/test_{name}.py" in words] for words in argv.values()]
    assert sorted(slowest) == [["a"], ["d"]]


def test_what_failed_is_run_again_and_the_other_parts_are_not(project: Project, journal: Journal, store: Store) -> None:
    unit = write(project, **{"tests/test_a.py": GOOD, "tests/test_b.py": "def test_bad(): assert 0\n"})
    for _ in range(2):
        outcome, _ = run_pipeline(Pipeline("thing", unit=unit), project, store, journal, facts=Facts(branch="main"))
        assert list(outcome.failed) == ["unit"]
    states = {name: stage.state for name, stage in fold(journal.events(outcome.run))[outcome.run].stages.items()}
    assert (states["unit[1]"], states["unit[2]"]) == ("cached", "passed")


def test_coverage_is_that_of_all_parts(project: Project, store: Store, journal: Journal) -> None:
    test = "import thing\n\ndef test_it(): assert thing.{}()\n"
    unit = write(project, **{"tests/test_a.py": test.format("one"), "tests/test_b.py": test.format("two")})
    (project.root / "pyproject.toml").touch()
    environment = Tool(name="pytest")
    unit = replace(unit, cover=("src",), environment=environment)
    outcome, results = run_pipeline(
        Pipeline("thing", unit=unit, coverage=Coverage(tests=(unit,), source=unit.source, environment=environment)),
        project,
        store,
        journal,
    )
    assert outcome.failed == {}
    (file,) = [file for file in results["coverage"].files if file.path == "src/thing.py"]
    assert (file.lines, file.covered_lines) == (4, 4)


def test_a_part_whose_tests_are_all_left_out_measures_nothing_and_is_no_matter(
    project: Project, run_stage: RunStage, store: Store
) -> None:
    files = {"tests/test_a.py": "import thing\n\ndef test_it(): assert thing.one()\n", "tests/test_b.py": "NOTHING = 1\n"}
    report = run_stage(replace(write(project, **files), cover=("src",)))
    assert (AllPassed()(report).ruling, report.coverage is not None) == (Ruling.PASSED, True)
    (project.root / "tests" / "test_a.py").write_text("")
    report = run_stage(replace(write(project), cover=("src",)))
    assert (report.cases, report.coverage) == ((), None)


def test_a_part_is_tried_again_as_the_whole_says(project: Project, journal: Journal, store: Store) -> None:
    unit = replace(write(project, **{"tests/test_a.py": GOOD}), args=("--no-such-option",), retry=Retry(times=1, wait=0))
    outcome, _ = run_pipeline(Pipeline("thing", unit=unit), project, store, journal)
    assert fold(journal.events(outcome.run))[outcome.run].stages["unit[1]"].attempts == 2


def test_there_is_at_least_one_part() -> None:
    with pytest.raises(WiringError, match=r"SplitTests has its tests split into 0 parts"):
        SplitTests(source=WorkingCopy(), environment=Tool(name="pytest"), into=0)


def test_no_test_file_is_no_pass(project: Project, run_stage: RunStage) -> None:
    with pytest.raises(StageDidNotPass, match=r"no file below tests is called test_\*\.py or \*_test\.py"):
        run_stage(write(project))


def test_the_files_are_those_below_the_paths_by_their_names() -> None:
    paths = ("tests/test_a.py", "tests/a_test.py", "tests/conftest.py", "testsuite/test_b.py", "other/test_c.py", "test_d.py")
    patterns = ("test_*.py", "*_test.py")
    assert chosen(paths, ("tests",), patterns) == ("tests/a_test.py", "tests/test_a.py")
    assert chosen(paths, ("other/test_c.py", "tests/"), patterns) == ("other/test_c.py", "tests/a_test.py", "tests/test_a.py")
    assert len(chosen(paths, (".",), patterns)) == 5


def test_the_time_of_a_file_is_that_of_its_tests() -> None:
    cases = [Case(name=name, file=file, status=Status.PASSED, seconds=2) for name, file in (("a", "x"), ("b", "x"), ("c", "y"))]
    assert seconds_by_file(cases) == {"x": 4, "y": 2}


names = st.lists(st.text("abcdef", min_size=1), unique=True, min_size=1, max_size=12).map(tuple)


@given(files=names, times=st.lists(st.floats(0, 100), max_size=12), into=st.integers(1, 5))
def test_every_file_is_in_one_share_and_none_takes_much_longer_than_it_has_to(
    files: tuple[str, ...], times: list[float], into: int
) -> None:
    seconds = dict(zip(files, times, strict=False))
    shares = divided(files, seconds, into)
    assert sorted(file for share in shares for file in share) == sorted(files)
    assert len(shares) == min(into, len(files))
    if len(seconds) == len(files):
        loads = [sum(seconds[file] for file in share) for share in shares]
        least = max(*seconds.values(), sum(seconds.values()) / len(shares))
        assert max(loads) <= 2 * least + 1e-9  # Graham's bound against this bound from below
    assert divided(tuple(reversed(files)), seconds, into) == shares


def test_reports_of_either_form_are_joined() -> None:
    one, two = b"<testsuite name='a'><testcase name='x'/></testsuite>", b"<testsuites><testsuite name='b'/></testsuites>"
    root = ElementTree.fromstring(joined([one, b"", two]))
    assert [suite.get("name") for suite in root] == ["a", "b"]
