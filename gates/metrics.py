"""Evidence of code metrics (complexity, duplication), and the rules for it."""

from __future__ import annotations

from dataclasses import dataclass

from gates import verdict
from gates.verdict import Verdict
from gates.words import counted
from pipeline import Result
from pipeline.numbers import need_numbers


class FunctionMetric(Result):
    """The cyclomatic complexity (McCabe 1976) of one function."""

    path: str
    line: int
    name: str
    complexity: int


class Duplicate(Result):
    """`lines` equal lines that stand in two places, each `file:line`."""

    lines: int
    first: str
    second: str


class CodeMetrics(Result):
    """Figures of a code base; `lines` are lines with code on them."""

    tool: str
    files: int
    lines: int
    functions: tuple[FunctionMetric, ...]
    duplicates: tuple[Duplicate, ...]

    @property
    def duplicated(self) -> float:
        """Lines that repeat others, of all lines, 0 to 1."""
        return min(1.0, sum(duplicate.lines for duplicate in self.duplicates) / self.lines) if self.lines else 0.0

    def summary(self) -> str:
        worst = max((function.complexity for function in self.functions), default=0)
        return f"{counted(self.lines, 'line')}, complexity at most {worst}, {self.duplicated:.1%} duplicated"


@dataclass(frozen=True)
class MaxComplexity:
    """No function above `each`, duplication at most `duplicated` (0 to 1)."""

    each: int = 10
    duplicated: float = 0.05

    def __post_init__(self) -> None:
        need_numbers(self)

    def __call__(self, metrics: CodeMetrics) -> Verdict:
        wanted = f"complexity at most {self.each}, at most {self.duplicated:.1%} duplicated"
        if metrics.files == 0:
            return verdict.error("MaxComplexity", "no file was measured", wanted=wanted)
        facts = [f"{f.path}:{f.line} {f.name}: complexity {f.complexity}" for f in metrics.functions if f.complexity > self.each]
        if metrics.duplicated > self.duplicated:
            facts += [f"{counted(d.lines, 'line')}: {d.first} ~ {d.second}" for d in metrics.duplicates]
        if facts:
            return verdict.failed("MaxComplexity", metrics.summary(), *facts, wanted=wanted)
        return verdict.passed("MaxComplexity", metrics.summary(), wanted=wanted)
