"""Working copies as git sees them, with the repositories inside."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pipeline import LockgateError
from pipeline.repository import changed, git, listed, submodules

IDENTITY = ("-c", "user.name=n", "-c", "user.email=e", "-c", "protocol.file.allow=always", "-c", "advice.addEmbeddedRepo=false")


def run(root: Path, *words: str) -> None:
    subprocess.run(["git", *IDENTITY, *words], cwd=root, check=True, capture_output=True)


def repository(root: Path, **files: str) -> Path:
    """A repository with one commit."""
    root.mkdir(parents=True)
    run(root, "init", "-q", "-b", "main")
    for name, text in files.items():
        (root / name).write_text(text)
    run(root, "add", ".")
    run(root, "commit", "-q", "--allow-empty", "-m", "x")
    return root


@pytest.fixture
def outer(tmp_path: Path) -> Path:
    return repository(tmp_path / "outer", f="1")


@pytest.fixture
def with_submodule(outer: Path, tmp_path: Path) -> Path:
    library = repository(tmp_path / "library", a="1", b="1")
    run(outer, "submodule", "add", "-q", str(library), "vendor/lib")
    run(outer, "commit", "-q", "-m", "submodule")
    return outer


def test_an_untracked_repository_inside_is_listed_with_its_own_ignore_rules(outer: Path) -> None:
    inner = repository(outer / "deep" / "inner", **{"g": "1", ".gitignore": "*.log\n"})
    (inner / "new").write_text("x")
    (inner / "noise.log").write_text("x")
    assert sorted(listed(outer)) == ["deep/inner/.gitignore", "deep/inner/g", "deep/inner/new", "f"]


def test_a_repository_inside_a_directory_without_history_is_listed(tmp_path: Path) -> None:
    repository(tmp_path / "top" / "inner", g="1")
    assert listed(tmp_path / "top") == ["inner/g"]


def test_the_files_of_submodules_are_listed_whatever_hooks_are_told(
    with_submodule: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (with_submodule / "vendor/lib/new").write_text("x")
    expected = [".gitmodules", "f", "vendor/lib/a", "vendor/lib/b", "vendor/lib/new"]
    assert sorted(listed(with_submodule)) == expected
    monkeypatch.setenv("GIT_DIR", str(with_submodule / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(with_submodule / ".git/index"))
    assert sorted(listed(with_submodule)) == expected


def test_a_repository_that_was_added_by_mistake_is_listed(outer: Path) -> None:
    repository(outer / "inner", g="1")
    run(outer, "add", "inner")
    assert sorted(listed(outer)) == ["f", "inner/g"]


def test_a_submodule_that_is_not_checked_out_is_told(with_submodule: Path, tmp_path: Path) -> None:
    run(tmp_path, "clone", "-q", str(with_submodule), "clone")
    assert sorted(listed(tmp_path / "clone")) == [".gitmodules", "f", "vendor/lib/"]


def test_what_was_put_in_the_place_of_a_submodule_is_listed(with_submodule: Path) -> None:
    place = with_submodule / "vendor" / "lib"
    (place / ".git").unlink()
    assert "vendor/lib/a" in listed(with_submodule)
    for name in ("a", "b"):
        (place / name).unlink()
    place.rmdir()
    assert sorted(listed(with_submodule)) == [".gitmodules", "f"]
    place.symlink_to("../f")
    assert sorted(listed(with_submodule)) == [".gitmodules", "f", "vendor/lib"]


def test_state_and_history_are_never_listed(outer: Path) -> None:
    (outer / ".pipeline").mkdir()
    (outer / ".pipeline" / "x").write_text("x")
    assert listed(outer) == ["f"]


def test_a_file_in_conflict_is_listed_once(outer: Path) -> None:
    run(outer, "checkout", "-q", "-b", "other")
    (outer / "f").write_text("2")
    run(outer, "commit", "-qam", "2")
    run(outer, "checkout", "-q", "main")
    (outer / "f").write_text("3")
    run(outer, "commit", "-qam", "3")
    with pytest.raises(subprocess.CalledProcessError):
        run(outer, "merge", "other")
    assert listed(outer) == ["f"]


def test_without_git_nothing_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LockgateError, match="the program git is missing"):
        listed(tmp_path)


def test_changed_paths_are_those_since_the_base_tracked_or_not(outer: Path) -> None:
    (outer / "new.txt").write_text("x")
    (outer / "f").write_text("2")
    assert changed(outer, "main") == frozenset({"new.txt", "f"})
    assert changed(outer, "no-such-base") is None


def test_what_changed_in_a_submodule_is_told_file_by_file(with_submodule: Path) -> None:
    assert changed(with_submodule, "main") == frozenset()
    (with_submodule / "vendor/lib/a").write_text("2")
    (with_submodule / "vendor/lib/new").write_text("x")
    inside = {"vendor/lib/a", "vendor/lib/new"}
    assert changed(with_submodule, "main") == frozenset(inside | {"vendor/lib"})
    run(with_submodule / "vendor/lib", "add", ".")
    run(with_submodule / "vendor/lib", "commit", "-q", "-m", "2")
    run(with_submodule, "checkout", "-q", "-b", "topic")
    run(with_submodule, "commit", "-qam", "lib")
    assert changed(with_submodule, "main") == frozenset(inside | {"vendor/lib"})


def test_all_of_a_repository_that_is_new_or_whose_history_is_gone_has_changed(with_submodule: Path) -> None:
    repository(with_submodule / "inner", g="1")
    place = with_submodule / "vendor" / "lib"
    (place / ".git").unlink()
    run(place, "init", "-q", "-b", "main")
    assert changed(with_submodule, "main") == frozenset({"inner/g", "vendor/lib/a", "vendor/lib/b"})


def test_a_submodule_that_is_not_checked_out_has_not_changed(with_submodule: Path, tmp_path: Path) -> None:
    run(tmp_path, "clone", "-q", str(with_submodule), "clone")
    assert changed(tmp_path / "clone", "main") == frozenset()


def test_the_submodules_of_a_commit_are_known(with_submodule: Path) -> None:
    assert submodules(with_submodule, "HEAD") == ["vendor/lib"]
    assert submodules(with_submodule, "HEAD~1") == []
    with pytest.raises(LockgateError, match="git cannot list the files of nothing"):
        submodules(with_submodule, "nothing")


def test_no_answer_is_not_an_empty_one(outer: Path) -> None:
    assert git(outer, "rev-parse", "nothing") is None
    assert git(outer, "diff", "HEAD") == ""


def test_where_git_cannot_compare_it_is_not_known_what_changed(outer: Path) -> None:
    run(outer, "branch", "base")
    (outer / "f").write_text("2")
    run(outer, "commit", "-qam", "2")
    lose(outer, "base^{tree}")
    assert changed(outer, "base") is None


def test_where_git_cannot_compare_a_repository_inside_it_is_not_known_what_changed(with_submodule: Path) -> None:
    place = with_submodule / "vendor" / "lib"
    (place / "a").write_text("2")
    run(place, "commit", "-qam", "2")
    lose(place, "HEAD~1^{tree}")
    assert changed(with_submodule, "HEAD") is None


def lose(root: Path, name: str) -> None:
    """Take an object out of the repository, as one has it that was cloned in part."""
    found = git(root, "rev-parse", name) or ""
    objects = root / (git(root, "rev-parse", "--git-path", "objects") or "")
    place = objects / found[:2] / found[2:]
    if not place.exists():  # it came in a pack
        for pack in (objects / "pack").glob("*.pack"):
            data = pack.read_bytes()
            pack.unlink()
            subprocess.run(["git", "unpack-objects", "-q"], cwd=root, input=data, check=True)
    place.unlink()


def test_only_the_part_below_the_project_counts(with_submodule: Path) -> None:
    (with_submodule / "vendor" / "x").write_text("x")
    assert sorted(listed(with_submodule / "vendor")) == ["lib/a", "lib/b", "x"]
    assert changed(with_submodule / "vendor", "main") == frozenset({"x"})
    os.unlink(with_submodule / "vendor/lib/a")
    assert changed(with_submodule / "vendor", "main") == frozenset({"x", "lib", "lib/a"})


def test_files_that_git_cannot_list_are_never_taken_for_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_text("x")
    (tmp_path / "broken").write_text("[user\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "broken"))
    with pytest.raises(LockgateError, match="git cannot list the files") as caught:
        listed(tmp_path)
    assert caught.value.next == f"git -C {tmp_path} status"
