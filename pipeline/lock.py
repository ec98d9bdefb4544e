"""A lock between processes: on a file, so that the system frees it when its holder dies."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path
from typing import IO

import anyio

from pipeline.store import unwritable


async def until_taken(try_take: Callable[[], bool], waiting: Callable[[], None], *, pause: float) -> None:
    """Try, with so many seconds in between, until it is taken; `waiting` is called once when it is not at once."""
    told = False
    while not try_take():
        if not told:
            waiting()
        told = True
        await anyio.sleep(pause)


class Lock:
    """Held by at most one process of this machine at a time, or by all that hold it `shared`.

    Not for two tasks of one process.
    """

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        self._path = path
        self._how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        self._file: IO[str] | None = None

    @property
    def held(self) -> bool:
        return self._file is not None

    def try_take(self) -> bool:
        """Whether the lock is held after this. Raises StoreError when its file cannot be written."""
        try:
            self._take(fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def wait(self) -> None:
        """Return once the lock is held. Raises StoreError when its file cannot be written."""
        self._take(0)

    def _take(self, how: int) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = self._path.open("a")
        except OSError as error:
            raise unwritable(self._path, error) from error
        try:
            fcntl.flock(file, self._how | how)
        except BaseException:
            file.close()
            raise
        self._file = file

    async def take(self, waiting: Callable[[], None]) -> None:
        """Return once the lock is held; `waiting` is called once when somebody else holds it."""
        await until_taken(self.try_take, waiting, pause=0.1)

    def give_back(self) -> None:
        """Let somebody else take it; nothing when it is not held."""
        if self._file is not None:
            self._file.close()
            self._file = None
