"""The rule for compatibility of code and schema."""

from __future__ import annotations

import itertools

import pytest

from gates.compatibility import Cell, CompatibilityReport, Compatible, Version
from gates.tests import Case, Status, TestReport
from gates.verdict import Ruling
from pipeline import Blob

OLD, NEW = Version.OLD, Version.NEW
PASSED = (Status.PASSED,)


def report(**cells: tuple[Status, ...] | str | None) -> CompatibilityReport:
    """Four cells of which all tests pass, but for those named `code_on_schema`; a text is why there is no schema."""
    found = []
    for code, schema in itertools.product(Version, Version):
        said = cells.get(f"{code.value}_on_{schema.value}", PASSED)
        if said is None:
            continue
        if isinstance(said, str):
            found.append(Cell(code=code, on=schema, problem=said))
            continue
        cases = tuple(
            Case(name=f"test_{number}", file="tests/test_it.py", status=status, seconds=0) for number, status in enumerate(said)
        )
        tests = TestReport(tool="pytest 8", cases=cases, report=Blob(digest="0" * 64, size=0))
        found.append(Cell(code=code, on=schema, tests=tests))
    return CompatibilityReport(cells=tuple(found))


def test_versions_that_get_along_in_every_combination_are_compatible() -> None:
    verdict = Compatible()(report())
    assert verdict.passed
    assert verdict.said.startswith("4 combinations of 4 work")


@pytest.mark.parametrize("cell", ["old_on_old", "old_on_new", "new_on_old", "new_on_new"])
def test_one_combination_that_does_not_work_is_enough_to_say_no(cell: str) -> None:
    verdict = Compatible()(report(**{cell: (Status.PASSED, Status.FAILED)}))
    code, _, schema = cell.split("_")
    assert verdict.ruling is Ruling.FAILED
    assert verdict.said == f"does not work: {code} code on the {schema} schema"
    assert verdict.facts == (f"{code} code on the {schema} schema: tests/test_it.py::test_1",)


def test_new_code_that_never_meets_the_old_schema_need_not_work_on_it() -> None:
    broken = report(new_on_old=(Status.ERROR,))
    assert not Compatible()(broken).passed
    assert Compatible(migrated_first=True)(broken).passed


def test_a_migration_that_fails_says_no_with_its_reason() -> None:
    verdict = Compatible()(report(old_on_new="the schema could not be made: duplicate column"))
    assert verdict.facts == ("old code on the new schema: the schema could not be made: duplicate column",)


@pytest.mark.parametrize("nothing", [(), (Status.SKIPPED,), None])
def test_a_combination_in_which_no_test_ran_is_never_good(nothing: tuple[Status, ...] | None) -> None:
    assert not Compatible()(report(new_on_new=nothing)).passed
