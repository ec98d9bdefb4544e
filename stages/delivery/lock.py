"""One at a time: what only one process of this machine may do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from pipeline.lock import Lock


@asynccontextmanager
async def held(file: Path, waits: Callable[[], None] = lambda: None) -> AsyncIterator[None]:
    """Hold the lock of a file; `waits` is called once where somebody else has it. The system frees it when its holder dies."""
    lock = Lock(file)
    await lock.take(waits)
    try:
        yield
    finally:
        lock.give_back()


@asynccontextmanager
async def alone(directory: Path, say: Callable[[str], None]) -> AsyncIterator[None]:
    """Wait until nobody else holds the lock of `directory`, then hold it. The system frees it when its holder dies."""
    async with held(directory / ".lock", lambda: say("another run is at work here; waiting for it to finish")):
        yield
