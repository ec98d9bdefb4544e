"""Memory in place of the disk, for what the tests throw away."""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil

PLACE = Path("/dev/shm")


def roomy(size: int) -> Path | None:
    """A directory in memory where so many bytes of it are free; None where they are not."""
    if PLACE.is_dir() and min(shutil.disk_usage(PLACE).free, psutil.virtual_memory().available) >= size:
        return PLACE
    return None
