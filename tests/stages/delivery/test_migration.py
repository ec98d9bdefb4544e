"""Migrations and backfills of a real PostgreSQL that others use meanwhile."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pipeline import Journal, Pipeline, Project, Stage, Store, WiringError, Work
from stages.delivery.deploy import Ran
from stages.delivery.local import LocalProcesses
from stages.delivery.migration import Backfill, Backfilled, Migrate
from stages.delivery.model import Binding
from stages.image import BuildImage, Placed
from stages.source import WorkingCopy
from tests.conftest import RunStage, StageDidNotPass
from tests.postgres import Server
from tests.running import run_pipeline
from tests.stages.delivery.small import gated
from tests.stages.installed import installed

MIGRATE = """
import os, psycopg
with psycopg.connect(os.environ["DATABASE_URL"]) as session:
    session.execute("alter table people add column if not exists age int")
    print("lock_timeout is", session.execute("show lock_timeout").fetchone()[0])
"""


class Given(Stage[Binding]):
    """An address that is known already."""

    variable: str
    value: str

    async def run(self, work: Work) -> Binding:
        return Binding(variable=self.variable, value=self.value)


def migrated(stage: Migrate, project: Project, store: Store, journal: Journal) -> Ran:
    """What comes of a migration. Raises AssertionError where it does not pass."""
    gate: Any = stage.release
    outcome, found = run_pipeline(Pipeline("under-test", layers=gate.artifact.layers, subject=stage), project, store, journal)
    assert not outcome.failed, outcome.failed
    ran: Ran = found["subject"]
    return ran


class Database:
    """A database of its own with a table of people."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.do("create table people (id serial primary key, name text not null, initial text)")

    def session(self) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(self.address, autocommit=True)

    def do(self, statement: str) -> list[tuple[Any, ...]]:
        with self.session() as session:
            done = session.execute(statement.encode())
            return done.fetchall() if done.description else []

    def fill(self, count: int) -> None:
        self.do(f"insert into people (name) select 'p' || n from generate_series(1, {count}) n")

    def left(self) -> int:
        ((count,),) = self.do("select count(*) from people where initial is null")
        return int(count)


@pytest.fixture
def database(postgres: Server) -> Iterator[Database]:
    name = f"people_{uuid.uuid4().hex}"
    postgres.sql(f"create database {name}")
    yield Database(postgres.address.rpartition("/")[0] + f"/{name}")
    postgres.sql(f"drop database {name} with (force)")


def backfill(database: Database, **more: Any) -> Backfill:
    about = {"set": "initial = left(name, 1)", "where": "initial is null", **more}
    return Backfill(database=Given(variable="DATABASE_URL", value=database.address), table="people", **about)


def migration(project: Project, database: Database, **more: Any) -> Migrate:
    (project.root / "migrate.py").write_text(MIGRATE)
    source = WorkingCopy()
    image = BuildImage(
        layers=(Placed(tree=installed("database.lock"), at="/site"), Placed(tree=source, at="/app")),
        entrypoint=("python", "/app/migrate.py"),
        env=(("PYTHONPATH", "/site"),),
    )
    return Migrate(
        release=gated(image),
        target=LocalProcesses(name="app"),
        command=("python", "/app/migrate.py"),
        bindings=(Given(variable="DATABASE_URL", value=database.address),),
        **more,
    )


def test_a_migration_waits_for_a_lock_no_longer_than_it_may(
    database: Database, project: Project, store: Store, journal: Journal
) -> None:
    ran = migrated(migration(project, database, lock_timeout=1.5), project, store, journal)
    assert ran.output.strip() == "lock_timeout is 1500ms"
    assert database.do("select age from people") == []


def test_a_migration_that_does_not_get_its_lock_lets_others_through_and_tries_again(
    database: Database, project: Project, store: Store, journal: Journal
) -> None:
    """Who reads the table keeps its lock; another who comes after the migration still reads it."""
    database.fill(1)
    reader = database.session()
    reader.autocommit = False
    reader.execute("select * from people")
    read, given_up = [], threading.Event()

    def others() -> None:
        with database.session() as session:
            while not given_up.is_set():
                waiting = session.execute("select count(*) from pg_locks where not granted").fetchone()
                if waiting == (1,):
                    session.execute("set statement_timeout = '20s'")
                    read.append(session.execute("select name from people").fetchone())
                    given_up.set()
        reader.rollback()

    thread = threading.Thread(target=others)
    thread.start()
    try:
        migrated(migration(project, database, lock_timeout=0.3), project, store, journal)
    finally:
        given_up.set()
        thread.join()
        reader.close()
    assert read == [("p1",)]
    assert database.do("select name, age from people") == [("p1", None)]


def test_a_migration_that_never_gets_its_lock_fails_and_changes_nothing(
    database: Database, project: Project, store: Store, journal: Journal
) -> None:
    with database.session() as reader:
        reader.autocommit = False
        reader.execute("select * from people")
        with pytest.raises(AssertionError, match="due to lock timeout"):
            migrated(migration(project, database, lock_timeout=0.1, tries=2), project, store, journal)
        reader.rollback()
    assert "age" not in str(database.do("select column_name from information_schema.columns where table_name = 'people'"))


def test_a_migration_that_fails_for_another_reason_is_not_tried_again(
    database: Database, project: Project, store: Store, journal: Journal
) -> None:
    database.do("drop table people")
    with pytest.raises(AssertionError, match='relation "people" does not exist') as failed:
        migrated(migration(project, database), project, store, journal)
    assert "tries" not in str(failed.value)


def test_rows_are_brought_up_to_date_in_batches(database: Database, run_stage: RunStage) -> None:
    database.fill(25)
    done: Backfilled = run_stage(backfill(database, batch=10, pause=0))
    assert done == Backfilled(table="people", rows=25, batches=3)
    assert done.summary() == "25 rows of people in 3 batches"
    assert database.do("select distinct initial from people") == [("p",)]


def test_what_was_brought_up_to_date_is_not_done_again(database: Database, run_stage: RunStage) -> None:
    database.fill(5)
    database.do("update people set initial = 'x' where id <= 3")
    assert run_stage(backfill(database)).rows == 2
    assert sorted(database.do("select initial, count(*) from people group by 1")) == [("p", 2), ("x", 3)]


def test_rows_that_others_write_meanwhile_are_not_missed(database: Database, run_stage: RunStage) -> None:
    """Old code goes on writing rows as it knows them, below and above the key that is reached, until the backfill has begun."""
    database.fill(300)
    database.do("delete from people where id <= 100")
    stop = threading.Event()

    def write() -> None:
        with database.session() as session:
            for number in range(1, 101):
                query = sql.SQL("insert into people (id, name) values ({}, 'late')").format(sql.Literal(number))
                session.execute(query)
                if stop.is_set():
                    break

    writer = threading.Thread(target=write)
    writer.start()
    try:
        run_stage(backfill(database, batch=7, pause=0.01))
    finally:
        stop.set()
        writer.join()
    assert run_stage(backfill(database)).rows == database.left() == 0


def test_a_row_that_somebody_holds_is_waited_for_and_the_others_go_on_in_smaller_batches(
    database: Database, run_stage: RunStage
) -> None:
    database.fill(20)
    with database.session() as holder:
        holder.autocommit = False
        holder.execute("update people set name = 'held' where id = 15")
        done = threading.Event()

        def let_go() -> None:
            with database.session() as session:
                while session.execute("select count(*) from people where initial is not null").fetchone() != (14,):
                    time.sleep(0.01)
            holder.commit()
            done.set()

        thread = threading.Thread(target=let_go)
        thread.start()
        found: Backfilled = run_stage(backfill(database, batch=16, pause=0, lock_timeout=0.1))
        thread.join()
    assert done.is_set()
    assert found.rows == 20
    assert database.do("select initial from people where id = 15") == [("h",)]


def test_a_backfill_that_would_never_end_is_refused(database: Database, run_stage: RunStage) -> None:
    database.fill(5)
    with pytest.raises(StageDidNotPass, match="what was updated is still to be"):
        run_stage(backfill(database, set="initial = null"))


def test_a_table_that_is_not_there_is_said_in_one_line(database: Database, run_stage: RunStage) -> None:
    database.do("drop table people")
    with pytest.raises(StageDidNotPass, match='people could not be brought up to date: relation "people" does not exist'):
        run_stage(backfill(database))


def test_limits_that_make_no_sense_are_refused(database: Database, project: Project) -> None:
    with pytest.raises(WiringError, match="batch is 0"):
        backfill(database, batch=0)
    with pytest.raises(WiringError, match="lock_timeout is 0"):
        migration(project, database, lock_timeout=0)
