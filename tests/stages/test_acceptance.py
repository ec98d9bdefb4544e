"""Acceptance tests as a stage: a service in front of a database, asked from outside."""

from __future__ import annotations

import dataclasses

import pytest

from gates import all_passed
from pipeline import Project, Service, Stage, Store, Tree, Work
from pipeline.engines.choose import open_engine
from stages.acceptance import AcceptanceTests
from stages.postgres import PostgresService
from stages.source import WorkingCopy
from tests.conftest import RunStage, StageDidNotPass
from tests.stages.installed import installed

APP = """
import http.server, os, psycopg
with psycopg.connect(os.environ["DATABASE_URL"]) as session:
    session.execute("create table visits (number int)")

class Visits(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with psycopg.connect(os.environ["DATABASE_URL"]) as session:
            if self.path == "/":
                session.execute("insert into visits values (1)")
            body = str(session.execute("select count(*) from visits").fetchone()[0]).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass

http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Visits).serve_forever()
"""

TESTS = """
import os, urllib.request
def test_it_counts_visits():
    def get():
        return int(urllib.request.urlopen(os.environ["APP_URL"]).read())
    assert get() + 1 == get()
"""


class Application(Stage[Service]):
    """A service that needs the database before it."""

    source: Stage[Tree]
    environment: Stage[Tree]

    async def run(self, work: Work) -> Service:
        return Service(
            name="app",
            argv=("python", "{root}/src/app.py"),
            port=8000,
            inputs={"src": work[self.source]},
            tools={"site": work[self.environment]},
            env={"PYTHONPATH": "{root}/site", "DATABASE_URL": "postgresql://postgres@{DB_HOST}:{DB_PORT}/postgres"},
            ready="/ready",
            within=30,
        )


@pytest.fixture
def acceptance(project: Project) -> AcceptanceTests:
    (project.root / "tests" / "acceptance").mkdir(parents=True)
    (project.root / "tests" / "acceptance" / "test_it.py").write_text(TESTS)
    (project.root / "app.py").write_text(APP)
    source = WorkingCopy()
    environment = installed("database.lock")
    return AcceptanceTests(
        source=source,
        environment=environment,
        services=(PostgresService(),),
        service=Application(source=source, environment=environment),
    )


def test_the_tests_reach_the_service_and_the_service_its_database(acceptance: AcceptanceTests, run_stage: RunStage) -> None:
    report = run_stage(acceptance)
    assert report.bad() == ()
    assert all_passed(report).passed


@pytest.mark.usefixtures("dagger_session")
def test_the_same_in_containers(acceptance: AcceptanceTests, run_stage: RunStage, project: Project, store: Store) -> None:
    report = run_stage(acceptance, engine=open_engine("dagger", project, store))
    assert report.bad() == ()
    assert all_passed(report).passed


def test_a_service_that_does_not_start_fails_the_stage_with_its_last_words(
    acceptance: AcceptanceTests, run_stage: RunStage
) -> None:
    with pytest.raises(StageDidNotPass, match="exit code 125") as failed:
        run_stage(dataclasses.replace(acceptance, services=()))
    assert "service app ended" in str(failed.value) or "DB_HOST" in str(failed.value)
