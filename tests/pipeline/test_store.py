"""The store: what goes in comes out, or is reported."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import signal
import stat
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import Blob, Entry, Store, StoreError, Tree
from pipeline.data import contents
from pipeline.store import CHUNK, unwritable


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


names = st.text("abcdefghij._- é", min_size=1, max_size=8).filter(lambda name: name.strip(".") and name not in (".", ".."))
files = st.dictionaries(names, st.tuples(st.binary(max_size=64), st.booleans()), max_size=8)


@given(files)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_a_tree_comes_out_as_it_went_in(tmp_path_factory: pytest.TempPathFactory, listing: dict[str, tuple[bytes, bool]]) -> None:
    base = tmp_path_factory.mktemp("tree")
    source, store = base / "in", Store(base / "store")
    source.mkdir()
    for name, (data, executable) in listing.items():
        (source / name).write_bytes(data)
        (source / name).chmod(0o755 if executable else 0o644)
    tree = store.put_tree(source)
    store.lay_out(tree, base / "out")
    assert {p.name: (p.read_bytes(), os.access(p, os.X_OK)) for p in (base / "out").iterdir()} == listing
    assert tree == store.put_tree(base / "out")
    assert (tree.files, tree.size) == (len(listing), sum(len(data) for data, _ in listing.values()))


def test_links_and_directories_are_kept(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "in"
    (source / "a" / "b").mkdir(parents=True)
    (source / "a" / "b" / "file").write_text("x")
    (source / "a" / "link").symlink_to("b/file")
    (source / "dir").symlink_to("a")
    store.lay_out(store.put_tree(source), tmp_path / "out")
    assert os.readlink(tmp_path / "out" / "a" / "link") == "b/file"
    assert (tmp_path / "out" / "dir" / "b" / "file").read_text() == "x"


def test_every_single_byte_flip_of_a_blob_is_found(store: Store) -> None:
    data = bytes(range(64))
    for position in range(len(data)):
        blob = store.put(data)
        store.path(blob).write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        with pytest.raises(StoreError, match="was damaged on disk and has been removed"):
            store.read(blob)
        assert not store.has(blob)


def test_a_tree_stays_where_it_cannot_be_laid_out_for_want_of_a_disk(store: Store, tmp_path: Path) -> None:
    tree = store.tree([Entry("null", "file", store.put(b"x" * 100).digest, 100)])
    full = tmp_path / "full"
    full.mkdir()
    (full / "null").symlink_to("/dev/full")
    with pytest.raises(StoreError, match="the disk is full"):
        store.lay_out(tree, full)
    assert store.has(tree)


def test_a_damaged_file_is_found_when_a_tree_is_laid_out(store: Store, tmp_path: Path) -> None:
    blob = store.put(b"content")
    tree = store.tree([Entry("file", "file", blob.digest, blob.size)])
    store.path(blob).write_bytes(b"other!!")
    with pytest.raises(StoreError, match="damaged"):
        store.lay_out(tree, tmp_path / "out")
    assert not (tmp_path / "out" / "file").exists()
    assert not store.has(tree)


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "a/../../b", "", ".", "a//b", "a/./b", "a/"])
def test_a_path_that_leads_out_of_the_tree_is_refused(store: Store, path: str) -> None:
    blob = store.put(b"")
    with pytest.raises(StoreError, match="cannot hold the path"):
        store.tree([Entry(path, "file", blob.digest)])


def test_an_overlay_puts_each_part_at_its_path_and_the_later_one_wins(store: Store) -> None:
    one, two = store.put(b"1"), store.put(b"2")
    tree = store.tree([Entry("a", "file", one.digest, 1), Entry("b", "file", one.digest, 1)])
    found = store.overlay({"": tree, "b": two, "in": tree})
    assert {entry.path: entry.target for entry in store.entries(found)} == {
        "a": one.digest, "b": two.digest, "in/a": one.digest, "in/b": one.digest,
    }  # fmt: skip


def test_a_missing_file_of_a_tree_is_refused_with_the_nearest_name(store: Store) -> None:
    blob = store.put(b"")
    tree = store.tree([Entry("requirements.lock", "file", blob.digest)])
    with pytest.raises(StoreError) as caught:
        store.file(tree, "requirements.loc")
    assert caught.value.right == "did you mean 'requirements.lock'?"


def test_a_shared_tree_is_laid_out_once_and_read_only(store: Store) -> None:
    blob = store.put(b"x")
    tree = store.tree([Entry("tool", "executable", blob.digest, 1)])
    place = store.shared(tree)
    assert store.shared(tree) == place
    assert (place / "tool").stat().st_mode & 0o777 == 0o555


def test_a_shared_tree_that_was_pruned_is_laid_out_again(store: Store) -> None:
    blob = store.put(b"x")
    tree = store.tree([Entry("tool", "file", blob.digest, 1)])
    shutil.rmtree(store.shared(tree))
    assert (store.shared(tree) / "tool").read_bytes() == b"x"


def test_what_is_not_there_is_said_plainly(store: Store) -> None:
    missing = Blob(digest="0" * 64, size=1)
    with pytest.raises(StoreError, match="000000000000 is not in the store"):
        store.read(missing)
    with pytest.raises(StoreError, match="is not in the store"):
        store.path(missing)
    assert store.load("0" * 64) is None
    assert not store.has(Tree(digest="0" * 64, files=0, size=0))


def test_a_directory_that_cannot_be_written_is_said_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError) as caught:
        Store(tmp_path / "file" / "store").put(b"x")
    assert "Not a directory" in str(caught.value)


def test_nothing_is_made_before_something_is_written(tmp_path: Path) -> None:
    store = Store(tmp_path / "home" / "store")
    assert store.load("0" * 64) is None
    assert not store.has_object("0" * 64)
    assert not (tmp_path / "home").exists()
    store.put(b"x")
    store.save("0" * 64, b"{}")
    assert [path.name for path in (tmp_path / "home" / "store").iterdir() if path.is_file()] == []


def test_what_the_umask_keeps_from_others_is_kept_from_them_wherever_it_is_laid_out(store: Store, tmp_path: Path) -> None:
    source, own = tmp_path / "source", tmp_path / "own"
    (source / "inner").mkdir(parents=True)
    (source / "inner" / "data").write_text("data")
    store.shared(store.put_tree(tmp_path / "source"))  # under the umask of before, so that anybody may pass
    (source / "inner" / "data").write_text("private")
    before = os.umask(0o077)
    try:
        tree = store.put_tree(source)
        shared = store.shared(tree)
        store.lay_out(tree, own)
    finally:
        os.umask(before)
    laid = [path for place in (shared, own) for path in (place, *place.rglob("*"))]
    assert [path for path in laid if path.stat().st_mode & 0o077] == []
    assert len(laid) == 6


def test_what_is_stored_can_be_read_by_whom_the_umask_lets(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"y")
    before = os.umask(0o027)
    try:
        found = [store.path(store.put(b"x")), store.path(store.put_file(tmp_path / "file"))]
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in found] == [0o640, 0o640]


def test_a_file_that_is_here_already_needs_no_writing(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"x")
    blob = store.put_file(tmp_path / "file")

    def refused(*_: object, **__: object) -> None:
        raise OSError(30, os.strerror(30))

    monkeypatch.setattr(Path, "mkdir", refused)  # what a read-only mount says
    assert store.put_file(tmp_path / "file") == blob
    (tmp_path / "file").write_bytes(b"y")
    with pytest.raises(StoreError, match="cannot be written: Read-only file system"):
        store.put_file(tmp_path / "file")


def test_a_file_that_cannot_be_read_is_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="missing: cannot be read: No such file"):
        store.put_file(tmp_path / "missing")


@pytest.mark.parametrize(("kind", "word"), [("file", "a file"), ("link", "a link")])
def test_a_file_or_link_that_is_also_a_directory_is_refused(store: Store, kind: Literal["file", "link"], word: str) -> None:
    blob = store.put(b"")
    entries = [Entry("x/a/y", "file", blob.digest), Entry("x", kind, blob.digest if kind == "file" else "/tmp")]
    with pytest.raises(StoreError, match=f"a tree cannot hold 'x' as {word} and 'x/a/y' below it"):
        store.tree(entries)
    with pytest.raises(StoreError, match="cannot hold 'in/x'"):
        store.overlay({"in": store.tree(entries[:1]), "in/x": blob})


def test_a_listing_that_would_lead_through_a_link_is_not_laid_out(store: Store, tmp_path: Path) -> None:
    blob = store.put(b"planted")
    (tmp_path / "outside").mkdir()
    rows = [["x", "link", str(tmp_path / "outside"), 0], ["x/y", "file", blob.digest, 7]]
    tree = Tree(digest=store.put(json.dumps(rows).encode()).digest, files=1, size=7)
    with pytest.raises(StoreError, match="cannot hold 'x' as a link"):
        store.lay_out(tree, tmp_path / "out")
    assert list((tmp_path / "outside").iterdir()) == []


def test_an_overlay_may_spell_a_place_in_any_way(store: Store) -> None:
    tree = store.tree([Entry("a", "file", store.put(b"1").digest, 1)])
    assert store.overlay({"./in//x/": tree}) == store.overlay({"in/x": tree})


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (28, "the disk is full"),
        (13, "cannot be written"),
        (30, "cannot be written"),
        (5, "does not read or write: Input/output"),
        (24, "ulimit -n 1024"),
    ],
)
def test_errors_of_the_system_become_sentences(tmp_path: Path, number: int, words: str) -> None:
    said = str(unwritable(tmp_path, OSError(number, os.strerror(number), "bin")))  # relative to a directory nobody knows
    assert words in said
    assert said.startswith(f"{tmp_path}: ")
    assert "next: " in said


def test_a_tree_is_never_shared_that_somebody_had_begun_to_remove(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = store.tree([Entry(name, "executable", store.put(name.encode()).digest, 1) for name in "ab"])
    place = store.shared(tree)

    def half(path: Path, **_: object) -> None:
        (path / "a").unlink()
        raise OSError(errno.EIO, os.strerror(errno.EIO), "b")

    monkeypatch.setattr(shutil, "rmtree", half)
    with pytest.raises(StoreError, match="Input/output error"):
        store.discard([], [], [tree.digest])
    monkeypatch.undo()
    assert not place.exists()
    assert store.inventory().trees == []
    assert {path.name for path in store.shared(tree).iterdir()} == {"a", "b"}
    store.sweep()
    assert list((store.root / "trees").iterdir()) == [place]


def test_contents_finds_every_blob_and_tree_of_a_result(store: Store) -> None:
    blob, tree = store.put(b"x"), store.tree([])
    assert list(contents({"a": [blob, (tree,)], "b": 1})) == [blob, tree]


def test_a_tree_is_here_only_with_every_file_of_it(store: Store) -> None:
    blob = store.put(b"x")
    tree = store.tree([Entry("f", "file", blob.digest, 1), Entry("l", "link", "f")])
    assert (store.has(blob), store.has(tree)) == (True, True)
    store.path(blob).unlink()
    assert (store.has(blob), store.has(tree)) == (False, False)


def test_a_tree_whose_listing_was_damaged_is_not_here(store: Store) -> None:
    tree = store.tree([Entry("f", "file", store.put(b"x").digest, 1)])
    store.path(Blob(digest=tree.digest, size=0)).write_bytes(b"[]")
    assert not store.has(tree)


def test_what_is_neither_a_file_nor_a_link_is_no_part_of_a_tree(store: Store, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").write_text("x")
    os.mkfifo(tmp_path / "in" / "pipe")
    assert [entry.path for entry in store.entries(store.put_tree(tmp_path / "in"))] == ["file"]


def test_a_tree_with_a_hole_is_not_shared_and_is_made_again(store: Store) -> None:
    tree = store.tree([Entry("f", "file", store.put(b"x").digest, 1)])
    store.path(store.put(b"x")).unlink()
    with pytest.raises(StoreError, match="is not in the store"):
        store.shared(tree)
    assert [list(path.iterdir()) for path in store.root.glob("trees")] == [[]]
    assert not store.has_object(tree.digest)  # a miss: its stage makes it again


def test_who_shares_a_tree_that_another_process_has_just_laid_out_gets_that_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = store.tree([Entry("f", "file", store.put(b"x").digest, 1)])
    real = Path.rename

    def late(self: Path, target: Path) -> Path:
        if self.name != "tree":
            return real(self, target)
        monkeypatch.setattr(Path, "rename", real)
        assert Store(store.root).shared(tree) == target
        (target / "f").chmod(0o400)  # theirs, and not ours
        return real(self, target)

    monkeypatch.setattr(Path, "rename", late)
    place = store.shared(tree)
    assert ((place / "f").read_bytes(), (place / "f").stat().st_mode & 0o777) == (b"x", 0o400)
    assert list((store.root / "trees").iterdir()) == [place]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EXDEV])
def test_a_tree_that_cannot_be_shared_is_an_error(store: Store, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    tree = store.tree([Entry("f", "file", store.put(b"x").digest, 1)])

    real = Path.rename

    def refused(self: Path, target: Path) -> Path:
        if self.name != "tree":
            return real(self, target)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(StoreError, match=os.strerror(number)):
        store.shared(tree)
    assert list((store.root / "trees").iterdir()) == []


def test_a_record_that_cannot_be_read_is_not_taken_for_none(store: Store) -> None:
    store.root.mkdir(parents=True, exist_ok=True)
    (store.root / "results.db").write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match=r"the results cannot be used: file is not a database(.|\n)*rm -f .*results.db"):
        store.load("0" * 64)


def test_a_file_that_cannot_be_laid_out_is_said_with_its_place(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"{tmp_path}: Is a directory"):
        store.lay_out(store.put(b"x"), tmp_path)


def test_what_was_damaged_where_nothing_may_be_written_is_said_to_be_still_there(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = store.put(b"x")
    store.path(blob).write_bytes(b"y")

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(StoreError, match="was damaged on disk and cannot be removed"):
        store.read(blob)
    monkeypatch.undo()
    with pytest.raises(StoreError, match="was damaged on disk and has been removed"):
        store.read(blob)


def killed_while_writing(root: Path) -> None:
    """A process that is killed with a file and a shared tree half written."""
    child = os.fork()
    if child == 0:
        store = Store(root)
        tree = store.tree([Entry("a", "file", store.put(b"a").digest, 1)])
        store._lay_entries = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
        with store._new() as file:
            file.write(b"half")
            store.shared(tree)
    os.waitpid(child, 0)


def unfinished(root: Path) -> list[str]:
    return sorted(path.parent.name for path in root.rglob(".new-*"))


def test_what_killed_processes_had_begun_is_swept_and_what_is_being_written_is_not(store: Store) -> None:
    killed_while_writing(store.root)
    assert unfinished(store.root) == ["store", "trees"]
    with store._new() as file:
        store.sweep()
        assert [path.name for path in store.root.rglob(".new-*")] == [file.path.name]
        file.keep(store.root / "whole")
    store.sweep()
    assert unfinished(store.root) == []
    assert (store.root / "whole").exists()


def test_a_store_in_which_nothing_was_written_is_swept_without_a_word(store: Store) -> None:
    store.sweep()
    assert not store.root.exists()


# Names instead of copies.


def made(place: Path, *, mode: int = 0o644) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"what an action made")
    place.chmod(mode)
    return place


def test_what_goes_away_is_adopted_without_a_copy_and_stays(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "out"
    file, program = made(out / "file", mode=0o4600), made(out / "bin" / "program", mode=0o755)
    program.write_bytes(b"#!/bin/sh")
    inode = file.stat().st_ino
    tree = store.put_tree(out, adopt=True)
    shutil.rmtree(out)
    assert [(entry.path, entry.kind) for entry in store.entries(tree)] == [("bin/program", "executable"), ("file", "file")]
    place = store.path(store.file(tree, "file"))
    assert (place.stat().st_ino, stat.S_IMODE(place.stat().st_mode)) == (inode, 0o644)
    assert store.read(store.file(tree, "file")) == b"what an action made"


def test_what_has_another_name_is_copied_as_it_may_be_written_to(store: Store, tmp_path: Path) -> None:
    file = made(tmp_path / "file")
    (tmp_path / "other").hardlink_to(file)
    blob = store.adopt_file(file)
    (tmp_path / "other").write_bytes(b"changed since")
    assert store.read(blob) == b"what an action made"


def test_what_is_there_already_is_not_written_again(store: Store, tmp_path: Path) -> None:
    first = store.adopt_file(made(tmp_path / "one"))
    inode = store.path(first).stat().st_ino
    assert store.adopt_file(made(tmp_path / "two")) == first
    assert store.path(first).stat().st_ino == inode


def test_what_cannot_be_adopted_because_it_cannot_be_read_is_an_error(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be read"):
        store.adopt_file(tmp_path / "none")


def test_a_shared_tree_takes_no_room_but_for_its_programs(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made(out / "file"), made(out / "program", mode=0o755)
    tree = store.put_tree(out)
    place, blob = store.shared(tree), store.path(store.file(tree, "file"))
    assert (place / "file").samefile(blob)
    assert not (place / "program").samefile(blob)
    assert [stat.S_IMODE((place / name).stat().st_mode) for name in ("file", "program")] == [0o444, 0o555]
    private = tmp_path / "private"
    store.lay_out(tree, private)
    assert not (private / "file").samefile(blob)
    (private / "file").write_bytes(b"mine")  # what is private may be written to
    assert store.read(store.file(tree, "file")) == b"what an action made"


def test_where_a_file_can_have_no_more_names_it_is_copied(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, destination: Path) -> None:
        raise OSError(errno.EMLINK, "Too many links", str(source), None, str(destination))

    made(tmp_path / "out" / "file")
    monkeypatch.setattr("pipeline.store.os.link", refuse)
    tree = store.put_tree(tmp_path / "out", adopt=True)
    place = store.shared(tree)
    assert (place / "file").read_bytes() == b"what an action made"
    assert stat.S_IMODE((place / "file").stat().st_mode) == 0o444
    assert not (place / "file").samefile(store.path(store.file(tree, "file")))


def test_a_damaged_object_is_not_shared(store: Store, tmp_path: Path) -> None:
    made(tmp_path / "out" / "file")
    tree = store.put_tree(tmp_path / "out")
    store.path(store.file(tree, "file")).write_bytes(b"damaged")
    with pytest.raises(StoreError, match="was damaged on disk"):
        store.shared(tree)
    assert not store.has(tree)


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_what_is_read_from_a_file_is_what_its_bytes_are(store: Store, size: int) -> None:
    data = os.urandom(size)
    blob = store.put_from(io.BytesIO(data))
    assert blob == Blob(digest=hashlib.sha256(data).hexdigest(), size=size)
    assert store.read(blob) == data


def test_a_tree_that_was_damaged_where_it_is_shared_is_laid_out_anew_by_who_begins_to_use_it(
    store: Store, tmp_path: Path
) -> None:
    blob = store.put(b"of a tool")
    tree = store.tree([Entry("tool", "executable", blob.digest, blob.size)])
    place = store.shared(tree) / "tool"
    place.chmod(0o755)
    place.write_bytes(b"of a fool")
    assert store.shared(tree) / "tool" == place  # this process has seen it whole
    assert (Store(store.root).shared(tree) / "tool").read_bytes() == b"of a tool"
