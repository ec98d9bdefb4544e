"""`./dev bench [NAME...]`: measure, print, and write benchmarks/RESULTS.md. Exit code 1 when a figure does not hold."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from benchmarks import (
    cancel,
    containers,
    disk,
    example,
    faults,
    hashing,
    journal,
    logs,
    makespan,
    noop,
    peer,
    scale,
    scheduling,
    startup,
    suite,
)
from benchmarks.figure import Figure

BENCHES: dict[str, Callable[[], Iterator[Figure]]] = {
    "startup": startup.measure,
    "scheduling": scheduling.measure,
    "noop": noop.measure,
    "makespan": makespan.measure,
    "hashing": hashing.measure,
    "journal": journal.measure,
    "faults": faults.measure,
    "disk": disk.measure,
    "cancel": cancel.measure,
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
    results: dict[str, list[Figure]] = {}
    for name in names or BENCHES:
        results[name] = []
        for figure in BENCHES[name]():
            results[name].append(figure)
            print(figure.row(), flush=True)
    if not names:
        RESULTS.write_text(page(results))
        print(f"wrote {RESULTS}")
    return 0 if all(figure.holds for figures in results.values() for figure in figures) else 1


def page(results: dict[str, list[Figure]]) -> str:
    """RESULTS.md: the machine, the versions, and a table for each bench."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("pydantic", "anyio", "dagger-io", "uv"))
    lines = [
        "# Results",
        "",
        "Written by `./dev bench`. Ratios were measured pair by pair in one run; the median is given.",
        "",
        f"- date: {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}",
        f"- machine: {os.cpu_count()} processors, {platform.system()} {platform.release()}, {platform.machine()}",
        f"- Python {platform.python_version()}, {versions}",
        f"- peers: {peer.versions()}",
    ]
    for name, figures in results.items():
        lines += ["", f"## {name}", "", "| what | measured | held to | holds | |", "| --- | ---: | ---: | --- | --- |"]
        lines += [figure.row() for figure in figures]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
