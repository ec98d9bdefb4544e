"""Evidence that two versions of the code and of the database schema get along, and the rule for it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from gates import verdict
from gates.tests import Status, TestReport
from gates.verdict import Verdict
from gates.words import counted
from pipeline import Result


class Version(Enum):
    """Which of two."""

    OLD = "old"
    NEW = "new"


class Cell(Result):
    """What tests of one version of the code found on one version of the schema."""

    code: Version
    on: Version
    tests: TestReport | None = None
    """None where the schema could not be made: then `problem` says why."""
    problem: str = ""

    @property
    def name(self) -> str:
        return f"{self.code.value} code on the {self.on.value} schema"

    @property
    def works(self) -> bool:
        """Whether tests ran, and none of them failed."""
        return self.tests is not None and self.tests.count(Status.PASSED) > 0 and not self.tests.bad()

    def said(self) -> str:
        """What came of it, in a line."""
        if self.tests is None:
            return f"{self.name}: {self.problem}"
        return f"{self.name}: {self.tests.summary()}"


class CompatibilityReport(Result):
    """Both versions of the code on both versions of the schema: four cells."""

    cells: tuple[Cell, ...]

    def cell(self, code: Version, schema: Version) -> Cell | None:
        return next((one for one in self.cells if (one.code, one.on) == (code, schema)), None)

    def summary(self) -> str:
        works = [cell.name for cell in self.cells if cell.works]
        return f"{counted(len(works), 'combination')} of {len(self.cells)} work" + (f": {', '.join(works)}" if works else "")


@dataclass(frozen=True)
class Compatible:
    """Traffic may move from the old release to the new one while both run on one database, and back.

    The new code has to work on the schema before and after the migration, and so has the old code, which serves beside it and
    again after a way back. With `migrated_first` new code need not work on the old schema: it never meets it, as the migration
    is complete before the first instance starts, and is not taken back while it runs.
    """

    migrated_first: bool = False

    def __call__(self, report: CompatibilityReport) -> Verdict:
        needed = [(code, schema) for code in Version for schema in Version]
        if self.migrated_first:
            needed.remove((Version.NEW, Version.OLD))
        wanted = "tests that pass: " + ", ".join(f"{code.value} code on the {schema.value} schema" for code, schema in needed)
        cells = [report.cell(code, schema) for code, schema in needed]
        if None in cells:
            return verdict.error("Compatible", "a combination was not tried", wanted=wanted)
        found = [cell for cell in cells if cell is not None]
        facts = tuple(fact for cell in found if not cell.works for fact in _facts(cell))
        if any(cell.tests is not None and not cell.tests.cases for cell in found):
            return verdict.error("Compatible", "a combination has no tests", *facts, wanted=wanted)
        if facts:
            broken = ", ".join(cell.name for cell in found if not cell.works)
            return verdict.failed("Compatible", f"does not work: {broken}", *facts, wanted=wanted)
        return verdict.passed("Compatible", report.summary(), wanted=wanted)


def _facts(cell: Cell) -> list[str]:
    bad = [f"{cell.name}: {case.file}::{case.name}" for case in cell.tests.bad()] if cell.tests is not None else []
    return bad or [cell.said()]
