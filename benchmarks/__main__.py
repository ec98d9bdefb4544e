"""`./dev bench [NAME...]`: measure, print, and write to benchmarks/RESULTS.md; what was not measured now stays as it is there.

Exit code 1 when a figure does not hold.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from benchmarks import (
    cancel,
    containers,
    delivery,
    disk,
    example,
    faults,
    flips,
    hashing,
    journal,
    judge,
    kills,
    logs,
    makespan,
    noop,
    peer,
    scale,
    scheduling,
    startup,
    suite,
)
from benchmarks.figure import ROOT, Figure

BENCHES: dict[str, Callable[[], Iterator[Figure]]] = {
    "startup": startup.measure,
    "scheduling": scheduling.measure,
    "noop": noop.measure,
    "makespan": makespan.measure,
    "hashing": hashing.measure,
    "journal": journal.measure,
    "faults": faults.measure,
    "disk": disk.measure,
    "flips": flips.measure,
    "cancel": cancel.measure,
    "delivery": delivery.measure,
    "kills": kills.measure,
    "judge": judge.measure,
    "logs": logs.measure,
    "example": example.measure,
    "containers": containers.measure,
    "scale": scale.measure,
    "suite": suite.measure,
}
RESULTS = Path(__file__).parent / "RESULTS.md"


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        print(f"error: there is no bench {unknown[0]!r}; one of: {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    holds = True
    for name in names or BENCHES:
        figures = []
        for figure in BENCHES[name]():
            figures.append(figure)
            print(figure.row(), flush=True)
        holds &= all(figure.holds for figure in figures)
        before = RESULTS.read_text() if RESULTS.exists() else ""
        RESULTS.write_text(page(sections(before) | {name: section(figures, stamp())}))
    return 0 if holds else 1


def page(found: dict[str, str]) -> str:
    """RESULTS.md, a section for each bench."""
    said = "Written by `./dev bench [NAME...]`. Ratios were measured pair by pair in one run; the median is given."
    return "\n".join(["# Results", "", said, *(f"\n## {name}\n\n{found[name]}" for name in BENCHES if name in found), ""])


def sections(text: str) -> dict[str, str]:
    """What a page says of each bench."""
    _, *parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    return {name: body.strip() for name, body in zip(parts[::2], parts[1::2], strict=True)}


def section(figures: list[Figure], where: str) -> str:
    """What was measured, and where and when."""
    rows = [figure.row() for figure in figures]
    return "\n".join([where, "", "| what | measured | held to | holds | |", "| --- | ---: | ---: | --- | --- |", *rows])


def stamp() -> str:
    """When, of which commit, on which machine, with which versions."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("pydantic", "anyio", "dagger-io", "uv"))
    moment = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    changed = " with changes" if git("status", "--porcelain", "--", ".", f":!{RESULTS.relative_to(ROOT)}") else ""
    commit = f"{git('rev-parse', '--short', 'HEAD')}{changed}"
    machine = f"{os.cpu_count()} processors, {platform.system()} {platform.release()}, {platform.machine()}"
    return f"{moment}, commit {commit}, {machine}; Python {platform.python_version()}, {versions}; peers: {peer.versions()}"


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
