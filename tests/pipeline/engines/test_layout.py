"""What may lie where in the directory of an action."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline import Entry, Store, Tree
from pipeline.engines.layout import check_layout
from pipeline.errors import EngineError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def tree(store: Store, *paths: str, links: tuple[str, ...] = ()) -> Tree:
    blob = store.put(b"x")
    return store.tree(
        [*(Entry(path, "file", blob.digest, 1) for path in paths), *(Entry(path, "link", "/tmp") for path in links)]
    )


def test_inputs_may_share_directories_and_replace_files(store: Store) -> None:
    blob, source = store.put(b"x"), tree(store, "a/f", "g")
    check_layout(store, inputs={"src": source, "src/a/new": blob, "src/g": blob, "src/a": tree(store, "f", "h")}, tools={})
    check_layout(store, inputs={"": source, "b": source}, tools={"site": source}, caches={".cache/uv": "uv"})
    check_layout(store, inputs={"src": source}, tools={"src/site": source, "srcs": source}, caches={"src/a/kept": "k"})


@pytest.mark.parametrize("what", ["inputs", "tools", "caches"])
@pytest.mark.parametrize("path", ["../up", "/etc", "a/../..", ".."])
def test_a_place_outside_is_refused(store: Store, what: str, path: str) -> None:
    places: dict[str, Any] = {"inputs": {}, "tools": {}} | {what: {path: "kept" if what == "caches" else tree(store)}}
    with pytest.raises(EngineError, match="would lie outside the action's directory"):
        check_layout(store, **places)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (("src", ("f",), ("x",)), ("src/x", ("y",), ()), "'src/x'"),
        (("src", ("f",), ("x",)), ("src/x/y/z", ("f",), ()), "'src/x'"),
        (("src", ("f",), ("x",)), (".", ("src/x",), ()), "'src/x'"),
        (("src", ("f",), ()), ("src/f", ("y",), ()), "'src/f'"),
        (("src", ("f",), ("x",)), ("./src", ("x",), ()), "'src/x'"),
    ],
)
def test_an_input_in_the_way_of_another_is_refused_in_either_order(
    store: Store, one: tuple[str, Any, Any], other: tuple[str, Any, Any], said: str, order: int
) -> None:
    inputs = [(place, tree(store, *paths, links=links)) for place, paths, links in (one, other)][::order]
    with pytest.raises(EngineError, match=f"would lie in or below {said}") as caught:
        check_layout(store, inputs=dict(inputs), tools={})
    assert one[0] in caught.value.what


@pytest.mark.parametrize(
    ("tools", "caches", "said"),
    [
        (("src",), (), "'src', a tool"),
        (("site", "site/more"), (), "'site', a tool"),
        (("src/a",), (), "'src/a', a tool"),
        ((), ("src",), "'src', a cache"),
        (("site",), ("site/kept",), "'site', a tool"),
        ((), ("src/a",), "'src/a', a cache"),
    ],
)
def test_nothing_lies_in_a_tool_or_a_cache(store: Store, tools: tuple[str, ...], caches: tuple[str, ...], said: str) -> None:
    source = tree(store, "a/f")
    with pytest.raises(EngineError, match=f"would lie in or below {said}"):
        check_layout(store, inputs={"src": source}, tools=dict.fromkeys(tools, source), caches=dict.fromkeys(caches, "kept"))


def test_an_empty_input_is_a_directory_too(store: Store) -> None:
    with pytest.raises(EngineError, match="would lie in or below 'src', a tool"):
        check_layout(store, inputs={"src": tree(store)}, tools={"./src": tree(store, "f")})
