"""Evidence of scanners and linters, and the rules for it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from gates import verdict
from gates.verdict import Verdict
from gates.words import counted
from pipeline import Blob, Result
from pipeline.numbers import need_numbers

SINGULAR = {"files": "file", "packages": "package", "layers": "layer"}
"""Subjects of which one can be named."""


class Severity(IntEnum):
    """Ordered: a limit names the lowest severity that counts."""

    NOTE = 0
    LOW = 1
    MEDIUM = 2
    HIGH = 3
    CRITICAL = 4


class Finding(Result):
    """One thing a tool found. `line` is 0 where there is none."""

    rule: str
    severity: Severity
    path: str
    line: int
    message: str
    fingerprint: str
    """Equal for the same finding on other lines of a changed file: what a baseline is compared by."""

    def sentence(self) -> str:
        place = f"{self.path}:{self.line}" if self.line else self.path
        return f"{self.severity.name.lower()} {self.rule} {place}: {self.message}"


class Findings(Result):
    """What a scan found, and in how much: `targets` counts what was looked at (files, packages, layers)."""

    tool: str
    """Name and version, as in `bandit 1.9.2`; what follows a `+` tells builds of one version apart."""
    subject: str
    targets: int
    findings: tuple[Finding, ...]
    report: Blob
    """The scan as SARIF 2.1.0."""

    def at_least(self, severity: Severity) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity >= severity)

    def summary(self) -> str:
        counts = [(s.name.lower(), sum(f.severity is s for f in self.findings)) for s in reversed(Severity)]
        said = ", ".join(f"{count} {name}" for name, count in counts if count) or "nothing found"
        return f"{said} in {self.scope()}"

    def scope(self) -> str:
        """How much was looked at, in words."""
        return counted(self.targets, SINGULAR[self.subject]) if self.subject in SINGULAR else f"{self.targets:,} {self.subject}"

    def concern(self) -> str:
        return no_findings(self).concern()


def no_findings(findings: Findings) -> Verdict:
    """Nothing at all was found, and something was scanned."""
    return MaxFindings(severity=Severity.NOTE)(findings)


@dataclass(frozen=True)
class MaxFindings:
    """At most `count` findings of `severity` or worse; nothing scanned is an error."""

    severity: Severity = Severity.MEDIUM
    count: int = 0

    def __post_init__(self) -> None:
        need_numbers(self)

    def __call__(self, findings: Findings) -> Verdict:
        return _judge("MaxFindings", findings, findings.at_least(self.severity), self.count, self.severity, "")


@dataclass(frozen=True)
class NewFindings:
    """At most `count` findings of `severity` or worse that the baseline does not have."""

    severity: Severity = Severity.MEDIUM
    count: int = 0

    def __post_init__(self) -> None:
        need_numbers(self)

    def __call__(self, findings: Findings, baseline: Findings) -> Verdict:
        known = {finding.fingerprint for finding in baseline.findings}
        new = tuple(finding for finding in findings.at_least(self.severity) if finding.fingerprint not in known)
        return _judge("NewFindings", findings, new, self.count, self.severity, "new ")


def _judge(rule: str, findings: Findings, found: tuple[Finding, ...], limit: int, severity: Severity, kind: str) -> Verdict:
    wanted = f"at most {counted(limit, f'{kind}finding')} of severity {severity.name.lower()} or worse, in at least one target"
    tool = findings.tool.partition("+")[0]  # the build is in the evidence
    if findings.targets < 1:
        return verdict.error(rule, f"{tool} scanned nothing", wanted=wanted)
    facts = tuple(finding.sentence() for finding in found)
    said = f"{tool}: {counted(len(found), f'{kind}finding')} of {severity.name.lower()} or worse in {findings.scope()}"
    if len(found) > limit:
        return verdict.failed(rule, said, *facts, wanted=wanted)
    return verdict.passed(rule, said, *facts, wanted=wanted)
