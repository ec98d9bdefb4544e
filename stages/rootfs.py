"""Images as file systems, and run as plain processes where there is no container runtime."""

from __future__ import annotations

import contextlib
import io
import os.path
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pipeline import ROOT, Entry, Service, Stage, StageFailed, Store, Tree, Work
from pipeline.store import unwritable
from stages.file_system import FileSystem, Refused
from stages.image import Image, layers_of

if TYPE_CHECKING:
    import tarfile

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where container runtimes look for programs when the image does not say."""

PLACE = "rootfs"
"""Where an action or service finds the file system."""


class Rootfs(Stage[Tree]):
    """The file system of an image: its layers applied in order, with their whiteouts.

    Owners, special bits, devices and empty directories are left out. Fails for a layer that would write
    outside, and for one that cannot be read. Nothing is executed and nothing unpacked on disk.
    """

    image: Stage[Image]

    async def run(self, work: Work) -> Tree:
        from anyio.to_thread import run_sync

        return await run_sync(_tree, work.store, work[self.image])


async def unpack_image(store: Store, image: Image, place: Path) -> None:
    """Lay the file system of an image out in the new directory `place`, private to the caller.

    Raises StageFailed for a layer that is unsound, StoreError for one that is damaged.
    """
    from anyio.to_thread import run_sync

    try:
        await run_sync(_unpack, store, image, place)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)  # half of it is of no use, and may fill the disk
        raise


def _tree(store: Store, image: Image) -> Tree:
    """The file system with its files in the store."""
    found = FileSystem()
    with _told(image, store.root):
        for layer in _opened(_layers(store, image)):
            found.apply(layer, partial(_stored, store, layer))
    return store.tree(found.entries())


def _stored(store: Store, layer: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    return store.put_from(_content(layer, member)).digest


def _unpack(store: Store, image: Image, place: Path) -> None:
    """Read twice: what is left when all layers lie over each other, then the bytes of that."""
    found = FileSystem()
    wanted: dict[str, list[Entry]] = {}
    with _told(image, place):
        layers = _layers(store, image)
        for number, layer in enumerate(_opened(layers)):
            found.apply(layer, partial(_number, number))
        place.mkdir(parents=True)
        for path in found.directories():
            (place / path).mkdir()
        for entry in found.entries():
            if entry.kind == "link":
                (place / entry.path).symlink_to(entry.target)
            else:
                wanted.setdefault(entry.target, []).append(entry)
        for number, layer in enumerate(_opened(layers)):
            for member in layer:
                for entry in wanted.get(_number(number, member), ()) if member.isfile() else ():
                    _write(_content(layer, member), place / entry.path, executable=entry.kind == "executable")


def _number(layer: int, member: tarfile.TarInfo) -> str:
    """What tells a file of one layer from any other."""
    return f"{layer} {member.offset_data}"


def _write(content: IO[bytes], place: Path, *, executable: bool) -> None:
    with place.open("wb") as file:
        shutil.copyfileobj(content, file, 1 << 20)
    if executable:
        place.chmod(0o755)


def _content(layer: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = layer.extractfile(member)
    if content is None:
        raise Refused(f"{member.name!r} has no content; expected a file")
    return content


class _Stoppable(io.BufferedReader):
    """A file that is read by a thread as long as whoever waits for it still does."""

    def read(self, size: int | None = -1, /) -> bytes:
        from anyio.from_thread import check_cancelled

        check_cancelled()
        return super().read(size)


def _layers(store: Store, image: Image) -> list[Path]:
    """Where the layers of an image lie, the lowest first, each seen to be whole."""
    return [store.checked(store.file(image.layout, _path(layer["digest"]))) for layer in layers_of(store, image)]


def _opened(layers: list[Path]) -> Iterator[tarfile.TarFile]:
    """Each layer as an archive, closed when the next one is asked for."""
    import tarfile

    for path in layers:
        with _Stoppable(io.FileIO(path)) as file, tarfile.open(fileobj=file, mode="r:*") as tar:
            yield tar


@contextlib.contextmanager
def _told(image: Image, place: Path) -> Iterator[None]:
    """Whatever can be wrong with a layer, said of its image; with the disk, of the place that is written to."""
    import gzip
    import lzma
    import tarfile
    import zlib

    try:
        yield
    except (ValueError, tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise StageFailed(f"{image.digest[:19]} cannot be unpacked: {error}", right="layers as tar archives") from error
    except OSError as error:
        raise unwritable(place, error) from error


def _path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def paths_in(entries: tuple[Entry, ...]) -> frozenset[str]:
    """The absolute paths of an unpacked image: its files, links and directories."""
    found = {f"/{entry.path}" for entry in entries}
    for path in list(found):
        while path := path.rpartition("/")[0]:
            if path in found:
                break
            found.add(path)
    return frozenset(found)


def process_of(
    image: Image,
    rootfs_path: str,
    env: Mapping[str, str],
    *,
    command: tuple[str, ...] = (),
    exists: Callable[[str], bool] | None = None,
    host_paths: tuple[str, ...] = (),
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Arguments and environment that run the image's entry point, or `command`, as a process on this machine.

    `rootfs_path` is where the file system lies, `env` what is added to the image's environment. Arguments and
    values (and their parts between colons) that are absolute paths existing in the image are prefixed with
    `rootfs_path`; not so the variables in `host_paths`, whose paths are the machine's, as those of PATH in `env` are.
    A program that the image's PATH does not hold is left to the machine's.

    The process has the machine's root directory: what the image's programs themselves name by absolute path (the
    interpreter in a script's first line, shared libraries) is the machine's. `exists` tells which absolute paths
    the image has; without it the directory is asked.
    """
    has = exists or partial(_on_disk, rootfs_path)
    searched = image.env.get("PATH", PATH).split(":")
    joined = {**image.env, **env}
    mapped = {
        name: value if name in host_paths or name == "PATH" else _mapped(value, rootfs_path, has)
        for name, value in joined.items()
    }
    mapped.pop("PATH", None)
    inside = [rootfs_path + part for part in searched if has(part)] if "PATH" in image.env else []
    if inside or "PATH" in env:
        mapped["PATH"] = ":".join([*inside, env.get("PATH", image.env.get("PATH", PATH))])
    program, *rest = command or image.entrypoint
    argv = (_program(program, searched, rootfs_path, has), *(_mapped(part, rootfs_path, has) for part in rest))
    return argv, dict(sorted(mapped.items()))


def find_program(image: Image, exists: Callable[[str], bool]) -> str:
    """The absolute path in the image of the program its entry point starts; empty when the image does not hold it."""
    program = image.entrypoint[0] if image.entrypoint else ""
    if program.startswith("/"):
        return program if exists(program) else ""
    candidates = (f"{directory}/{program}" for directory in image.env.get("PATH", PATH).split(":"))
    return next((path for path in candidates if program and exists(path)), "")


def _program(program: str, searched: list[str], rootfs_path: str, has: Callable[[str], bool]) -> str:
    if "/" in program:
        return _mapped(program, rootfs_path, has)
    return next((f"{rootfs_path}{directory}/{program}" for directory in searched if has(f"{directory}/{program}")), program)


def _mapped(value: str, rootfs_path: str, has: Callable[[str], bool]) -> str:
    return ":".join(rootfs_path + part if part.startswith("/") and has(part.rstrip("/")) else part for part in value.split(":"))


def _on_disk(rootfs_path: str, path: str) -> bool:
    """Whether the image has an absolute path; the root itself stays the machine's."""
    return path.strip("/") != "" and os.path.lexists(rootfs_path + path)


def image_service(
    image: Image,
    rootfs: Tree,
    paths: frozenset[str],
    *,
    name: str,
    port: int,
    env: Mapping[str, str],
    ready: str,
    host_paths: tuple[str, ...] = (),
) -> Service:
    """The image as a server beside an action. `paths` are those of the image (`paths_in`).

    HOST and PORT are the engine's to set, whatever the image says.
    """
    argv, found = process_of(image, f"{ROOT}/{PLACE}", env, exists=lambda path: path.rstrip("/") in paths, host_paths=host_paths)
    own = {key: value for key, value in found.items() if key not in {"HOST", "PORT"}}
    return Service(name=name, argv=argv, port=port, tools={PLACE: rootfs}, env=own, ready=ready)


class ImageService(Stage[Service]):
    """The entry point of an image as a service for tests: it listens on HOST and PORT and answers 200 at `ready`."""

    image: Stage[Image]
    rootfs: Stage[Tree]
    name: str = "app"
    port: int = 8000
    env: tuple[tuple[str, str], ...] = ()
    ready: str = "/"

    async def run(self, work: Work) -> Service:
        rootfs = work[self.rootfs]
        return image_service(
            work[self.image],
            rootfs,
            paths_in(work.store.entries(rootfs)),
            name=self.name,
            port=self.port,
            env=dict(self.env),
            ready=self.ready,
        )
