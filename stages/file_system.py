"""The file system of an image, put together from its layers in memory: only the bytes of files go to the store.

Layers are applied in order, with their whiteouts (OCI image specification 1.1, "Image Layer Filesystem Changeset").
Every path is resolved as inside the file system, whatever links it holds; one that leaves it is refused. Owners,
times, devices and special bits are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from pipeline import Blob, Entry

if TYPE_CHECKING:
    import tarfile

WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"
LINKS = 40
"""How many symbolic links one path may lead through, as in Linux."""


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

Keep: TypeAlias = Callable[[IO[bytes]], Blob]
"""Puts the bytes of a file where they stay."""


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

    def apply(self, layer: IO[bytes], keep: Keep) -> None:
        """Lay one layer over what is there. Raises Refused for what must not be unpacked, tarfile.TarError for no tar archive."""
        import tarfile

        fresh: set[Place] = set()
        with tarfile.open(fileobj=layer, mode="r:*") as tar:
            for member in tar:
                if ".." in PurePosixPath(member.name).parts:
                    raise Refused(f"the path {member.name!r} leaves the image; expected one inside it")
                place = self._inside(member.name)
                if not place:
                    continue
                if place[-1].startswith(WHITEOUT):
                    self._take_away(place, fresh)
                else:
                    self._add(tar, member, place, keep)
                    fresh.update(place[:depth] for depth in range(1, len(place) + 1))

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

    def _take_away(self, whiteout: Place, fresh: set[Place]) -> None:
        above = self._at(whiteout[:-1])
        if above is None or isinstance(above, Leaf):
            return
        if whiteout[-1] == OPAQUE:
            for name in [name for name in above if (*whiteout[:-1], name) not in fresh]:
                del above[name]
        else:
            above.pop(_hidden(whiteout[-1]), None)

    def _add(self, tar: tarfile.TarFile, member: tarfile.TarInfo, place: Place, keep: Keep) -> None:
        if member.isdir():
            if not isinstance(self._at(place), dict):
                self._lay({}, place)
        elif member.issym():
            self._lay(Leaf("link", member.linkname), place)
        elif member.islnk():
            self._lay(self._linked(member), place)
        elif content := tar.extractfile(member) if member.isfile() else None:
            blob = keep(content)
            self._lay(Leaf("executable" if member.mode & 0o111 else "file", blob.digest, blob.size), place)

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


def _parts(name: str) -> list[str]:
    return [part for part in PurePosixPath(name).parts if part not in ("/", ".", "//")]


def _hidden(whiteout: str) -> str:
    """The name that a whiteout takes away. Raises Refused for one that names another directory."""
    name = whiteout.removeprefix(WHITEOUT)
    if name in ("", ".", ".."):
        raise Refused(f"the whiteout {whiteout!r} leaves its directory; expected a name in it")
    return name
