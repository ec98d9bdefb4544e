"""Directories and files for a time, and what becomes of those whose process was killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path
from typing import IO, Self

PREFIX = "lockgate-action-"
"""How the names of directories of actions begin."""
LOCK = ".lock"
"""The file in a directory that its owner holds locked; the system lets go of it when the owner dies, however it dies."""
FRESH, YOUNG = f"{LOCK}-fresh", 60.0
"""The name of that file before it is locked, and after how many seconds a directory without a locked one is nobody's."""


class Scratch:
    """A fresh directory below `directory` (none: the system's for temporary files), gone after `remove`.

    When its process is killed, `sweep` of a later one removes it.
    """

    def __init__(self, directory: Path | None = None, prefix: str = PREFIX) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=directory))
        try:
            fresh = self.path / FRESH
            self._lock = os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            fresh.rename(self.path / LOCK)  # under its name it has been locked from the first moment: nobody takes it for left
        except BaseException:
            shutil.rmtree(self.path, ignore_errors=True)
            raise

    def remove(self) -> None:
        """Take the directory away, whatever modes were left in it."""
        _remove(self.path)
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


def held_file(directory: Path, prefix: str) -> tuple[Path, IO[bytes]]:
    """A fresh file to write, which `sweep` leaves alone as long as it is open."""
    while True:
        path = directory / f"{prefix}{os.getpid()}-{os.urandom(8).hex()}"
        file = path.open("xb")
        fcntl.flock(file, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.lstat()):
                return path, file
        file.close()  # it was swept away before it was locked


def sweep(directory: Path | None = None, prefix: str = PREFIX) -> None:
    """Remove directories and files of this user that no living process holds. Safe beside others that make or sweep some."""
    with os.scandir(directory or tempfile.gettempdir()) as found:
        places = [Path(entry.path) for entry in found if entry.name.startswith(prefix)]
    for place in places:
        with contextlib.suppress(OSError):  # gone meanwhile, another's, or held by its owner
            _remove_if_left(place)


def _remove_if_left(place: Path) -> None:
    """Remove a directory or file whose owner is dead. Raises OSError where that is not so."""
    about = place.lstat()
    whole = stat.S_ISDIR(about.st_mode)
    if not (whole or stat.S_ISREG(about.st_mode)) or about.st_uid != os.getuid():
        return
    if whole and not (place / LOCK).exists():  # its maker has not come so far yet, or died before it could
        if time.time() - about.st_mtime > YOUNG and {path.name for path in place.iterdir()} <= {FRESH}:
            shutil.rmtree(place)
        return
    held = place / LOCK if whole else place
    lock = os.open(held, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock), os.lstat(held)):  # else another process was quicker
            _remove(place) if whole else place.unlink()
    finally:
        os.close(lock)


def _remove(place: Path) -> None:
    """The lock goes last: should this process be killed too, the next one goes on with what is left."""
    for path in place.iterdir():
        if path.name == LOCK:
            continue
        if path.is_dir() and not path.is_symlink():
            try:
                shutil.rmtree(path)
            except PermissionError:
                _let_in(path)
                shutil.rmtree(path)
        else:
            path.unlink()
    shutil.rmtree(place)


def _let_in(directory: Path) -> None:
    """Let this user into every directory from here down; what a link points to is somebody else's."""
    directory.chmod(0o700)
    for base, names, _ in os.walk(directory):  # from above: a directory is let in before it is looked into
        for name in names:
            path = os.path.join(base, name)
            if not os.path.islink(path):
                os.chmod(path, 0o700)
