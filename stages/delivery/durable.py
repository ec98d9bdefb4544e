"""A file that survives a crash of the machine, and of which nobody ever sees half."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pipeline import StageFailed
from pipeline.store import unwritable

T = TypeVar("T")

AGAIN = "take down what runs (python -m stages.delivery.down), rm {place}, and run again"


def read(place: Path, meaning: Callable[[bytes], T], what: str, *, next: str = AGAIN) -> T:  # noqa: A002 - as of errors
    """What the file means. Raises StageFailed for one that was damaged, FileNotFoundError where there is none."""
    try:
        return meaning(place.read_bytes())
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, IsADirectoryError) as error:
        raise StageFailed(
            f"{what} cannot be read: {error}",
            where=str(place),
            right="what this library wrote there",
            next=next.replace("{place}", str(place)),
        ) from error


def write(place: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Write the file in one step; `mode` as for open(2). Raises StoreError where it cannot be, and the file is as before."""
    _write(place, content, mode, None)


def show(place: Path, content: bytes, *, mode: int = 0o666) -> None:
    """As `write`, for somebody who waits for it; before `sync` a crash of the machine may lose it, on some file systems all."""
    _write(place, content, mode, None, synced=False)


def sync(place: Path) -> None:
    """Have what was shown survive a crash. Raises StoreError where it cannot be."""
    try:
        with place.open("rb") as file:
            os.fsync(file.fileno())
    except OSError as error:
        raise unwritable(place.parent, error) from error


def rewrite(place: Path, content: bytes) -> None:
    """Write a file that is there in one step; mode, owner and group stay. Raises as `write` does, and FileNotFoundError."""
    _write(place, content, 0o600, place.stat())


def _write(place: Path, content: bytes, mode: int, like: os.stat_result | None, *, synced: bool = True) -> None:
    fresh = place.with_name(f"{place.name}.unfinished")
    try:
        fresh.unlink(missing_ok=True)
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            if like is not None:
                os.fchown(file.fileno(), like.st_uid, like.st_gid)
                os.fchmod(file.fileno(), stat.S_IMODE(like.st_mode))
            file.write(content)
            file.flush()
            if synced:
                os.fsync(file.fileno())
        fresh.replace(place)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise unwritable(place.parent, error) from error
