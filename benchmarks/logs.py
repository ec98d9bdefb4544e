"""The memory of a run whose action prints much, and of a search in what it printed: it must not grow with the log."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figure import ROOT, Figure, python

DELIVERY = '''
from pipeline import Action, Pipeline, Result, Stage, Work

PRINTS = """
import sys
size, ends = int(sys.argv[1]), sys.argv[2]
piece = ("x" * 99 + ends).encode() * 10_000
for _ in range(size):
    sys.stdout.buffer.write(piece)
sys.stdout.buffer.write(b"the end")
"""


class Code(Result):
    value: int


class Prints(Stage[Code]):
    megabytes: int
    ends: str

    async def run(self, work: Work) -> Code:
        action = Action(argv=("python", "-c", PRINTS, str(self.megabytes), self.ends))
        return Code(value=(await work.execute(action)).exit_code)


pipeline = Pipeline("logs", prints=Prints(megabytes=MEGABYTES, ends=ENDS))
'''

ALLOWED = 16
"""MiB by which the memory of a long log may be over that of a short one."""

LINES, ONE_LINE = "\n", "x"
"""What ends each hundred bytes that are printed."""


@dataclass(frozen=True)
class Seen:
    """MiB of memory at most, bytes of the log, and what a search for its last word found."""

    run: float
    search: float
    size: int
    found: str


def measure(*, short: int = 2, long: int = 200, line: int = 50) -> Iterator[Figure]:
    small = printed(short, LINES)
    for what, size, ends in ((f"{long} MB of lines", long, LINES), (f"one line of {line} MB", line, ONE_LINE)):
        large = printed(size, ends)
        lost = size * 1_000_000 + len("the end") - large.size
        kept = f"{lost} bytes lost" if lost else "the log holds every byte"
        more = large.run - small.run
        detail = f"{large.run:.0f} MiB; {small.run:.0f} MiB for {short} MB; {large.run / small.run:.2f} times; {kept}"
        yield Figure(f"a run that prints {what}: memory over one that prints {short} MB", more, "MiB", ALLOWED, detail=detail)
        more = large.search - small.search
        detail = f"{large.search:.0f} MiB; {small.search:.0f} MiB for {short} MB; it found {large.found.count('the end')}"
        yield Figure(f"a search in {what}: memory over one in {short} MB", more, "MiB", ALLOWED, detail=detail)


def printed(megabytes: int, ends: str) -> Seen:
    """Run an action that prints so much, and search for the end of it."""
    with tempfile.TemporaryDirectory(prefix="lockgate-bench-") as place:
        root = Path(place)
        (root / "delivery.py").write_text(DELIVERY.replace("=MEGABYTES", f"={megabytes}").replace("=ENDS", f"={ends!r}"))
        (root / "pyproject.toml").write_text('[tool.pipeline]\nengine = "host"\n')
        run, _ = peak(root, "run")
        search, found = peak(root, "logs", "--search", "the end$")
        (log,) = (root / ".pipeline").rglob("1-1.log")
        return Seen(run, search, log.stat().st_size, found)


def peak(root: Path, *words: str) -> tuple[float, str]:
    """The most memory that a command took, and what it printed."""
    with (root / "said").open("wb") as said:
        subprocess.run(
            python("-m", "benchmarks.peak", str(root / "peak"), *words),
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=said,
            check=True,
        )
    with (root / "said").open("rb") as said:
        said.seek(max(0, (root / "said").stat().st_size - 1000))
        return int((root / "peak").read_text()) / 1024, said.read().decode()
