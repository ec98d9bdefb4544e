"""The store: content-addressed files and directories, and results of stages by key.

Layout, all below one directory:

    blobs/ab/abcdef...     bytes, named by their SHA-256
    results/ab/abcdef...   JSON, named by the key of the stage run that made it
    trees/abcdef.../       a directory laid out once to be shared read-only by many actions

A tree is a blob too: the canonical JSON list of its entries (`Entry.row`), sorted by path.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from pipeline import digest
from pipeline.data import Blob, Tree
from pipeline.errors import StoreError

CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """One file or symbolic link of a tree. `path` is relative, with `/`; `size` in bytes."""

    path: str
    kind: Literal["file", "executable", "link"]
    target: str
    """The digest of the file's bytes, or where the link points."""
    size: int = 0

    def row(self) -> list[str | int]:
        return [self.path, self.kind, self.target, self.size]


class Store:
    """Content by digest under `root`. Every read checks what it read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs, self._results, self._trees = root / "blobs", root / "results", root / "trees"
        try:
            for directory in (self._blobs, self._results, self._trees):
                directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(root, error) from error

    # blobs

    def put(self, data: bytes) -> Blob:
        name = digest.of_bytes(data)
        if not self._blob(name).exists():
            self._write(self._blob(name), data)
        return Blob(digest=name, size=len(data))

    def put_file(self, source: Path) -> Blob:
        """The bytes of `source`, copied and hashed in one pass."""
        hasher, size = hashlib.sha256(), 0
        try:
            with source.open("rb") as file, self._temporary() as copy:
                while piece := file.read(CHUNK):
                    hasher.update(piece)
                    size += len(piece)
                    copy.write(piece)
                copy.flush()
                name = hasher.hexdigest()
                self._keep(Path(copy.name), self._blob(name))
        except OSError as error:
            raise unwritable(self.root, error) from error
        return Blob(digest=name, size=size)

    def read(self, blob: Blob) -> bytes:
        """The bytes of `blob`. Raises StoreError when they are missing or not what they were."""
        try:
            data = self._blob(blob.digest).read_bytes()
        except OSError as error:
            raise StoreError(
                f"{blob.digest[:12]} is not in the store", where=str(self.root), right="an object a run stored"
            ) from error
        if digest.of_bytes(data) != blob.digest:
            raise self._corrupt(blob.digest)
        return data

    def path(self, blob: Blob) -> Path:
        """Where the bytes lie, for reading large ones in pieces. The file is shared: never write to it."""
        path = self._blob(blob.digest)
        if not path.exists():
            raise StoreError(f"{blob.digest[:12]} is not in the store", where=str(self.root))
        return path

    def has_object(self, name: str) -> bool:
        """Whether there are bytes under this digest (they are checked when they are read)."""
        return self._blob(name).exists()

    def has(self, content: Blob | Tree) -> bool:
        """Whether everything needed to read `content` is here (its bytes are checked when they are read)."""
        if not self._blob(content.digest).exists():
            return False
        if isinstance(content, Blob):
            return True
        try:
            entries = self.entries(content)
        except StoreError:
            return False
        return all(entry.kind == "link" or self._blob(entry.target).exists() for entry in entries)

    # trees

    def tree(self, entries: Iterable[Entry]) -> Tree:
        """A tree of files that are already in the store. Two entries of one path: the later one counts."""
        unique = {entry.path: entry for entry in entries}
        rows = sorted(unique.values(), key=lambda entry: entry.path)
        for entry in rows:
            parts = PurePosixPath(entry.path).parts
            if not parts or entry.path.startswith("/") or ".." in parts:
                raise StoreError(f"a tree cannot hold the path {entry.path!r}", right="a relative path without `..`")
        blob = self.put(digest.canonical([entry.row() for entry in rows]))
        files = [entry for entry in rows if entry.kind != "link"]
        return Tree(digest=blob.digest, files=len(files), size=sum(entry.size for entry in files))

    def put_tree(self, directory: Path) -> Tree:
        """Everything below `directory`: files, executable bits and links; no owners, times or empty directories."""
        entries: list[Entry] = []
        for base, directories, files in os.walk(directory):
            for name in [*files, *(name for name in directories if os.path.islink(os.path.join(base, name)))]:
                path = Path(base, name)
                relative = path.relative_to(directory).as_posix()
                mode = path.lstat().st_mode
                if stat.S_ISLNK(mode):
                    entries.append(Entry(relative, "link", os.readlink(path)))
                elif stat.S_ISREG(mode):
                    blob = self.put_file(path)
                    kind: Literal["file", "executable"] = "executable" if mode & 0o100 else "file"
                    entries.append(Entry(relative, kind, blob.digest, blob.size))
        return self.tree(entries)

    def entries(self, tree: Tree) -> tuple[Entry, ...]:
        rows = json.loads(self.read(Blob(digest=tree.digest, size=0)).decode(errors="surrogateescape"))
        return tuple(Entry(*row) for row in rows)

    def overlay(self, parts: Mapping[str, Tree | Blob]) -> Tree:
        """One tree with each part at its path; `""` or `.` lays a tree at the root. Later parts win."""
        entries: list[Entry] = []
        for place, content in parts.items():
            prefix = "" if place in ("", ".") else place.rstrip("/") + "/"
            if isinstance(content, Blob):
                entries.append(Entry(prefix.rstrip("/"), "file", content.digest, content.size))
            else:
                entries += [Entry(prefix + e.path, e.kind, e.target, e.size) for e in self.entries(content)]
        return self.tree(entries)

    def file(self, tree: Tree, path: str) -> Blob:
        """One file of a tree. Raises StoreError with the nearest names when there is none."""
        from pipeline.errors import did_you_mean

        entries = {entry.path: entry for entry in self.entries(tree)}
        entry = entries.get(path)
        if entry is None or entry.kind == "link":
            raise StoreError(f"the tree has no file {path!r}", right=did_you_mean(path, list(entries)[:2000]))
        return Blob(digest=entry.target, size=entry.size)

    def lay_out(self, content: Blob | Tree, destination: Path) -> None:
        """Write `content` at `destination`, private to the caller, each file checked on its way."""
        if isinstance(content, Blob):
            self._lay_file(content.digest, destination, executable=False)
            return
        destination.mkdir(parents=True, exist_ok=True)
        try:
            self._lay_entries(content, destination)
        except StoreError:
            self._blob(content.digest).unlink(missing_ok=True)  # a tree with a hole is a miss: its stage makes it again
            raise

    def _lay_entries(self, tree: Tree, destination: Path) -> None:
        made = {destination}
        for entry in self.entries(tree):
            path = destination / entry.path
            if path.parent not in made:
                path.parent.mkdir(parents=True, exist_ok=True)
                made.add(path.parent)
            if entry.kind == "link":
                path.symlink_to(entry.target)
            else:
                self._lay_file(entry.target, path, executable=entry.kind == "executable")

    def shared(self, tree: Tree) -> Path:
        """The tree laid out once and shared by everybody who reads it; its files are read-only."""
        place = self._trees / tree.digest
        if place.exists():
            return place
        try:
            with tempfile.TemporaryDirectory(dir=self._trees, prefix=".new-", ignore_cleanup_errors=True) as made:
                fresh = Path(made) / "tree"
                self.lay_out(tree, fresh)
                for base, _, files in os.walk(fresh):
                    for name in files:
                        path = os.path.join(base, name)
                        if not os.path.islink(path):
                            os.chmod(path, 0o555 if os.access(path, os.X_OK) else 0o444)
                try:
                    fresh.rename(place)
                except OSError as error:
                    if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                        raise
        except OSError as error:
            raise unwritable(self.root, error) from error
        return place

    # results

    def save(self, key: str, record: bytes) -> None:
        """Keep the record of a stage run under its key."""
        self._write(self._results / key[:2] / key, record)

    def load(self, key: str) -> bytes | None:
        """The record under `key`, or None."""
        try:
            return (self._results / key[:2] / key).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"a result cannot be read: {error}", where=str(self.root)) from error

    # files

    def _blob(self, name: str) -> Path:
        return self._blobs / name[:2] / name

    def _temporary(self) -> IO[bytes]:
        return tempfile.NamedTemporaryFile(dir=self.root, prefix=".new-", delete=False)

    def _keep(self, made: Path, place: Path) -> None:
        """Give a finished file its name in one step: a reader sees all of it or none."""
        place.parent.mkdir(exist_ok=True)
        made.replace(place)

    def _write(self, place: Path, data: bytes) -> None:
        made: Path | None = None
        try:
            with self._temporary() as file:
                made = Path(file.name)
                file.write(data)
            self._keep(made, place)
        except OSError as error:
            if made is not None:
                made.unlink(missing_ok=True)
            raise unwritable(self.root, error) from error

    def _lay_file(self, name: str, destination: Path, *, executable: bool) -> None:
        source = self._blob(name)
        hasher = hashlib.sha256()
        try:
            with source.open("rb") as file, destination.open("wb") as copy:
                while piece := file.read(CHUNK):
                    hasher.update(piece)
                    copy.write(piece)
        except FileNotFoundError as error:
            raise StoreError(f"{name[:12]} is not in the store", where=str(self.root)) from error
        except OSError as error:
            raise unwritable(destination, error) from error
        if hasher.hexdigest() != name:
            destination.unlink()
            raise self._corrupt(name)
        if executable:
            destination.chmod(0o755)

    def _corrupt(self, name: str) -> StoreError:
        self._blob(name).unlink(missing_ok=True)
        return StoreError(
            f"{name[:12]} was damaged on disk and has been removed",
            where=str(self.root),
            right="bytes with that digest",
            next="run again: what is missing is made again",
        )

    def remove_shared(self, tree: Tree) -> None:
        """Take a shared layout away (nobody may be using it)."""
        shutil.rmtree(self._trees / tree.digest, ignore_errors=True)


def unwritable(place: Path, error: OSError) -> StoreError:
    """What an operating system error under `place` means for the user."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(
            "the disk is full", where=str(place), right="free space", next=f"free some, or set PIPELINE_HOME; df -h {place}"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreError(
            f"cannot be written: {error.strerror}",
            where=str(place),
            right="a directory you may write to",
            next="set PIPELINE_HOME to one",
        )
    return StoreError(f"{error.strerror or error}", where=str(error.filename or place))
