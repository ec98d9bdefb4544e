"""One scan for each package."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gates import MaxFindings, Ruling
from gates.findings import Finding, Findings, Severity
from pipeline import Journal, Pipeline, Project, Stage, Store, Tree
from pipeline.history import fold
from stages.bandit import Bandit, BanditTool
from stages.packages import EachPackage, moved, packages
from stages.sarif import findings_from_sarif, scored
from stages.source import WorkingCopy
from stages.subtree import Subtree
from tests.conftest import RunStage, StageDidNotPass
from tests.running import run_pipeline
from tests.stages.test_bandit import INJECTION


def scanned(tree: Stage[Tree], tool: Stage[Tree]) -> Stage[Findings]:
    return Bandit(source=tree, tool=tool, paths=(".",))


def write(project: Project, **files: str) -> EachPackage:
    for name, text in files.items():
        place = project.root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return EachPackage(source=WorkingCopy(), tool=BanditTool(), scan=scanned)


TWO = {"api/pyproject.toml": "", "api/src/a.py": INJECTION, "web/pyproject.toml": "", "web/b.py": "x = 1\n"}


def test_what_is_found_in_the_packages_has_its_place_in_the_source(project: Project, run_stage: RunStage, store: Store) -> None:
    found = run_stage(write(project, **TWO))
    assert [(f.rule, f.path, f.line) for f in found.findings] == [("B608", "api/src/a.py", 4)]
    assert (found.targets, found.subject, found.tool) == (2, "files", "bandit 1.9.4")
    assert MaxFindings()(found).ruling is Ruling.FAILED
    report = store.read(found.report)
    assert [f.path for f in findings_from_sarif(report)] == ["api/src/a.py"]
    assert scored(report) == {"B608"}


def test_only_the_packages_that_changed_are_scanned_again(project: Project, journal: Journal, store: Store) -> None:
    pipeline = Pipeline("thing", scans=write(project, **{**TWO, "api/src/a.py": "y = 1\n"}))
    assert run_pipeline(pipeline, project, store, journal)[0].failed == {}
    (project.root / "web" / "b.py").write_text("x = 2\n")
    outcome, _ = run_pipeline(pipeline, project, store, journal)
    states = {name: stage.state for name, stage in fold(journal.events(outcome.run))[outcome.run].stages.items()}
    assert (states["scans[api]"], states["scans[web]"], states["scans"]) == ("cached", "passed", "passed")


def test_the_same_finding_in_two_packages_is_two_findings(project: Project, run_stage: RunStage) -> None:
    found = run_stage(write(project, **{**TWO, "web/src/a.py": INJECTION}))
    assert len({finding.fingerprint for finding in found.findings}) == 2


def test_what_is_found_in_no_file_is_in_none_of_the_source() -> None:
    one = Finding(rule="R", severity=Severity.LOW, path="", line=0, message="it lacks a licence", fingerprint="x")
    assert (moved(one, "api").path, moved(one, "api").fingerprint == moved(one, "web").fingerprint) == ("", False)


def test_without_a_package_nothing_is_clean(project: Project, run_stage: RunStage) -> None:
    with pytest.raises(StageDidNotPass, match=r"no directory holds a setup\.cfg"):
        run_stage(replace(write(project, **{"a.py": "x = 1\n"}), marker="setup.cfg"))


def test_a_package_inside_another_is_not_part_of_it() -> None:
    assert packages(["pyproject.toml", "a/pyproject.toml", "ab/x"], "pyproject.toml") == {".": ("a",), "a": ()}


def test_a_subtree_has_the_paths_from_its_directory_on(project: Project, run_stage: RunStage, store: Store) -> None:
    write(project, **{"a/b/c.py": "1", "a/b/inner/d.py": "2", "ab/e.py": "3"})
    paths = [entry.path for entry in store.entries(run_stage(Subtree(source=WorkingCopy(), path="a")))]
    assert paths == ["b/c.py", "b/inner/d.py"]
    tree = run_stage(Subtree(source=WorkingCopy(), path=".", without=("a/b/inner",)))
    assert [entry.path for entry in store.entries(tree)] == ["a/b/c.py", "ab/e.py", "pyproject.toml"]
    with pytest.raises(StageDidNotPass, match="there is nothing below 'x'"):
        run_stage(Subtree(source=WorkingCopy(), path="x"))
