"""Evidence of coverage, and the rules for it."""

from __future__ import annotations

from dataclasses import dataclass

from gates import verdict
from gates.verdict import Verdict
from pipeline import Result
from pipeline.numbers import need_numbers


class FileCoverage(Result):
    """Lines and branches of one file: how many could be covered and were. `missing` are line numbers."""

    path: str
    lines: int
    covered_lines: int
    branches: int
    covered_branches: int
    missing: tuple[int, ...] = ()

    @property
    def percent(self) -> float:
        return percent(self.covered_lines + self.covered_branches, self.lines + self.branches)


class ChangedLines(Result):
    """Of the lines changed since `base` that can be covered: how many were; `missing` as `file:line`."""

    base: str
    lines: int
    covered: int
    missing: tuple[str, ...] = ()


class CoverageReport(Result):
    """Line and branch coverage, in all, by file and of the lines changed since a base (None: not known)."""

    tool: str
    files: tuple[FileCoverage, ...]
    changed: ChangedLines | None = None

    @property
    def lines(self) -> int:
        return sum(file.lines for file in self.files)

    @property
    def percent(self) -> float:
        """Covered lines and branches of all lines and branches, 0 to 100."""
        covered = sum(file.covered_lines + file.covered_branches for file in self.files)
        return percent(covered, sum(file.lines + file.branches for file in self.files))

    def summary(self) -> str:
        changed = self.changed
        more = f", {percent(changed.covered, changed.lines):.1f} % of changed lines" if changed and changed.lines else ""
        return f"{self.percent:.1f} % of lines and branches{more}"


def percent(part: int, whole: int) -> float:
    return 100.0 * part / whole if whole else 100.0


@dataclass(frozen=True)
class MinCoverage:
    """At least so many percent in all, in each file, and of the changed lines; None: not asked for."""

    total: float | None = None
    each_file: float | None = None
    changed: float | None = None

    def __post_init__(self) -> None:
        need_numbers(self)

    def __call__(self, report: CoverageReport) -> Verdict:
        wanted = ", ".join(
            f"{what} >= {limit:g} %"
            for what, limit in (("total", self.total), ("each file", self.each_file), ("changed lines", self.changed))
            if limit is not None
        )
        if not wanted:
            return verdict.error("MinCoverage", "no limit is set", wanted="total=, each_file= or changed=")
        if report.lines == 0:
            return verdict.error("MinCoverage", "no line was measured", wanted=wanted)
        if self.changed is not None and report.changed is None:
            return verdict.error("MinCoverage", "which lines changed is not known: no base git can compare with", wanted=wanted)
        facts = self._against(report)
        said = report.summary()
        return (
            verdict.failed("MinCoverage", said, *facts, wanted=wanted)
            if facts
            else verdict.passed("MinCoverage", said, wanted=wanted)
        )

    def _against(self, report: CoverageReport) -> tuple[str, ...]:
        facts: list[str] = []
        if self.total is not None and report.percent < self.total:
            facts.append(f"total: {report.percent:.2f} %")
        if self.each_file is not None:
            facts += [f"{f.path}: {f.percent:.2f} %" for f in report.files if f.percent < self.each_file]
        if self.changed is not None and report.changed is not None:
            reached = percent(report.changed.covered, report.changed.lines)
            if reached < self.changed:
                facts += [f"changed lines: {reached:.2f} %", *(f"not covered: {place}" for place in report.changed.missing)]
        return tuple(facts)


@dataclass(frozen=True)
class NoDrop:
    """Not more than `points` percent points below the baseline."""

    points: float = 0.0

    def __post_init__(self) -> None:
        need_numbers(self, but=("points",))  # below zero: it has to grow

    def __call__(self, report: CoverageReport, baseline: CoverageReport) -> Verdict:
        wanted = f"at least {baseline.percent - self.points:.2f} %"
        if report.lines == 0 or baseline.lines == 0:
            which = "the report" if report.lines == 0 else "the baseline"
            return verdict.error("NoDrop", f"{which} measured no line", wanted=wanted)
        said = f"{report.percent:.2f} %, the baseline has {baseline.percent:.2f} %"
        if report.percent < baseline.percent - self.points - 1e-9:
            before = {file.path: file.percent for file in baseline.files}
            lower = tuple(
                f"{f.path}: {before[f.path]:.2f} % -> {f.percent:.2f} %"
                for f in report.files
                if f.percent < before.get(f.path, 0.0)
            )
            return verdict.failed("NoDrop", said, *lower, wanted=wanted)
        return verdict.passed("NoDrop", said, wanted=wanted)
