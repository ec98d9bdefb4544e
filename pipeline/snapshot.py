"""A snapshot of a directory as a tree, quick when little changed.

An index remembers each file's digest with its size, times, inode and mode. A file is read again unless
all of them are the same and its times lie well before the moment it was read: a file changed twice
within one tick of the clock looks the same, so one that was young when it was read is never trusted
(what git calls a racy entry).
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterable
from pathlib import Path

from pipeline.condition import matches
from pipeline.data import Tree
from pipeline.store import Entry, Store

YOUNG = 2_000_000_000
"""Nanoseconds: the coarsest time stamps in use (FAT) tick every two seconds."""

Stamp = tuple[int, int, int, int, int]
"""Size, modification time, change time (ns), inode, mode."""


def take(
    root: Path,
    files: Iterable[str],
    store: Store,
    index: Path,
    *,
    include: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
) -> Tree:
    """Those of `files` below `root` that the patterns choose, as a tree in the store."""
    known = _read(index)
    entries: list[Entry] = []
    fresh: dict[str, tuple[Stamp, str]] = {}
    now = time.time_ns()
    prefix = str(root) + os.sep
    for path in _chosen(files, include, exclude):
        full = prefix + path
        try:
            info = os.lstat(full)
        except FileNotFoundError:
            continue  # tracked by git and deleted in the working copy
        if stat.S_ISLNK(info.st_mode):
            entries.append(Entry(path, "link", os.readlink(full)))
            continue
        if not stat.S_ISREG(info.st_mode):
            continue
        stamp: Stamp = (info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino, info.st_mode)
        remembered = known.get(path)
        name = remembered[1] if remembered is not None and remembered[0] == stamp else store.put_file(Path(full)).digest
        if max(stamp[1], stamp[2]) < now - YOUNG:
            fresh[path] = (stamp, name)
        entries.append(Entry(path, "executable" if info.st_mode & 0o100 else "file", name, info.st_size))
    if fresh.items() - known.items():
        _write(index, known | fresh)
    return store.tree(entries)


def _chosen(paths: Iterable[str], include: tuple[str, ...], exclude: tuple[str, ...]) -> Iterable[str]:
    for path in paths:
        if include and not any(matches(path, pattern) for pattern in include):
            continue
        if exclude and any(matches(path, pattern) for pattern in exclude):
            continue
        yield path


def _read(index: Path) -> dict[str, tuple[Stamp, str]]:
    try:
        rows = json.loads(index.read_text())
        return {path: (tuple(stamp), name) for path, stamp, name in rows}
    except (OSError, ValueError, TypeError):
        return {}  # no index, or half a one: everything is read again


def _write(index: Path, rows: dict[str, tuple[Stamp, str]]) -> None:
    index.parent.mkdir(parents=True, exist_ok=True)
    made = index.with_name(f"{index.name}.{os.getpid()}")
    made.write_text(json.dumps([[path, stamp, name] for path, (stamp, name) in rows.items()], separators=(",", ":")))
    made.replace(index)
