"""Evidence that an artifact is what its kind has to be, and the rule for it."""

from __future__ import annotations

from gates import verdict
from gates.verdict import Verdict
from gates.words import counted
from pipeline import Result


class ValidationCheck(Result):
    """One property that was looked at, and one sentence on what was found."""

    name: str
    passed: bool
    said: str

    def sentence(self) -> str:
        return f"{self.name}: {self.said}"


class ValidationReport(Result):
    """What was checked of an artifact. `subject` names it as people know it."""

    subject: str
    checks: tuple[ValidationCheck, ...]

    def bad(self) -> tuple[ValidationCheck, ...]:
        return tuple(check for check in self.checks if not check.passed)

    def summary(self) -> str:
        return f"{self.subject}: {len(self.checks) - len(self.bad())} of {counted(len(self.checks), 'check')} passed"

    def concern(self) -> str:
        return valid(self).concern()

    def reusable(self) -> bool:
        return valid(self).passed


def valid(report: ValidationReport) -> Verdict:
    """Every check passed, and there was at least one."""
    wanted = "every check passes"
    if not report.checks:
        return verdict.error("valid", f"nothing of {report.subject} was checked", wanted=wanted)
    facts = tuple(check.sentence() for check in report.bad())
    if facts:
        return verdict.failed("valid", report.summary(), *facts, wanted=wanted)
    return verdict.passed("valid", report.summary(), wanted=wanted)
