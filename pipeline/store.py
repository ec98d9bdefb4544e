"""The store: content-addressed files and directories, and results of stages by key.

Layout, all below one directory:

    blobs/ab/abcdef...     bytes, named by their SHA-256
    results.db             results of stages, and their records by the key of the stage run that made them (`Results`)
    losses                 a byte for each time something was found damaged or missing: what was remembered of it is void
    trees/abcdef.../       a directory laid out once to be shared read-only by many actions; its files are names of blobs

A tree is a blob too: the canonical JSON list of its entries (`Entry.row`), sorted by path.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import posixpath
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from pipeline import digest
from pipeline.data import Blob, Tree
from pipeline.errors import StoreError
from pipeline.results import Results
from pipeline.scratch import Scratch, held_file, sweep

CHUNK = 1 << 20

READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)

OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
"""What the system says where nothing is wrong but the disk."""

NEW = ".new-"
"""How the names of files and trees begin that are not whole yet."""

GONE = ".gone-"
"""How the names of trees begin that are being removed."""

LARGE = 65536
"""Bytes from which on the text of a result is a file."""

ODD = frozenset({"", ".", ".."})
"""Parts that no path of a tree has."""


Lay = Callable[[str, Path, bool], None]
"""Makes the object of that name a file at that place, executable or not."""


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


@dataclass(frozen=True)
class Inventory:
    """What is in a store: records by key, sizes in bytes of texts and of files by digest, and the trees that are laid out."""

    records: Mapping[str, bytes]
    texts: Mapping[str, int]
    files: Mapping[str, int]
    trees: list[str]


class Store:
    """Content by digest under `root`; directories are made when something is written.

    Every read checks what it read. Only what `path` and `shared` point to is read by others, unchecked; what `checked`
    points to was whole a moment ago, and what `shared` points to when this process first asked for it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs, self._trees = root / "blobs", root / "trees"
        self._results = Results(root / "results.db")
        self._sound: set[str] = set()
        """Trees that are laid out and that this process has found whole."""

    # blobs

    def put(self, data: bytes) -> Blob:
        name = digest.of_bytes(data)
        if not self._blob(name).exists():
            self._write(self._blob(name), data)
        return Blob(digest=name, size=len(data))

    def put_file(self, source: Path) -> Blob:
        """The bytes of `source`, copied and hashed in one pass."""
        try:
            file = source.open("rb")
        except OSError as error:
            raise StoreError(f"cannot be read: {error.strerror}", where=str(source)) from error
        with file:
            try:
                return self._copied(file)
            except OSError as error:
                known = self._known(source) if error.errno in READ_ONLY else None
                if known is None:
                    raise unwritable(self.root, error) from error
                return known

    def put_from(self, file: IO[bytes]) -> Blob:
        """The bytes that are left to read in `file`; what is small and here already is not written again."""
        first = file.read(CHUNK)
        if len(first) < CHUNK:
            return self.put(first)
        try:
            return self._copied(file, first)
        except OSError as error:
            if error.errno is None:  # not the system's: whoever unpacks what is read says that it is damaged
                raise
            raise unwritable(self.root, error) from error

    def _copied(self, file: IO[bytes], first: bytes = b"") -> Blob:
        hasher, size, piece = hashlib.sha256(), 0, first or file.read(CHUNK)
        with self._new() as copy:
            while piece:
                hasher.update(piece)
                size += len(piece)
                copy.write(piece)
                piece = file.read(CHUNK)
            copy.keep(self._blob(hasher.hexdigest()))
        return Blob(digest=hasher.hexdigest(), size=size)

    def adopt_file(self, source: Path) -> Blob:
        """The bytes of `source`, which nobody writes to any more and which goes away: it gets a second name rather than a copy.

        It is copied where that cannot be: on another file system, and where it has more names already.
        """
        try:
            name, about = digest.of_file(source), source.lstat()
            if not self.has_object(name):
                self._adopt(source, about, self._blob(name))
        except OSError:
            return self.put_file(source)
        return Blob(digest=name, size=about.st_size)

    def _adopt(self, source: Path, about: os.stat_result, place: Path) -> None:
        """Raises OSError where `source` cannot have the name `place` too."""
        if about.st_nlink != 1:
            raise OSError(errno.EMLINK, "it may be written to under its other names", str(source))
        place.parent.mkdir(parents=True, exist_ok=True)
        source.chmod(place.parent.stat().st_mode & 0o666)  # as a file that was made here
        with contextlib.suppress(FileExistsError):  # another process was quicker
            os.link(source, place)

    def _known(self, source: Path) -> Blob | None:
        """The bytes of `source` if they are here: who may only read the store needs no copy of what it has."""
        name = digest.of_file(source)
        return Blob(digest=name, size=source.stat().st_size) if self.has_object(name) else None

    def read(self, blob: Blob) -> bytes:
        """The bytes of `blob`. Raises StoreError when they are missing or not what they were."""
        try:
            data = self._blob(blob.digest).read_bytes()
        except OSError as error:
            text = self._results.text(blob.digest)
            if text is None:
                raise self._missing(blob.digest) from error
            data = text
        if digest.of_bytes(data) != blob.digest:
            raise self._corrupt(blob.digest)
        return data

    def path(self, blob: Blob) -> Path:
        """Where the bytes lie, for reading large ones in pieces. The file is shared: never write to it."""
        path = self._blob(blob.digest)
        if not path.exists():
            raise self._missing(blob.digest)
        return path

    def checked(self, blob: Blob) -> Path:
        """As `path`, its bytes read once and compared. Raises StoreError when they are missing or not what they were."""
        path = self.path(blob)
        if digest.of_file(path) != blob.digest:
            raise self._corrupt(blob.digest)
        return path

    def begins(self, name: str) -> bytes:
        """The first byte of an object, from which it is seen whether it may be JSON; empty where it is missing."""
        with contextlib.suppress(FileNotFoundError), self._blob(name).open("rb") as file:
            return file.read(1)
        return (self._results.text(name) or b"")[:1]

    def pieces(self, name: str, size: int) -> Iterator[bytes]:
        """The bytes of an object, so many at a time, unchecked; none where it is missing."""
        try:
            file = self._blob(name).open("rb")
        except FileNotFoundError:
            yield self._results.text(name) or b""
            return
        with file:
            while piece := file.read(size):
                yield piece

    def size(self, name: str) -> int:
        """The bytes under this digest. Raises StoreError where there are none."""
        with contextlib.suppress(FileNotFoundError):
            return self._blob(name).stat().st_size
        return len(self.read(Blob(digest=name, size=0)))

    def has_object(self, name: str) -> bool:
        """Whether there are bytes under this digest (they are checked when they are read)."""
        return self._blob(name).exists() or self._results.text(name) is not None

    def has(self, content: Blob | Tree) -> bool:
        """Whether everything needed to read `content` is here (its bytes are checked when they are read)."""
        if not self.has_object(content.digest):
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
        """A tree of files that are already in the store. Two entries of one path: the later one counts.

        Raises StoreError for a path that leads elsewhere, and for a file or link that is also a directory.
        """
        unique = {entry.path: entry for entry in entries}
        check_paths(unique)
        rows = sorted(unique.values(), key=lambda entry: entry.path)
        blob = self.put(digest.canonical([entry.row() for entry in rows]))
        files = [entry for entry in rows if entry.kind != "link"]
        return Tree(digest=blob.digest, files=len(files), size=sum(entry.size for entry in files))

    def put_tree(self, directory: Path, *, adopt: bool = False) -> Tree:
        """Everything below `directory`: files, executable bits and links; no owners, times or empty directories.

        `adopt` it where nobody writes to it any more and it goes away: that costs no copy.
        """
        put = self.adopt_file if adopt else self.put_file
        entries: list[Entry] = []
        for base, directories, files in os.walk(directory):
            for name in [*files, *(name for name in directories if os.path.islink(os.path.join(base, name)))]:
                path = Path(base, name)
                relative = path.relative_to(directory).as_posix()
                mode = path.lstat().st_mode
                if stat.S_ISLNK(mode):
                    entries.append(Entry(relative, "link", os.readlink(path)))
                elif stat.S_ISREG(mode):
                    blob = put(path)
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
            prefix = "" if (at := posixpath.normpath(place)) == "." else f"{at}/"
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
            self._lay_file(content.digest, destination, False)
            return
        self._lay_tree(content, destination, self._lay_file)

    def _lay_tree(self, tree: Tree, destination: Path, lay: Lay) -> None:
        destination.mkdir(parents=True, exist_ok=True)
        entries = self.entries(tree)
        check_paths({entry.path: entry for entry in entries})  # who else wrote to the store is not known
        self._lay_entries(entries, destination, lay)

    def _lay_entries(self, entries: Iterable[Entry], destination: Path, lay: Lay) -> None:
        made = {destination}
        for entry in entries:
            path = destination / entry.path
            if path.parent not in made:
                path.parent.mkdir(parents=True, exist_ok=True)
                made.add(path.parent)
            if entry.kind == "link":
                path.symlink_to(entry.target)
            else:
                lay(entry.target, path, entry.kind == "executable")

    def shared(self, tree: Tree) -> Path:
        """The tree laid out once, and shared by everybody who reads it; checked then, and by each process that begins to use it.

        Its files are read-only, which keeps out no one who may change that: only who cannot write there is to be led to it.
        """
        place = self._trees / tree.digest
        if tree.digest in self._sound and place.exists():
            return place
        try:
            if place.exists() and not self.is_laid_out_whole(tree.digest):
                place.rename(self._trees / f"{GONE}{tree.digest}-{os.getpid()}")
            if not place.exists():
                self._lay_out_shared(tree, place)
        except OSError as error:
            raise unwritable(self.root, error) from error
        self._sound.add(tree.digest)
        return place

    def _lay_out_shared(self, tree: Tree, place: Path) -> None:
        self._trees.mkdir(parents=True, exist_ok=True)
        with Scratch(self._trees, NEW) as made:
            fresh = made.path / "tree"
            self._lay_tree(tree, fresh, self._share_file)
            try:
                fresh.rename(place)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise

    # results

    def keep(self, text: bytes) -> str:
        """The text of a result, under its digest; written by `flush`, like what is saved under a key; a file if it is large."""
        return self.put(text).digest if len(text) > LARGE else self._results.keep(text)

    def save(self, key: str, record: bytes) -> None:
        """Keep the record of a stage run under its key."""
        self._results.save(key, record)

    def load(self, key: str) -> bytes | None:
        """The record under `key`, or None."""
        return self._results.load(key)

    def load_all(self, keys: Iterable[str]) -> list[tuple[str, bytes]]:
        """The records under those of the keys that have one."""
        return self._results.load_all(keys)

    def lacking(self, names: Iterable[str]) -> set[str]:
        """Those of the digests under which nothing is here, or a damaged text; files are checked when they are read."""
        wanted = set(names)
        wanted.difference_update(name for name, text in self._results.texts(wanted).items() if digest.of_bytes(text) == name)
        return {name for name in wanted if not self._blob(name).exists()}

    def settle(self, print_: str, run: str, contents: Iterable[str]) -> None:
        """Remember that `run` found everything it wanted, whose content is `contents`, until anything is saved or forgotten."""
        self._results.settle(print_, run, contents)

    def settled(self, print_: str) -> str | None:
        """The run that found everything it wanted, if all of it is still here."""
        found = self._results.settled(print_)
        return found[0] if found is not None and not self.lacking(found[1]) else None

    def forget(self, key: str) -> None:
        """Take the record under `key` away, so that nobody reuses the result; the result itself stays."""
        self._results.forget(key)

    def leave(self) -> None:
        """Nothing is written for now: what was is left as whoever comes next reads it soonest."""
        self._results.leave()

    def flush(self) -> None:
        """Write results and records that were kept. Raises StoreError where that cannot be."""
        self._results.flush()

    # all of it

    def inventory(self) -> Inventory:
        """What is here."""
        records, texts = self._results.everything()
        return Inventory(records, texts, dict(self._files(self._blobs)), self._laid_out())

    def _files(self, directory: Path) -> Iterator[tuple[str, int]]:
        if directory.exists():
            for part in sorted(directory.iterdir()):
                for path in part.iterdir():
                    yield path.name, path.stat().st_size

    def _laid_out(self) -> list[str]:
        """The digests of the trees that are laid out."""
        names = sorted(path.name for path in self._trees.iterdir()) if self._trees.exists() else []
        return [name for name in names if not name.startswith((NEW, GONE))]

    def is_whole(self, name: str) -> bool:
        """Whether the object of that digest is what it was when it was stored."""
        try:
            if self._blob(name).exists():
                return digest.of_file(self._blob(name)) == name
            text = self._results.text(name)
        except OSError:
            return False
        return text is not None and digest.of_bytes(text) == name

    def is_laid_out_whole(self, name: str) -> bool:
        """Whether the tree of that digest, where it is laid out to be shared, is what it was."""
        place = self._trees / name
        try:
            entries = self.entries(Tree(digest=name, files=0, size=0))
            there = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_symlink() or path.is_file()}
            return there == {entry.path for entry in entries} and all(self._is_as(entry, place) for entry in entries)
        except (StoreError, OSError):
            return False

    @staticmethod
    def _is_as(entry: Entry, place: Path) -> bool:
        path = place / entry.path
        if entry.kind == "link":
            return os.readlink(path) == entry.target
        return digest.of_file(path) == entry.target and bool(path.stat().st_mode & 0o100) == (entry.kind == "executable")

    def discard(self, keys: Iterable[str], objects: Iterable[str], trees: Iterable[str] = ()) -> None:
        """Forget results, objects and trees that are laid out. Only while nobody else uses the store. Raises StoreError.

        What needs others goes before them, so that what is left is whole wherever this is cut off; and nothing is written that
        takes room before there is more of it.
        """
        gone = list(objects)
        self._finish_removing()
        try:
            self._sound.difference_update(trees)
            for name in trees:  # away in one step: half a tree would be shared as if it were whole
                shutil.rmtree((self._trees / name).rename(self._trees / f"{GONE}{name}"))
            self._results.remove(keys, gone)
            for name in gone:
                self._blob(name).unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(self.root, error) from error
        self._results.give_back()

    # files

    def sweep(self) -> None:
        """Remove what processes that were killed had begun to write."""
        for directory in (self.root, self._trees):
            with contextlib.suppress(OSError):  # nothing was written yet, or nothing may be
                sweep(directory, NEW)
        self._finish_removing()

    def _finish_removing(self) -> None:
        """Remove trees that somebody had begun to; it is no matter who does it."""
        for place in self._trees.glob(f"{GONE}*"):
            shutil.rmtree(place, ignore_errors=True)

    def _blob(self, name: str) -> Path:
        return self._blobs / name[:2] / name

    @contextmanager
    def _new(self) -> Iterator[_New]:
        """A file to write; without `keep` it is gone afterwards."""
        self.root.mkdir(parents=True, exist_ok=True)
        path, file = held_file(self.root, NEW)
        try:
            with file:
                yield _New(path, file)
        finally:
            path.unlink(missing_ok=True)

    def _write(self, place: Path, data: bytes) -> None:
        try:
            with self._new() as file:
                file.write(data)
                file.keep(place)
        except OSError as error:
            raise unwritable(self.root, error) from error

    def _share_file(self, name: str, destination: Path, executable: bool) -> None:
        """A read-only file: the checked object itself under another name, or a copy where it cannot have one more."""
        if not executable and self._link(name, destination):
            return
        self._lay_file(name, destination, executable)
        destination.chmod(0o555 if executable else 0o444)

    def _link(self, name: str, destination: Path) -> bool:
        """Whether the object could be given another name. Raises StoreError when it is damaged."""
        try:
            source = self.checked(Blob(digest=name, size=0))
            source.chmod(source.stat().st_mode & 0o444)
            os.link(source, destination)
        except OSError:
            return False
        return True

    def _lay_file(self, name: str, destination: Path, executable: bool) -> None:
        source = self._blob(name)
        hasher = hashlib.sha256()
        try:
            with source.open("rb") as file, destination.open("wb") as copy:
                while piece := file.read(CHUNK):
                    hasher.update(piece)
                    copy.write(piece)
        except FileNotFoundError as error:
            if source.exists():
                raise unwritable(destination, error) from error
            raise self._missing(name) from error
        except OSError as error:
            raise unwritable(destination, error) from error
        if hasher.hexdigest() != name:
            destination.unlink()
            raise self._corrupt(name)
        if executable:
            destination.chmod(0o755)

    def _corrupt(self, name: str) -> StoreError:
        removed = self._drop(name)
        self._lost(name)
        return StoreError(
            f"{name[:12]} was damaged on disk and {'has been' if removed else 'cannot be'} removed",
            where=str(self.root),
            right="bytes with that digest",
            next="run again: what is missing is made again",
        )

    def _missing(self, name: str) -> StoreError:
        self._lost(name)
        return StoreError(
            f"{name[:12]} is not in the store",
            where=str(self.root),
            right="an object a run stored",
            next="run again: what is missing is made again",
        )

    @property
    def losses(self) -> int:
        """How often something was found damaged or missing, ever."""
        try:
            return (self.root / "losses").stat().st_size
        except OSError:
            return 0

    def _lost(self, name: str) -> None:
        """Take away what names an object that is gone, so that its stage makes all of it again: a tree with a hole is a miss."""
        for tree in [other for other, _ in self._files(self._blobs) if self._names(other, name)]:
            self._drop(tree)
            self._sound.discard(tree)  # laid out, it may have the damaged bytes too
        self.note_loss()

    def note_loss(self) -> None:
        """What was remembered of what is here is void. Where that cannot be written, nothing else can: nothing was lost yet."""
        with contextlib.suppress(OSError), (self.root / "losses").open("ab") as file:
            file.write(b".")

    def has_holes(self, tree: Tree) -> bool:
        """Whether the tree's listing is here, and anything that it names is not."""
        return self.has_object(tree.digest) and not self.has(tree)

    def _names(self, tree: str, name: str) -> bool:
        """Whether an object may be the listing of a tree, and names the other."""
        try:
            return self.begins(tree) == b"[" and name.encode() in self._blob(tree).read_bytes()
        except OSError:
            return False

    def _drop(self, name: str) -> bool:
        """Take an object away, so that it is made again; False where nothing may be written."""
        try:
            self._blob(name).unlink(missing_ok=True)
            self._results.drop_text(name)
        except (OSError, StoreError):
            return False
        return True


@dataclass(frozen=True)
class _New:
    """A file under a name of its own until it is whole."""

    path: Path
    file: IO[bytes]

    def write(self, data: bytes) -> None:
        self.file.write(data)

    def keep(self, place: Path) -> None:
        """Give it its name in one step: a reader sees all of it or none."""
        self.file.flush()
        place.parent.mkdir(parents=True, exist_ok=True)
        self.path.replace(place)


def check_paths(entries: Mapping[str, Entry]) -> None:
    """Raise StoreError unless each path stays inside, is in its shortest form, and lies below directories only."""
    directories: dict[str, str] = {}
    for path in entries:
        if not ODD.isdisjoint(path.split("/")):
            raise StoreError(f"a tree cannot hold the path {path!r}", right="a relative path in its shortest form, without `..`")
        parent = path.rpartition("/")[0]
        while parent and parent not in directories:
            directories[parent] = path
            parent = parent.rpartition("/")[0]
    for path in entries.keys() & directories.keys():
        kind = "a link" if entries[path].kind == "link" else "a file"
        raise StoreError(
            f"a tree cannot hold {path!r} as {kind} and {directories[path]!r} below it", right="a directory, or nothing below it"
        )


def unwritable(place: Path, error: OSError) -> StoreError:
    """What an operating system error under `place` means for the user."""
    named = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else place
    where = str(named if named.is_absolute() else place)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(
            "the disk is full",
            where=str(place),
            right="free space",
            next=f"df -h {_there(place)}; free some, or have another disk for PIPELINE_HOME (state) or TMPDIR (actions at work)",
        )
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return StoreError(
            "too many files are open at once",
            where=where,
            right="a higher limit of file descriptors",
            next="ulimit -n 1024, then the same command again",
        )
    if error.errno in READ_ONLY:
        return StoreError(
            f"cannot be written: {error.strerror}",
            where=str(place),
            right="a directory you may write to",
            next="set PIPELINE_HOME to one",
        )
    if error.errno == errno.EIO:
        return StoreError(
            f"the disk does not read or write: {error.strerror}",
            where=where,
            right="a disk that is whole",
            next="dmesg | tail; have another disk for PIPELINE_HOME (state) or TMPDIR (actions at work)",
        )
    return StoreError(f"{error.strerror or error}", where=where)


def _there(place: Path) -> Path:
    """The place, or the nearest directory above it that there is."""
    return next((path for path in (place, *place.parents) if path.exists()), place)
