"""How long a command takes that runs nothing."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figure import ROOT, Figure, paired, python, seconds

FLOOR = python("-c", "import pydantic\nclass Model(pydantic.BaseModel):\n    a: int")
HEAVY = ("dagger", "rich", "httpx")


def measure() -> Iterator[Figure]:
    """This repository's own pipeline has thirty stages."""
    pairs = 15
    ratio, ours, bare = paired(
        lambda: seconds(python("-m", "pipeline", "--help")), lambda: seconds(python("-c", "pass")), pairs=pairs
    )
    yield Figure("`--help` against a bare interpreter", ratio, "x", 6.0, detail=f"{1000 * ours:.0f} ms, {1000 * bare:.0f} ms")
    for words in (("list",), ("plan", "--engine", "host")):
        command = python("-m", "pipeline", *words)
        ratio, ours, floor = paired(lambda command=command: seconds(command), lambda: seconds(FLOOR), pairs=pairs)  # type: ignore[misc]
        name = f"`{words[0]}` of {stages()} stages against importing pydantic with one model"
        yield Figure(name, ratio, "x", 1.5, detail=f"{1000 * ours:.0f} ms, {1000 * floor:.0f} ms")
    found = imported()
    yield Figure("heavy modules imported to plan", len(found), "", 0, detail=", ".join(found) or f"none of {', '.join(HEAVY)}")
    yield from snapshot()


def stages() -> int:
    done = subprocess.run(python("-m", "pipeline", "list"), cwd=ROOT, capture_output=True, text=True, check=True)
    return len(done.stdout.splitlines())


def imported() -> list[str]:
    """Which of the heavy modules a plan imports."""
    command = python("-X", "importtime", "-m", "pipeline", "plan", "--engine", "host")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    names = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines() if "|" in line}
    return sorted(names & set(HEAVY))


def snapshot() -> Iterator[Figure]:
    """10,000 unchanged source files."""
    import time

    from pipeline.repository import listed
    from pipeline.snapshot import YOUNG, take
    from pipeline.store import Store

    with tempfile.TemporaryDirectory() as place:
        root = Path(place, "root")
        for number in range(10_000):
            path = root / f"d{number // 100}" / f"f{number}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"x = {number}\n")
        subprocess.run(["git", "init", "-q", root], check=True)
        store, index = Store(Path(place, "store")), Path(place, "index.json")
        time.sleep(1.5 * YOUNG / 1e9)  # files younger than this are read again, by design
        take(root, sorted(listed(root)), store, index)
        took = []
        for _ in range(5):
            started = time.perf_counter()
            take(root, sorted(listed(root)), store, index)
            took.append(time.perf_counter() - started)
    yield Figure("10,000 unchanged files decided", sorted(took)[2], "s", 0.15)
