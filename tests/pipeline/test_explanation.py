"""Explanations name the files."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import Entry, Store, Tree
from pipeline.digest import canonical
from pipeline.explanation import changes, files


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def tree(store: Store, **contents: str) -> Tree:
    blobs = {name: store.put(text.encode()) for name, text in contents.items()}
    return store.tree([Entry(name, "file", blob.digest, blob.size) for name, blob in blobs.items()])


def test_two_trees_are_compared_file_by_file(store: Store) -> None:
    old, new = tree(store, kept="1", changed="1", gone="1"), tree(store, kept="1", changed="2", fresh="1")
    (change,) = changes({"observed": old.digest}, {"observed": new.digest}, store)
    assert [line.split()[0] for line in change.details] == ["changed", "fresh", "gone"]


def test_results_that_are_trees_are_compared_too(store: Store) -> None:
    old, new = (store.put(canonical(tree(store, a=text).model_dump(mode="json"))).digest for text in ("1", "2"))
    (change,) = changes({"input of": old}, {"input of": new}, store)
    assert change.details[0].startswith("a ")


def test_other_components_are_shown_before_and_now(store: Store) -> None:
    (change,) = changes({"platform": "a"}, {"platform": "b"}, store)
    assert (change.before, change.now, change.details) == ("a", "b", ())


def test_without_an_earlier_result_there_is_nothing_to_compare(store: Store) -> None:
    assert changes({}, {"platform": "b"}, store) == ()


@pytest.mark.parametrize("data", [b"", b"\xff", b"{}", b"[1]", b'{"digest": 1, "files": 1, "size": 1}', b'[["a"]]'])
def test_bytes_of_another_kind_are_no_tree(store: Store, data: bytes) -> None:
    assert files(store, store.put(data).digest) is None
    assert files(store, "f" * 64) is None


def test_a_name_that_is_no_utf_8_hides_no_other_file(store: Store) -> None:
    before, now = (tree(store, **{"n\udcff.txt": "same", "a.txt": text}) for text in ("1", "2"))
    (change,) = changes({"observed": before.digest}, {"observed": now.digest}, store)
    assert [line.split()[0] for line in change.details] == ["a.txt"]
