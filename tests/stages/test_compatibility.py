"""Both versions' tests on both versions' schemas, on a real PostgreSQL, with Alembic and with a program of the project's own."""

from __future__ import annotations

import subprocess

import pytest

from gates.compatibility import CompatibilityReport, Compatible
from pipeline import Project
from stages.compatibility import Compatibility
from stages.postgres import PostgresService
from stages.source import Commit, WorkingCopy
from tests.conftest import RunStage
from tests.stages.installed import installed

ENV = """
import os
from alembic import context
from sqlalchemy import create_engine
with create_engine(os.environ["DATABASE_URL"].replace("postgresql", "postgresql+psycopg")).connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""

INI = "[alembic]\nscript_location = migrations\n"

OWN = """
import os, pathlib, psycopg
with psycopg.connect(os.environ["DATABASE_URL"]) as session:
    session.execute("create table if not exists done (name text primary key)")
    for path in sorted(pathlib.Path("migrations").glob("*.sql")):
        if session.execute("insert into done values (%s) on conflict do nothing", [path.name]).rowcount:
            session.execute(path.read_text())
"""
"""What it runs is done once. It starts four times as quickly as Alembic, with which no test needs more than the first two do."""

TEST = """
import os, psycopg
def test_people_are_kept():
    with psycopg.connect(os.environ["DATABASE_URL"]) as session:
        session.execute({insert!r})
        assert session.execute({select!r}).fetchall() == [("Zoë",)]
        session.rollback()
"""

OLD = TEST.format(insert="insert into people (id, name) values (1, 'Zoë')", select="select name from people")


def alembics(number: int, statement: str) -> str:
    about = f'revision, down_revision = "{number}", {str(number - 1) if number > 1 else None!r}'
    return f"from alembic import op\n{about}\ndef upgrade():\n    op.execute({statement!r})\n"


@pytest.fixture
def two(project: Project, run_stage: RunStage) -> Two:
    return Two(project, run_stage)


@pytest.fixture
def with_alembic(project: Project, run_stage: RunStage) -> Two:
    return Two(project, run_stage, alembic=True)


class Two:
    """A project of two versions: the first is committed, the second is the working copy."""

    def __init__(self, project: Project, run_stage: RunStage, *, alembic: bool = False) -> None:
        self._root, self._run, self._alembic = project.root, run_stage, alembic
        for path, text in ({"alembic.ini": INI, "migrations/env.py": ENV} if alembic else {"migrate.py": OWN}).items():
            self.write(path, text)
        self.migration(1, "create table people (id int primary key, name text not null)")
        self.write("tests/test_people.py", OLD)
        git = ("git", "-C", self._root, "-c", "user.name=t", "-c", "user.email=t@example.org")
        subprocess.run([*git, "init", "-q"], check=True)
        subprocess.run([*git, "add", "-A"], check=True)
        subprocess.run([*git, "commit", "-qm", "one"], check=True)

    def write(self, path: str, text: str) -> None:
        place = self._root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def migration(self, number: int, statement: str) -> None:
        if self._alembic:
            self.write(f"migrations/versions/{number}.py", alembics(number, statement))
        else:
            self.write(f"migrations/{number}.sql", statement)

    def report(self) -> CompatibilityReport:
        now = WorkingCopy()
        found: CompatibilityReport = self._run(
            Compatibility(
                before=Commit(),
                now=now,
                environment=installed("migrations.lock" if self._alembic else "database.lock"),
                database=PostgresService(),
                migrate=("python", *(("-m", "alembic", "upgrade", "head") if self._alembic else ("migrate.py",))),
            )
        )
        return found


def test_a_migration_that_takes_away_what_old_code_uses_is_refused(with_alembic: Two) -> None:
    with_alembic.migration(2, "alter table people rename column name to full_name")
    new = TEST.format(insert="insert into people (id, full_name) values (1, 'Zoë')", select="select full_name from people")
    with_alembic.write("tests/test_people.py", new)
    report = with_alembic.report()
    assert [cell.name for cell in report.cells if cell.works] == ["old code on the old schema", "new code on the new schema"]
    verdict = Compatible(migrated_first=True)(report)
    assert verdict.said == "does not work: old code on the new schema"
    assert verdict.facts == ("old code on the new schema: tests/test_people.py::test_people_are_kept",)


def test_a_migration_that_fails_is_told_of_and_refused(with_alembic: Two) -> None:
    with_alembic.migration(2, "alter table nobody add column age int")
    verdict = Compatible(migrated_first=True)(with_alembic.report())
    assert not verdict.passed
    assert any('relation "nobody" does not exist' in fact for fact in verdict.facts), verdict.facts


def test_a_migration_that_only_adds_is_compatible(two: Two) -> None:
    two.migration(2, "alter table people add column age int")
    verdict = Compatible()(two.report())
    assert verdict.passed, verdict.facts


def test_code_that_needs_a_new_column_is_compatible_only_where_the_migration_comes_first(two: Two) -> None:
    two.migration(2, "alter table people add column age int")
    new = TEST.format(insert="insert into people (id, name, age) values (1, 'Zoë', 7)", select="select name from people")
    two.write("tests/test_people.py", new)
    report = two.report()
    assert Compatible(migrated_first=True)(report).passed
    assert Compatible()(report).said == "does not work: new code on the old schema"
