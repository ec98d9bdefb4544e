"""A file that survives a crash of the machine, and of which nobody ever sees half."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.store import unwritable


def write(place: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Write the file in one step; `mode` as for open(2). Raises StoreError where it cannot be, and the file is as before."""
    fresh = place.with_name(f"{place.name}.unfinished")
    try:
        fresh.unlink(missing_ok=True)
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(place)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise unwritable(place.parent, error) from error
