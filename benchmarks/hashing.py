"""1 GB of changed files in a git repository taken into a store, against `sha256sum` over the same files.

Both find the files in the page cache, and `sha256sum` gets as many processes as taking them keeps processors busy. To take
files is more than to hash them: git lists them, and each is copied into the store as it is hashed. What hashing alone takes,
by the function that the machine uses, is told beside it. It may be several times quicker than `sha256sum`, which in many
distributions does not use the processor's own instructions for SHA-256; then the copy is nearly all that taking them costs.
"""

from __future__ import annotations

import math
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figure import Figure, paired
from pipeline import digest
from pipeline.repository import listed
from pipeline.snapshot import take
from pipeline.store import Store

GB = 1_000_000_000


def measure(*, files: int = 4_000, size: int = GB, pairs: int = 3) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="lockgate-bench-") as place:
        root = Path(place, "root")
        write(root, files, size)
        names = sorted(listed(root))
        processes = max(1, math.ceil(busy(root, Path(place)) - 0.1))

        def reference() -> float:
            return sha256sum(root, names, processes)

        ratio, theirs, own = paired(reference, lambda: taken(root, Path(place)), pairs=pairs)
        detail = f"{size / own / 1e6:.0f} MB/s, {size / theirs / 1e6:.0f} MB/s by {of(processes)} of sha256sum; {files:,} files"
        yield Figure("changed files hashed and stored, of the throughput of sha256sum", 100 * ratio, "%", 70, True, detail)
        alone = statistics.median(hashed(root, names) for _ in range(pairs))
        yield Figure("the same files hashed one after the other, nothing stored", size / alone / 1e6, "MB/s")


def sizes(files: int, size: int) -> list[int]:
    """So many sizes of files that add up to `size`: most are small, and the few large ones are most of it."""
    rng = random.Random(1)
    drawn = [rng.lognormvariate(0, 1.5) for _ in range(files)]
    found = [int(size * one / sum(drawn)) for one in drawn]
    found[0] += size - sum(found)
    return found


def write(root: Path, files: int, size: int) -> None:
    """Files of random bytes in a repository that tracks none of them yet."""
    rng = random.Random(2)
    for number, length in enumerate(sizes(files, size)):
        path = root / f"d{number // 100}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(length))
    subprocess.run(["git", "init", "-q", root], check=True)
    os.sync()  # what is still to be written would be written while others are measured


def taken(root: Path, place: Path) -> float:
    """Seconds to take the files into an empty store that knows none of them."""
    started = time.perf_counter()
    tree = take(root, sorted(listed(root)), Store(place / "store"), place / "index.json")
    ended = time.perf_counter()
    shutil.rmtree(place / "store")
    (place / "index.json").unlink(missing_ok=True)
    if not tree.files:
        raise RuntimeError("no file was taken")
    return ended - started


def busy(root: Path, place: Path) -> float:
    """How many processors are busy while the files are taken."""
    before = time.process_time()
    wall = taken(root, place)
    return (time.process_time() - before) / wall


def hashed(root: Path, names: list[str]) -> float:
    started = time.perf_counter()
    for name in names:
        digest.of_file(root / name)
    return time.perf_counter() - started


def sha256sum(root: Path, names: list[str], processes: int) -> float:
    """As `xargs` has it done by so many processes at a time."""
    each = math.ceil(len(names) / processes / 8) if processes > 1 else len(names)
    started = time.perf_counter()
    command = ["xargs", "-0", "-P", str(processes), "-n", str(each), "sha256sum"]
    subprocess.run(command, cwd=root, input="\0".join(names), text=True, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def of(processes: int) -> str:
    return f"{processes} {'process' if processes == 1 else 'processes'}"
