"""A figure: what was measured, what it is held to, and whether it holds."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Figure:
    """`limit` is what the value may be at most (or, with `least`, has to be at least); None: only reported."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    least: bool = False
    detail: str = ""

    @property
    def holds(self) -> bool:
        if self.limit is None:
            return True
        return self.value >= self.limit if self.least else self.value <= self.limit

    def row(self) -> str:
        bound = "" if self.limit is None else f"{'at least' if self.least else 'at most'} {self.limit:g}"
        verdict = "" if self.limit is None else ("yes" if self.holds else "**no**")
        value = f"{self.value:,.0f}" if self.value >= 1000 else f"{self.value:.3g}"
        return f"| {self.name} | {value} {self.unit} | {bound} | {verdict} | {self.detail} |"


def seconds(command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> float:
    """Wall time of a process. Raises CalledProcessError with its output when it fails."""
    started = time.perf_counter()
    subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True)
    return time.perf_counter() - started


def paired(first: Callable[[], float], second: Callable[[], float], *, pairs: int) -> tuple[float, float, float]:
    """Both in turn, after one of each to warm up: the median of first/second pair by pair, and the median of each."""
    first(), second()
    measured = [(first(), second()) for _ in range(pairs)]
    ratio = statistics.median(one / other for one, other in measured)
    return ratio, statistics.median(one for one, _ in measured), statistics.median(other for _, other in measured)


def python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]
