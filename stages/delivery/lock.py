"""One at a time: what only one process of this machine may do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from pipeline.lock import Lock


@asynccontextmanager
async def alone(directory: Path, say: Callable[[str], None]) -> AsyncIterator[None]:
    """Wait until nobody else holds the lock of `directory`, then hold it. The system frees it when its holder dies."""
    lock = Lock(directory / ".lock")
    await lock.take(lambda: say("another run is at work here; waiting for it to finish"))
    try:
        yield
    finally:
        lock.give_back()
