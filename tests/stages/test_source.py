"""Sources: what of a working copy or a commit is taken."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline import Blob, Event, Journal, LockgateError, Pipeline, Project, Stage, Store, Work
from stages.source import Commit, Deployed, SourceProvenance, WorkingCopy
from tests.conftest import RunStage, StageDidNotPass
from tests.pipeline.toys import Number
from tests.running import run_pipeline

IDENTITY = ("-c", "user.name=n", "-c", "user.email=e", "-c", "protocol.file.allow=always")


def git(root: Path, *words: str) -> None:
    subprocess.run(["git", *IDENTITY, *words], cwd=root, check=True, capture_output=True)


@pytest.fixture
def with_submodule(project: Project, tmp_path: Path) -> Project:
    library = tmp_path / "library"
    library.mkdir()
    (library / "a").write_text("a")
    for root in (library, project.root):
        git(root, "init", "-q", "-b", "main")
        git(root, "add", ".")
        git(root, "commit", "-q", "-m", "x")
    git(project.root, "submodule", "add", "-q", str(library), "vendor/lib")
    git(project.root, "commit", "-q", "-m", "submodule")
    return project


def paths(store: Store, tree: object) -> list[str]:
    return [entry.path for entry in store.entries(tree)]  # type: ignore[arg-type]


def test_a_working_copy_holds_the_files_of_its_submodules(with_submodule: Project, run_stage: RunStage, store: Store) -> None:
    assert paths(store, run_stage(WorkingCopy())) == [".gitmodules", "pyproject.toml", "vendor/lib/a"]


def test_a_submodule_that_is_not_checked_out_is_refused_unless_it_is_left_out(
    with_submodule: Project, run_stage: RunStage, store: Store
) -> None:
    git(with_submodule.root, "submodule", "deinit", "-q", "--all")
    with pytest.raises(LockgateError, match="the submodule vendor/lib is not checked out") as caught:
        run_stage(WorkingCopy(include=("vendor/**",)))
    assert caught.value.next == "git submodule update --init vendor/lib"
    assert paths(store, run_stage(WorkingCopy(exclude=("vendor/lib",)))) == [".gitmodules", "pyproject.toml"]


def test_a_commit_whose_submodules_are_elsewhere_is_refused_unless_they_are_left_out(
    with_submodule: Project, run_stage: RunStage, store: Store
) -> None:
    with pytest.raises(
        StageDidNotPass, match="HEAD holds the submodule vendor/lib, whose files are in a repository of their own"
    ):
        run_stage(Commit())
    assert paths(store, run_stage(Commit(include=("pyproject.toml",)))) == ["pyproject.toml"]


def test_a_commit_holds_its_files_whatever_is_said_of_archives_and_line_ends(
    project: Project, run_stage: RunStage, store: Store
) -> None:
    root = project.root
    odd = "a file\nof two lines"
    written = {
        ".gitattributes": b"kept export-ignore\nversion export-subst\nlines text eol=crlf\n",
        "kept": b"kept\n",
        "version": b"$Format:%H$\n",
        "lines": b"one\ntwo\n",
        odd: b"",
        "directory/run": b"#!/bin/sh\n",
    }
    for path, text in written.items():
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_bytes(text)
    (root / "directory/run").chmod(0o755)
    (root / "directory/link").symlink_to("../kept")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "x")
    (root / "kept").write_text("changed since")
    found = {entry.path: entry for entry in store.entries(run_stage(Commit()))}
    assert found.keys() == {*written, "directory/link", "pyproject.toml"}
    assert {path: store.path(Blob(digest=found[path].target, size=0)).read_bytes() for path in written} == written
    assert (found["directory/run"].kind, found["kept"].kind) == ("executable", "file")
    assert (found["directory/link"].kind, found["directory/link"].target) == ("link", "../kept")


def test_a_commit_is_taken_below_the_project_only(project: Project, store: Store, journal: Journal) -> None:
    (project.root / "inner").mkdir()
    (project.root / "inner" / "pyproject.toml").write_text("")
    git(project.root, "add", ".")
    git(project.root, "commit", "-q", "-m", "x")
    inner = Project(root=project.root / "inner", home=project.home, settings=project.settings)
    _, found = run_pipeline(Pipeline("inner", commit=Commit()), inner, store, journal)
    assert paths(store, found["commit"]) == ["pyproject.toml"]


def test_an_object_that_is_not_there_is_an_error_and_no_smaller_commit(project: Project, run_stage: RunStage) -> None:
    git(project.root, "add", ".")
    git(project.root, "commit", "-q", "-m", "x")
    name = subprocess.check_output(["git", "rev-parse", "HEAD:pyproject.toml"], cwd=project.root, text=True).strip()
    (project.root / ".git" / "objects" / name[:2] / name[2:]).unlink()
    with pytest.raises(StageDidNotPass, match=f"git has no object {name} for pyproject.toml"):
        run_stage(Commit())


def test_a_working_copy_is_dirty_whatever_git_is_configured_to_show(with_submodule: Project, run_stage: RunStage) -> None:
    git(with_submodule.root, "config", "status.showUntrackedFiles", "no")
    git(with_submodule.root, "config", "diff.ignoreSubmodules", "all")
    assert not run_stage(SourceProvenance()).dirty
    (with_submodule.root / "vendor" / "lib" / "a").write_text("changed")
    assert run_stage(SourceProvenance()).dirty
    git(with_submodule.root / "vendor" / "lib", "checkout", "-q", "--", ".")
    assert not run_stage(SourceProvenance()).dirty
    (with_submodule.root / "fresh").write_text("")
    assert run_stage(SourceProvenance()).dirty


class Edits(Stage[Number]):
    """Changes files while the run is under way, before the working copy is read."""

    async def run(self, work: Work) -> Number:
        for name in ("b", "c", "d", "e"):
            (work.project.root / name).write_text("edited")
        (work.project.root / "a").unlink()
        return Number(value=1)


def test_files_that_change_while_a_run_is_under_way_are_named(project: Project, journal: Journal) -> None:
    for name in ("a", "b", "c", "d", "e", "same"):
        (project.root / name).write_text("as planned")
    edits = Edits()
    source = WorkingCopy(after=(edits,))
    outcome, _ = run_pipeline(Pipeline("x", edits=edits, source=source), project, Store(project.home / "store"), journal)
    assert "while the run was under way: a, b, c and 2 more\n" in outcome.failed["source"]


def test_what_is_deployed_is_the_commit_of_the_latest_run_whose_deployment_stands(
    project: Project, run_stage: RunStage, store: Store
) -> None:
    """A later run whose deployment was taken back changes nothing; before any, it is the revision that is named."""
    root = project.root
    git(root, "init", "-q", "-b", "main")
    commits = []
    for text in ("one", "two", "three"):
        (root / "file").write_text(text)
        git(root, "add", "-A")
        git(root, "commit", "-qm", text)
        commits.append(subprocess.check_output(["git", "-C", root, "rev-parse", "HEAD"], text=True).strip())
    stage = Deployed(revision=commits[2], include=("file",))
    assert stage.observe(project) == commits[2]
    journal = Journal(project.home / "journal.db")
    for run, commit, kind in (("a", commits[0], "effect.stands"), ("b", commits[1], "effect.failed")):
        journal.append(
            Event(run=run, kind="run.started", data={"commit": commit, "pipeline": "x", "engine": "host"}),
            Event(run=run, kind=kind, stage="deploy", data={"about": "x"}),
        )
    journal.close()
    assert stage.observe(project) == commits[0]
    assert store.read(store.file(run_stage(stage), "file")) == b"one"
