"""A snapshot of a directory as a tree, quick when little changed.

An index remembers each file's digest with its size, times, inode and mode. A file is read again unless
all of them are the same and its times lie well before the moment it was read: a file changed twice
within one tick of the clock looks the same, so one that was young when it was read is never trusted
(what git calls a racy entry). Nor is anything once the store has lost an object: the file has to be put there again.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from collections.abc import Iterable
from pathlib import Path

from pipeline.data import Tree
from pipeline.errors import LockgateError
from pipeline.patterns import EVERYTHING, Patterns
from pipeline.store import Entry, Store

YOUNG = 2_000_000_000
"""Nanoseconds: the coarsest time stamps in use (FAT) tick every two seconds."""

Stamp = tuple[int, int, int, int, int]
"""Size, modification time, change time (ns), inode, mode."""


def take(root: Path, files: Iterable[str], store: Store, index: Path, patterns: Patterns = EVERYTHING) -> Tree:
    """Those of `files` below `root` that the patterns choose, as a tree in the store.

    `files` are as `project.listed` gives them. Raises LockgateError for a submodule among them that is not checked out.
    """
    losses = store.losses  # before anything: what is lost meanwhile makes the index void
    known = _read(index, losses)
    entries: list[Entry] = []
    fresh: dict[str, tuple[Stamp, str]] = {}
    now = time.time_ns()
    prefix = str(root) + os.sep
    links: dict[str, bool] = {"": False}
    for path in patterns.choose(files):
        if path.endswith("/"):
            raise LockgateError(
                f"the submodule {path[:-1]} is not checked out",
                where=str(root),
                right=f"its files, or patterns that leave it out, as exclude=({path[:-1]!r},)",
                next=f"git submodule update --init {path[:-1]}",
            )
        if _through_link(path.rpartition("/")[0], prefix, links):
            continue  # tracked by git, and its directory has been replaced by a link
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
        _write(index, known | fresh, losses)
    return store.tree(entries)


def _through_link(directory: str, prefix: str, known: dict[str, bool]) -> bool:
    """Whether a directory of the project is reached through a symbolic link; each one is looked at once."""
    if directory not in known:
        above = directory.rpartition("/")[0]
        known[directory] = _through_link(above, prefix, known) or os.path.islink(prefix + directory)
    return known[directory]


def _read(index: Path, losses: int) -> dict[str, tuple[Stamp, str]]:
    try:
        found = json.loads(index.read_text())
        return {path: (tuple(stamp), name) for path, stamp, name in found["files"]} if found["losses"] == losses else {}
    except (OSError, ValueError, TypeError, LookupError):
        return {}  # no index, or half a one: everything is read again


def _write(index: Path, rows: dict[str, tuple[Stamp, str]], losses: int) -> None:
    """Remember what was read. Where that cannot be written, files are read again: it is a matter of speed."""
    made = index.with_name(f"{index.name}.{os.getpid()}")
    files = [[path, stamp, name] for path, (stamp, name) in rows.items()]
    with contextlib.suppress(OSError):
        index.parent.mkdir(parents=True, exist_ok=True)
        made.write_text(json.dumps({"losses": losses, "files": files}, separators=(",", ":")))
        made.replace(index)
