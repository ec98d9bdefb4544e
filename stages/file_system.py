"""The file system of an image, put together from its layers in memory: what becomes of the bytes of files is the caller's.

Layers are applied in order, with their whiteouts (OCI image specification 1.1, "Image Layer Filesystem Changeset").
Every path is resolved as inside the file system, whatever links it holds; one that leaves it is refused. Owners,
times, devices and special bits are left out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from pipeline import Entry

if TYPE_CHECKING:
    import tarfile

WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"
LINKS = 40
"""How many symbolic links one path may lead through, as in Linux."""
DEEP, LONG = 256, 255
"""How many names a path may have, and how many bytes each of them; Linux allows no longer names."""


class Refused(ValueError):
    """A layer holds something that must not be unpacked."""


class Leaf(NamedTuple):
    """A file or a link; `target` and `size` as in `Entry`."""

    kind: Literal["file", "executable", "link"]
    target: str
    size: int = 0


Directory: TypeAlias = "dict[str, Directory | Leaf]"

Place: TypeAlias = tuple[str, ...]
"""The names that lead from the root to something."""

Keep: TypeAlias = "Callable[[tarfile.TarInfo], str]"
"""What stands for the bytes of a file of a layer: the `target` of its leaf."""


class FileSystem:
    """What the layers applied so far leave."""

    def __init__(self) -> None:
        self._root: Directory = {}

    def entries(self) -> Iterator[Entry]:
        """Files and links, as the entries of a tree."""
        for place, found in _walk(self._root):
            if isinstance(found, Leaf):
                yield Entry("/".join(place), *found)

    def directories(self) -> Iterator[str]:
        """The paths of all directories, each after the one it lies in."""
        for place, found in _walk(self._root):
            if not isinstance(found, Leaf):
                yield "/".join(place)

    def apply(self, layer: tarfile.TarFile, keep: Keep) -> None:
        """Lay one layer over what is there. Raises Refused for what must not be unpacked, and what `layer` raises."""
        added = []
        for member in layer:  # its whiteouts first, wherever they stand: they are about the layers below
            if PurePosixPath(_sound(member.name)).name.startswith(WHITEOUT):
                self._hide(self._inside(member.name))
            else:
                added.append(member)
        for member in added:
            if place := self._inside(member.name):
                self._add(member, place, keep)

    def _inside(self, name: str) -> Place:
        """What `name` means, links on the way resolved as in the image.

        Raises Refused for a path that leaves the root and for a circle of links.
        """
        left, done, links = _parts(name), list[str](), 0
        while left:
            part = left.pop(0)
            if part == "..":
                if not done:
                    raise Refused(f"the path {name!r} leaves the image; expected one inside it")
                done.pop()
                continue
            found = self._at((*done, part)) if left else None
            if not isinstance(found, Leaf) or found.kind != "link":
                done.append(part)
                continue
            links += 1
            if links > LINKS:
                raise Refused(f"the path {name!r} leads in a circle of links")
            done = [] if found.target.startswith("/") else done
            left = [*_parts(found.target), *left]
        return tuple(done)

    def _at(self, place: Place) -> Directory | Leaf | None:
        found: Directory | Leaf | None = self._root
        for part in place:
            if found is None or isinstance(found, Leaf):
                return None
            found = found.get(part)
        return found

    def _hide(self, whiteout: Place) -> None:
        """Take away what a whiteout names, or all that lies beside an opaque one."""
        hidden = None if whiteout[-1] == OPAQUE else _hidden(whiteout[-1])
        directory = self._at(whiteout[:-1])
        if directory is None or isinstance(directory, Leaf):
            return
        if hidden is None:
            directory.clear()
        else:
            directory.pop(hidden, None)

    def _add(self, member: tarfile.TarInfo, place: Place, keep: Keep) -> None:
        if member.isdir():
            if not isinstance(self._at(place), dict):
                self._lay({}, place)
        elif member.issym():
            self._lay(Leaf("link", _target(member)), place)
        elif member.islnk():
            self._lay(self._linked(member), place)
        elif member.isfile():
            self._lay(Leaf("executable" if member.mode & 0o111 else "file", keep(member), member.size), place)

    def _linked(self, member: tarfile.TarInfo) -> Leaf:
        found = self._at(self._inside(member.linkname))
        if not isinstance(found, Leaf):
            raise Refused(f"{member.name!r} is a hard link to {member.linkname!r}; expected a file that is already there")
        return found

    def _lay(self, what: Directory | Leaf, place: Place) -> None:
        directory = self._root
        for depth, part in enumerate(place[:-1], start=1):
            below = directory.setdefault(part, {})
            if isinstance(below, Leaf):
                raise Refused(f"{'/'.join(place)!r} lies below {'/'.join(place[:depth])!r}; expected a directory there")
            directory = below
        directory[place[-1]] = what


def _walk(directory: Directory, above: Place = ()) -> Iterator[tuple[Place, Directory | Leaf]]:
    for name, found in directory.items():
        yield (*above, name), found
        if not isinstance(found, Leaf):
            yield from _walk(found, (*above, name))


def _sound(name: str) -> str:
    parts = PurePosixPath(name).parts
    if ".." in parts:
        raise Refused(f"the path {name!r} leaves the image; expected one inside it")
    if len(parts) > DEEP or "\0" in name or any(len(os.fsencode(part)) > LONG for part in parts):
        raise Refused(f"the path {name[:80]!r} cannot be one; expected at most {DEEP} names of at most {LONG} bytes without NUL")
    return name


def _target(member: tarfile.TarInfo) -> str:
    if not member.linkname or "\0" in member.linkname:
        raise Refused(f"the link {member.name!r} leads to {member.linkname!r}; expected a path")
    return member.linkname


def _parts(name: str) -> list[str]:
    return [part for part in PurePosixPath(name).parts if part not in ("/", ".", "//")]


def _hidden(whiteout: str) -> str:
    """The name that a whiteout takes away. Raises Refused for one that names another directory."""
    name = whiteout.removeprefix(WHITEOUT)
    if name in ("", ".", ".."):
        raise Refused(f"the whiteout {whiteout!r} leaves its directory; expected a name in it")
    return name
