"""Evidence of tests, and the rules for it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from gates import verdict
from gates.verdict import Verdict
from gates.words import counted
from pipeline import Blob, Result


class Status(Enum):
    """How one test ended."""

    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    """The test could not do its work: its fixture or its import failed."""
    SKIPPED = "skipped"
    FLAKY = "flaky"
    """Failed, and passed when it was run again on the same inputs. Shown, and no pass unless a rule says so."""


class Case(Result):
    """One test. `seconds` of its last execution; `message` says why it did not pass."""

    name: str
    file: str
    status: Status
    seconds: float
    message: str = ""


class TestReport(Result):
    """What a test tool found; `report` is its own report (JUnit XML), `coverage` the data it measured, if it did."""

    __test__ = False  # not a test class, whatever its name looks like to pytest

    tool: str
    cases: tuple[Case, ...]
    report: Blob
    coverage: Blob | None = None

    def count(self, *statuses: Status) -> int:
        return sum(case.status in statuses for case in self.cases)

    def bad(self) -> tuple[Case, ...]:
        return tuple(case for case in self.cases if case.status in (Status.FAILED, Status.ERROR))

    def summary(self) -> str:
        parts = [f"{self.count(status)} {status.value}" for status in Status if self.count(status)]
        return f"{counted(len(self.cases), 'test')}: {', '.join(parts)}" if parts else "no tests"

    def concern(self) -> str:
        return all_passed(self).concern()

    def reusable(self) -> bool:
        """Only success is reused: a failure may have been the machine's, so it is looked at again."""
        return bool(self.cases) and all(case.status in (Status.PASSED, Status.SKIPPED) for case in self.cases)


def all_passed(report: TestReport) -> Verdict:
    """Every test that ran passed at its first try, and at least one ran."""
    return AllPassed()(report)


@dataclass(frozen=True)
class AllPassed:
    """No failed test, at least `at_least` that ran, at most `flaky` that needed another try."""

    at_least: int = 1
    flaky: int = 0

    def __call__(self, report: TestReport) -> Verdict:
        ran = report.count(Status.PASSED, Status.FAILED, Status.ERROR, Status.FLAKY)
        wanted = f"at least {counted(self.at_least, 'test')}, none failed, at most {self.flaky} flaky"
        bad, flaky = report.bad(), report.count(Status.FLAKY)
        if ran < max(self.at_least, 1):
            return verdict.error("AllPassed", f"{counted(ran, 'test')} ran", wanted=wanted)
        if bad:
            facts = tuple(f"{case.file}::{case.name}: {first_line(case.message)}" for case in bad)
            return verdict.failed("AllPassed", f"{len(bad)} of {counted(ran, 'test')} failed", *facts, wanted=wanted)
        if flaky > self.flaky:
            names = tuple(f"{case.file}::{case.name}" for case in report.cases if case.status is Status.FLAKY)
            said = f"{flaky} of {counted(ran, 'test')} {'is' if flaky == 1 else 'are'} flaky"
            return verdict.failed("AllPassed", said, *names, wanted=wanted)
        return verdict.passed("AllPassed", f"{counted(ran, 'test')} passed", wanted=wanted)


def first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:200] if lines else "no message"
