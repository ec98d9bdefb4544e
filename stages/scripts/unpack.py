"""Unpack the file system of an image: python unpack.py LAYOUT OUT. Standard library only.

Layers are applied in order, with their whiteouts. Every path is resolved as inside the file system, whatever
links it holds; one that leaves it is refused. Owners, times, devices and special bits are left out.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import IO

WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"
LINKS = 40
"""How many symbolic links one path may lead through, as in Linux."""


class Refused(ValueError):
    """A layer holds something that must not be unpacked."""


def inside(root: Path, name: str, *, follow: bool = False) -> Path:
    """Where `name` of the image lies below `root`, links on the way resolved as in the image; the last with `follow`.

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
        path = root.joinpath(*done, part)
        if path.is_symlink() and (left or follow):
            links += 1
            if links > LINKS:
                raise Refused(f"the path {name!r} leads in a circle of links")
            target = os.readlink(path)
            done = [] if target.startswith("/") else done
            left = [*_parts(target), *left]
        else:
            done.append(part)
    return root.joinpath(*done)


def _parts(name: str) -> list[str]:
    return [part for part in PurePosixPath(name).parts if part not in ("/", ".")]


def apply(layer: IO[bytes], root: Path) -> None:
    """Lay one layer over what is there."""
    fresh: set[Path] = set()
    with tarfile.open(fileobj=layer, mode="r:*") as tar:
        for member in tar:
            if ".." in PurePosixPath(member.name).parts:
                raise Refused(f"the path {member.name!r} leaves the image; expected one inside it")
            if not _parts(member.name):
                continue
            path = inside(root, member.name)
            if path.name == OPAQUE:
                for child in list(path.parent.iterdir()) if path.parent.is_dir() else []:
                    if child not in fresh:
                        remove(child)
            elif path.name.startswith(WHITEOUT):
                remove(path.parent / hidden(path.name))
            else:
                write(tar, member, path, root)
                fresh.update({path, *path.parents})


def hidden(whiteout: str) -> str:
    """The name that a whiteout takes away. Raises Refused for one that names another directory."""
    name = whiteout.removeprefix(WHITEOUT)
    if name in ("", ".", ".."):
        raise Refused(f"the whiteout {whiteout!r} leaves its directory; expected a name in it")
    return name


def write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path, root: Path) -> None:
    if member.isdir():
        if path.is_symlink() or not path.is_dir():
            remove(path)
            path.mkdir(parents=True)
        return
    if not (member.isfile() or member.issym() or member.islnk()):
        return  # devices and pipes are the container runtime's to make
    remove(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if member.issym():
        path.symlink_to(member.linkname)
    elif member.islnk():
        source = inside(root, member.linkname)
        if source.is_symlink():
            path.symlink_to(os.readlink(source))
        else:
            shutil.copy(source, path)
    else:
        content = tar.extractfile(member)
        if content is None:
            raise Refused(f"{member.name!r} has no content; expected a file")
        with path.open("wb") as file:
            shutil.copyfileobj(content, file)
        path.chmod(0o755 if member.mode & 0o111 else 0o644)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def unpack(layers: Iterable[Path], root: Path) -> None:
    """Apply layers, the lowest first, to a new directory. Raises Refused and tarfile.TarError."""
    root.mkdir(parents=True)
    for layer in layers:
        with layer.open("rb") as file:
            apply(file, root)


def main(layout: str, out: str) -> int:
    blobs = Path(layout, "blobs", "sha256")

    def blob(descriptor: dict[str, str]) -> Path:
        return blobs / PurePosixPath(descriptor["digest"].removeprefix("sha256:")).name

    try:
        (described,) = json.loads(Path(layout, "index.json").read_bytes())["manifests"]
        manifest = json.loads(blob(described).read_bytes())
        unpack((blob(layer) for layer in manifest["layers"]), Path(out))
    except (ValueError, KeyError, OSError, tarfile.TarError) as error:
        print(f"{type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
