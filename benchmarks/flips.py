"""Single bytes of objects in the store that are flipped on the disk: how many of the flips are found."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figure import Figure
from pipeline.store import Store


def measure(*, objects: int = 200) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="lockgate-bench-") as place:
        flipped, found = flips(Store(Path(place, "store")), objects)
    detail = f"{found:,} of {flipped:,} are found"
    yield Figure(f"each byte of {objects} objects flipped once: flips that are not found", flipped - found, "", 0, detail=detail)


def flips(store: Store, objects: int) -> tuple[int, int]:
    """How many bytes were flipped, one at a time, and how many of the flips were found; what is as it was is whole."""
    flipped = found = 0
    for number in range(objects):
        data = os.urandom(20 + number % 45)
        blob = store.put(data)
        path = store.path(blob)
        path.chmod(0o644)
        for place in range(len(data)):
            path.write_bytes(bytes([*data[:place], data[place] ^ 1 << place % 8, *data[place + 1 :]]))
            flipped += 1
            found += not store.is_whole(blob.digest)
        path.write_bytes(data)
        if not store.is_whole(blob.digest):
            raise AssertionError("an object that is whole is taken for damaged")
    return flipped, found
