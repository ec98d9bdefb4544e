"""What lies where in the directory of an action, checked before anything is laid there."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pipeline.data import Blob, Tree
from pipeline.errors import EngineError
from pipeline.store import Store


@dataclass(frozen=True)
class _Piece:
    """One path that is taken: `kind` is file, link, tool or cache; `of` says in words what it belongs to."""

    path: str
    kind: str
    of: str


def check_layout(
    store: Store, *, inputs: Mapping[str, Tree | Blob], tools: Mapping[str, Tree], caches: Mapping[str, str] | None = None
) -> None:
    """Raise EngineError for what would lie outside the directory, or in the way of something else there.

    Inputs may share directories, and a file may take the place of one laid before it. Nothing may lie below or in
    the place of a link, a tool or a cache: it would be written wherever that leads.
    """
    given = [("input", path, content) for path, content in inputs.items()]
    shared = [("tool", path, None) for path in tools] + [("cache", path, None) for path in caches or ()]
    places = [(what, _inside(what, path), content) for what, path, content in (*given, *shared)]
    above = _directories(at for _, at, _ in places)
    apart = len({at for _, at, _ in places}) == len(places) and not any(at in above or at == "" for _, at, _ in places)
    if apart or len(places) == 1:
        return  # nothing lies in anything else
    taken: dict[str, _Piece] = {}
    directories: dict[str, _Piece] = {}
    for what, at, content in places:
        if isinstance(content, Tree) and at:
            directories[at] = _Piece(at, "directory", f"the {what} {at!r}")
        for piece in _pieces(store, what, at, content):
            before = taken.get(piece.path)
            if before is not None and not before.kind == piece.kind == "file":
                raise _in_the_way(piece, before)
            taken[piece.path] = piece
    for piece in taken.values():
        for directory in _directories([piece.path]):
            directories.setdefault(directory, piece)
    for path in sorted(taken.keys() & directories.keys()):
        raise _in_the_way(directories[path], taken[path])


def _inside(what: str, path: str) -> str:
    at = posixpath.normpath(path)
    if at.startswith(("/", "../")) or at == "..":
        raise EngineError(f"the {what} {path!r} would lie outside the action's directory", right="a relative path without `..`")
    return "" if at == "." else at


def _pieces(store: Store, what: str, at: str, content: Tree | Blob | None) -> Iterator[_Piece]:
    of = f"the {what} {at!r}"
    if isinstance(content, Tree):
        for entry in store.entries(content):
            yield _Piece(f"{at}/{entry.path}" if at else entry.path, "link" if entry.kind == "link" else "file", of)
    else:
        yield _Piece(at, "file" if content else what, of)


def _directories(paths: Iterator[str] | list[str]) -> set[str]:
    """Every directory above one of the paths."""
    found: set[str] = set()
    for path in paths:
        while (path := path.rpartition("/")[0]) and path not in found:
            found.add(path)
    return found


def _in_the_way(piece: _Piece, before: _Piece) -> EngineError:
    whose = "" if before.kind in ("tool", "cache") else f" of {before.of}"
    return EngineError(
        f"{piece.path!r} of {piece.of} would lie in or below {before.path!r}, a {before.kind}{whose}",
        right="places that do not lead into each other",
    )
