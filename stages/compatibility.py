"""Compatibility of code and database schema across two versions: both versions' tests on both versions' schemas."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

from gates.compatibility import Cell, CompatibilityReport, Version
from gates.tests import TestReport
from pipeline import Action, ActionResult, Service, Stage, Tree, Work
from pipeline.errors import telling
from stages.pytest import NO_TESTS, read_report
from stages.scripts import compatibility as program
from stages.versions import version

SCHEMA = "SCHEMA_DATABASE"
"""The variable that names the database whose schema the tests are to take as it is, or as the template of their own."""


class Compatibility(Stage[CompatibilityReport]):
    """Runs the tests of `before` and of `now` on the schema of each, in a database of its own.

    `migrate` is the command that brings the database at DATABASE_URL to the schema of the code it runs in; the new schema is
    made by the old version's migration and then the new one's, as where it is deployed. The `tests` of each version are run with
    its own code (`paths` on PYTHONPATH) and find the name of that database in SCHEMA_DATABASE: they may use it, or copy it
    (`CREATE DATABASE mine TEMPLATE ...`), and must not migrate it. `before_environment` is for an older lock (`environment`).

    A failed test or migration is evidence, not an error.
    """

    before: Stage[Tree]
    now: Stage[Tree]
    environment: Stage[Tree]
    before_environment: Stage[Tree] | None = None
    database: Stage[Service]
    migrate: tuple[str, ...]
    tests: tuple[str, ...] = ("tests",)
    paths: tuple[str, ...] = ("src",)
    markers: str = ""
    url: str = "postgresql://postgres@{DB_HOST}:{DB_PORT}/postgres"

    async def run(self, work: Work) -> CompatibilityReport:
        sources = {Version.OLD: work[self.before], Version.NEW: work[self.now]}
        environment = work[self.environment]
        old = work[self.before_environment] if self.before_environment is not None else environment
        environments = {Version.OLD: old, Version.NEW: environment}
        cells = []
        done: dict[str, ActionResult] = {}  # where nothing changed between the versions, it is the same to do
        for code, schema in itertools.product(Version, Version):
            steps = [Version.OLD] if schema is Version.OLD else [Version.OLD, Version.NEW]
            sides = [Side(sources[one], environments[one]) for one in (*steps, code)]
            action = self._action(work, list(dict.fromkeys(sides[:-1])), sides[-1])
            result = done.get(action.digest()) or await work.execute(action)
            done[action.digest()] = result
            cells.append(_cell(code, schema, result, self._reported(work, result, sides[-1])))
        return CompatibilityReport(cells=tuple(cells))

    def _action(self, work: Work, schemas: list[Side], code: Side) -> Action:
        """Migrate with each of `schemas`, then test `code`."""
        places = {**{f"schema-{number}": side for number, side in enumerate(schemas)}, "code": code}
        paths = {name: [*(f"{{root}}/{name}/{path}" for path in self.paths), f"{{root}}/{name}-site"] for name in places}
        marked = ("-m", self.markers) if self.markers else ()
        pytest = ("python", "-m", "pytest", "-p", "no:cacheprovider", "-o", "junit_family=xunit2", "--color=no")
        report = "--junit-xml={root}/junit.xml"
        return Action(
            argv=("python", "{root}/compatibility.py", *self.migrate, "--", *pytest, report, *marked, *self.tests),
            inputs={
                "compatibility.py": work.store.put_file(Path(program.__file__)),
                **{name: side.source for name, side in places.items()},
            },
            tools={f"{name}-site": side.environment for name, side in places.items()},
            env={
                "DATABASE_URL": self.url,
                SCHEMA: self.url.rpartition("/")[2],
                "PYTHONHASHSEED": "0",
                **{f"PYTHONPATH_{name.replace('-', '_').upper()}": ":".join(found) for name, found in paths.items()},
            },
            outputs=("junit.xml",),
            services=(work[self.database],),
        )

    def _reported(self, work: Work, result: ActionResult, code: Side) -> TestReport | None:
        """What the tests say; None where they did not come to run."""
        if result.exit_code == program.MIGRATION_FAILED:
            return None
        tool = version(work.store, code.environment, "pytest")
        if result.exit_code == NO_TESTS:
            return TestReport(tool=tool, cases=(), report=work.store.put(b""))
        cases = read_report(result, frozenset(entry.path for entry in work.store.entries(code.source)))
        return TestReport(tool=tool, cases=cases, report=result.output("junit.xml").blob)


@dataclass(frozen=True)
class Side:
    """One version: its files and its packages."""

    source: Tree
    environment: Tree


def _cell(code: Version, schema: Version, result: ActionResult, tests: TestReport | None) -> Cell:
    problem = f"the schema could not be made: {telling(result.tail)}" if tests is None else ""
    return Cell(code=code, on=schema, tests=tests, problem=problem)
