"""Explanations name the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline import Entry, Store, Tree
from pipeline.digest import canonical
from pipeline.explanation import changes, files
from pipeline.plan import Decision, Step
from pipeline.record import Record
from tests.pipeline.toys import Constant


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def tree(store: Store, **contents: str) -> Tree:
    blobs = {name: store.put(text.encode()) for name, text in contents.items()}
    return store.tree([Entry(name, "file", blob.digest, blob.size) for name, blob in blobs.items()])


def explained(store: Store, before: dict[str, str], now: dict[str, str]) -> Any:
    record = Record(result="", size=0, components=before, run="r", seconds=0, summary="", concern="", contents=[])
    step = Step(stage=Constant(value=1), name="s", decision=Decision.RUN, reason="", components=now)
    return changes(step, store, {"k": record}.get, {"s": "k"})


def test_two_trees_are_compared_file_by_file(store: Store) -> None:
    old, new = tree(store, kept="1", changed="1", gone="1"), tree(store, kept="1", changed="2", fresh="1")
    (change,) = explained(store, {"observed": old.digest}, {"observed": new.digest})
    assert [line.split()[0] for line in change.details] == ["changed", "fresh", "gone"]


def test_results_that_are_trees_are_compared_too(store: Store) -> None:
    old, new = (store.put(canonical(tree(store, a=text).model_dump(mode="json"))).digest for text in ("1", "2"))
    (change,) = explained(store, {"input of": old}, {"input of": new})
    assert change.details[0].startswith("a ")


def test_other_components_are_shown_before_and_now(store: Store) -> None:
    (change,) = explained(store, {"platform": "a"}, {"platform": "b"})
    assert (change.before, change.now, change.details) == ("a", "b", ())


def test_without_an_earlier_result_there_is_nothing_to_compare(store: Store) -> None:
    step = Step(stage=Constant(value=1), name="s", decision=Decision.RUN, reason="", components={})
    assert changes(step, store, lambda _: None, {}) == ()


@pytest.mark.parametrize("data", [b"", b"\xff", b"{}", b"[1]", b'{"digest": 1, "files": 1, "size": 1}', b'[["a"]]'])
def test_bytes_of_another_kind_are_no_tree(store: Store, data: bytes) -> None:
    assert files(store, store.put(data).digest) is None
    assert files(store, "f" * 64) is None
