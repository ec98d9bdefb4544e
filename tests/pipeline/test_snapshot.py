"""Snapshots of a directory: git's ignore rules, and an index that is never fooled."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from pipeline import LockgateError, Store, Tree
from pipeline.patterns import Patterns
from pipeline.repository import listed
from pipeline.snapshot import take as take_listed


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "src").mkdir(parents=True)
    (root / "src" / "a.py").write_text("a")
    (root / "src" / "run.sh").write_text("#!/bin/sh\n")
    (root / "src" / "run.sh").chmod(0o755)
    (root / "build.log").write_text("noise")
    (root / ".gitignore").write_text("*.log\n")
    return root


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def take(root: Path, store: Store, index: Path, **chosen: tuple[str, ...]) -> Tree:
    return take_listed(root, sorted(listed(root)), store, index, Patterns(**chosen))


def listing(store: Store, root: Path, **chosen: tuple[str, ...]) -> dict[str, str]:
    tree = take(root, store, root.parent / "index.json", **chosen)
    return {entry.path: entry.kind for entry in store.entries(tree)}


@pytest.mark.parametrize("history", [True, False])
def test_what_git_ignores_is_left_out_with_and_without_history(root: Path, store: Store, history: bool) -> None:
    if history:
        subprocess.run(["git", "init", "-q", root], check=True)
    assert listing(store, root) == {".gitignore": "file", "src/a.py": "file", "src/run.sh": "executable"}


def test_patterns_choose_and_leave_out(root: Path, store: Store) -> None:
    assert listing(store, root, include=("src",), exclude=("**/*.sh",)) == {"src/a.py": "file"}


def test_a_file_that_is_tracked_and_deleted_is_left_out(root: Path, store: Store) -> None:
    subprocess.run(["git", "init", "-q", root], check=True)
    subprocess.run(["git", "-C", root, "add", "."], check=True)
    (root / "src" / "a.py").unlink()
    assert "src/a.py" not in listing(store, root)


def test_links_are_kept_as_links(root: Path, store: Store) -> None:
    (root / "link").symlink_to("src/a.py")
    assert listing(store, root)["link"] == "link"


def test_what_lies_behind_a_link_is_no_part_of_the_project(root: Path, store: Store, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", root], check=True)
    subprocess.run(["git", "-C", root, "add", "."], check=True)
    (root / "src").rename(tmp_path / "elsewhere")
    (root / "src").symlink_to(tmp_path / "elsewhere")
    assert listing(store, root) == {".gitignore": "file", "src": "link"}


def test_an_index_that_cannot_be_written_is_no_reason_to_fail(root: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.snapshot.YOUNG", -(10**12))  # every file is old enough to be remembered
    (root.parent / "taken").write_text("")
    assert take(root, store, root.parent / "taken" / "index.json").files == 3


def test_an_edit_of_the_same_size_in_the_same_tick_is_seen(root: Path, store: Store) -> None:
    """The racy case: same size, and a modification time set back to what it was."""
    file, index = root / "src" / "a.py", root.parent / "index.json"
    first = take(root, store, index)
    stamp = file.stat()
    file.write_text("b")
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert take(root, store, index) != first


def test_an_old_unchanged_file_is_not_read_again(root: Path, store: Store) -> None:
    file, index = root / "src" / "a.py", root.parent / "index.json"
    index.write_text("")
    first = take(root, store, index)
    known = index.read_text()
    assert "src/a.py" not in known  # young files are never trusted
    info = file.stat()
    stamp = [info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino, info.st_mode]
    other = store.put(b"remembered")
    index.write_text(json.dumps({"losses": 0, "files": [["src/a.py", stamp, other.digest]]}))
    assert take(root, store, index) != first  # the index was believed: the file was not read
    store.note_loss()
    assert take(root, store, index) == first  # the store may not have it any more


def test_half_an_index_is_no_index(root: Path, store: Store) -> None:
    first = take(root, store, root.parent / "index.json")
    (root.parent / "index.json").write_text('[["src/a.py", [1,')
    assert take(root, store, root.parent / "index.json") == first


def test_a_directory_git_cannot_list_is_a_clear_error(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LockgateError, match="the program git is missing"):
        take(tmp_path, store, tmp_path / "index.json")


def test_a_submodule_that_is_not_checked_out_is_refused_with_the_way_to_get_it(root: Path, store: Store) -> None:
    with pytest.raises(LockgateError, match="the submodule lib is not checked out") as caught:
        take_listed(root, ["lib/", "src/a.py"], store, root.parent / "index.json")
    assert caught.value.next == "git submodule update --init lib"
    left_out = take_listed(root, ["lib/", "src/a.py"], store, root.parent / "index.json", Patterns(exclude=("lib",)))
    assert [entry.path for entry in store.entries(left_out)] == ["src/a.py"]


def test_what_is_no_file_any_more_is_left_out(root: Path, store: Store) -> None:
    subprocess.run(["git", "init", "-q", root], check=True)
    subprocess.run(["git", "-C", root, "add", "."], check=True)
    (root / "src" / "a.py").unlink()
    os.mkfifo(root / "src" / "a.py")
    assert listing(store, root) == {".gitignore": "file", "src/run.sh": "executable"}


def test_what_was_read_is_remembered_also_what_other_patterns_chose(
    root: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.snapshot.YOUNG", -(10**12))  # every file is old enough to be remembered
    index = root.parent / "state" / "index.json"
    take(root, store, index)
    (root / "src" / "a.py").write_text("another")
    take(root, store, index, include=("**/*.py",))
    assert {row[0] for row in json.loads(index.read_text())["files"]} == {".gitignore", "src/a.py", "src/run.sh"}
    monkeypatch.setattr(store, "put_file", lambda _: pytest.fail("it was read again"))
    assert take(root, store, index).files == 3
    assert [path.name for path in index.parent.iterdir()] == ["index.json"]
