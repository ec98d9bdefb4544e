"""Evidence of an artifact's size, and the rules for it."""

from __future__ import annotations

from dataclasses import dataclass

from gates import verdict
from gates.verdict import Verdict
from gates.words import counted
from pipeline import Result
from pipeline.numbers import need_numbers


class SizeReport(Result):
    """Bytes of an artifact, in all and by part (layer, file)."""

    subject: str
    total: int
    parts: dict[str, int]

    def summary(self) -> str:
        return f"{self.subject}: {counted(self.total, 'byte')}"


@dataclass(frozen=True)
class MaxSize:
    """At most `total` bytes in all."""

    total: int

    def __post_init__(self) -> None:
        need_numbers(self)

    def __call__(self, report: SizeReport) -> Verdict:
        wanted = f"at most {counted(self.total, 'byte')}"
        if report.total <= 0:
            return verdict.error("MaxSize", f"{report.subject} is empty", wanted=wanted)
        largest = sorted(report.parts.items(), key=lambda part: -part[1])[:5]
        facts = tuple(f"{name}: {counted(size, 'byte')}" for name, size in largest)
        if report.total > self.total:
            return verdict.failed("MaxSize", report.summary(), *facts, wanted=wanted)
        return verdict.passed("MaxSize", report.summary(), wanted=wanted)


@dataclass(frozen=True)
class MaxGrowth:
    """At most `ratio` times the baseline's bytes."""

    ratio: float = 1.1

    def __post_init__(self) -> None:
        need_numbers(self)

    def __call__(self, report: SizeReport, baseline: SizeReport) -> Verdict:
        wanted = f"at most {self.ratio:g}x the baseline's {counted(baseline.total, 'byte')}"
        if report.total <= 0 or baseline.total <= 0:
            return verdict.error("MaxGrowth", f"{report.subject} or its baseline is empty", wanted=wanted)
        grown = [(name, size - baseline.parts.get(name, 0)) for name, size in report.parts.items()]
        most = sorted(grown, key=lambda part: -part[1])[:5]
        facts = tuple(f"{name}: +{counted(more, 'byte')}" for name, more in most if more > 0)
        if report.total > baseline.total * self.ratio:
            return verdict.failed("MaxGrowth", report.summary(), *facts, wanted=wanted)
        return verdict.passed("MaxGrowth", report.summary(), wanted=wanted)
