"""Sources: what of a working copy or a commit is taken."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline import LockgateError, Project, Store
from stages.source import Commit, WorkingCopy
from tests.conftest import RunStage, StageDidNotPass

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
