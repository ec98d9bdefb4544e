"""One at a time: what only one process of this machine may do."""

from __future__ import annotations

import fcntl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio


@asynccontextmanager
async def alone(directory: Path, say: Callable[[str], None]) -> AsyncIterator[None]:
    """Wait until nobody else holds the lock of `directory`, then hold it. The system frees it when its holder dies."""
    with (directory / ".lock").open("a") as file:
        waited = False
        while not _taken(file.fileno()):
            if not waited:
                say("another run is at work here; waiting for it to finish")
            waited = True
            await anyio.sleep(0.1)
        yield


def _taken(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
