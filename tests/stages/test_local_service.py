"""Services that stay on this machine between runs."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from pipeline import Entry, Pipeline, Project, Retry, Service, Stage, Store, Work
from pipeline.errors import EngineError
from pipeline.journal import Journal
from pipeline.settings import Settings
from stages.delivery import process
from stages.delivery.down import down
from stages.delivery.model import Address
from stages.local_service import Bound, Kept, LocalService, command, lay_out
from stages.postgres import PostgresService
from tests.conftest import RunStage, StageDidNotPass
from tests.running import run_pipeline
from tests.web import get

SERVE = Path(__file__).parent / "delivery" / "serve.py"


@pytest.fixture
def project(tmp_path: Path, shared_home: Path) -> Iterator[Project]:
    """A project with a state directory of its own; what it left running is taken down."""
    found = Project(root=tmp_path, home=tmp_path / "home", settings=Settings())
    found.home.mkdir()
    (shared_home / "caches").mkdir(exist_ok=True)
    (found.home / "caches").symlink_to(shared_home / "caches")
    yield found
    anyio.run(down, found)


class Small(Stage[Service]):
    """The small service of the tests of delivery."""

    name: str = "small"
    env: tuple[tuple[str, str], ...] = ()

    async def run(self, work: Work) -> Service:
        return Service(
            name=self.name,
            argv=("python", "{root}/serve.py"),
            port=80,
            inputs={"serve.py": work.store.put_file(SERVE)},
            env={"VERSION": "one", "PLACE": "{root}/x", **dict(self.env)},
            ready="/readyz",
            within=2,
        )


def marked(project: Project) -> list[process.Process]:
    return list(process.running(str(project.home)))


def test_a_service_serves_after_the_run_and_is_found_again(project: Project, run_stage: RunStage) -> None:
    first: Address = run_stage(LocalService(service=Small()))
    assert get(first.url).text == "one"
    (running,) = marked(project)
    assert run_stage(LocalService(service=Small())) == first
    assert [one.pid for one in marked(project)] == [running.pid]


def test_a_service_that_was_killed_is_started_again(project: Project, run_stage: RunStage) -> None:
    run_stage(LocalService(service=Small()))
    (running,) = marked(project)
    os.kill(running.pid, signal.SIGKILL)
    while process.alive(running):
        pass
    again: Address = run_stage(LocalService(service=Small()))
    assert get(again.url).text == "one"


def test_a_service_whose_name_begins_another_ones_is_another(project: Project, run_stage: RunStage) -> None:
    longer: Address = run_stage(LocalService(service=Small(name="small2", env=(("VERSION", "two"),))))
    shorter: Address = run_stage(LocalService(service=Small()))
    assert get(longer.url).text == "two"
    assert get(shorter.url).text == "one"


def test_a_service_that_lost_its_port_gets_another(
    project: Project, run_stage: RunStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken, socket.socket() as free:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        free.bind(("127.0.0.1", 0))
        ports = iter([taken.getsockname()[1], free.getsockname()[1]])
        free.close()
        monkeypatch.setattr("stages.local_service.free_port", lambda: next(ports))
        found: Address = run_stage(LocalService(service=Small(), retry=Retry(times=1, wait=0.01)))
        assert found.port != taken.getsockname()[1]
    assert get(found.url).text == "one"


def test_a_service_that_does_not_serve_fails_with_its_last_words(project: Project, run_stage: RunStage) -> None:
    with pytest.raises(StageDidNotPass, match="small does not serve: cannot go on"):
        run_stage(LocalService(service=Small(env=(("CRASHES", "1"),)), retry=Retry()))
    assert marked(project) == []


def test_the_address_of_a_service_becomes_a_variable(project: Project, run_stage: RunStage) -> None:
    service = LocalService(service=Small())
    address: Address = run_stage(service)
    bound: Any = run_stage(Bound(address=service, variable="SMALL_URL", template="http://{host}:{port}/x"))
    assert (bound.variable, bound.value) == ("SMALL_URL", f"http://127.0.0.1:{address.port}/x")


def test_the_command_names_the_place_of_the_service_and_what_it_keeps() -> None:
    service = Service(name="db", argv=("run", "{root}/data"), port=1, env={"HOME": "{root}/h"})
    argv, env = command(service, Path("/s"), 4000, Path("/py"), {"PGDATA": "pg"})
    assert argv == ("run", "/s/root/data")
    assert (env["HOME"], env["PGDATA"], env["PORT"], env["HOST"]) == ("/s/root/h", "/s/data/pg", "4000", "127.0.0.1")


def connection(database: Kept, password: str = "pgdata/pgpass") -> str:
    place = Path(database.data, password)
    return f"host={database.host} port={database.port} user=postgres dbname=postgres passfile='{place}'"


def test_nobody_gets_into_a_database_that_stays_without_the_file_it_keeps(project: Project, run_stage: RunStage) -> None:
    psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")
    service = LocalService(service=PostgresService(), keep=(("PGDATA", "pgdata"),))
    database: Kept = run_stage(service)
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        psycopg.connect(connection(database, "none"))
    file: Any = run_stage(Bound(address=service, variable="PGPASSFILE", template="{data}/pgdata/pgpass"))
    password = Path(file.value).read_text().strip().rpartition(":")[2]
    with psycopg.connect(connection(database)) as session:
        assert session.execute("select 1").fetchone() == (1,)
    (running,) = marked(project)
    assert password not in repr((database, file, running.env))
    assert password not in (project.home / "state" / "service" / "db" / "log").read_text()


def test_a_database_keeps_its_data_when_it_is_taken_down_and_started_again(
    project: Project, store: Store, journal: Journal, run_stage: RunStage
) -> None:
    psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")
    service = LocalService(service=PostgresService(), keep=(("PGDATA", "pgdata"),))
    first: Kept = run_stage(service)
    with psycopg.connect(connection(first)) as session:
        session.execute("create table kept (it int)")
    assert anyio.run(down, project) != []
    outcome, found = run_pipeline(Pipeline("again", subject=service), project, store, journal)
    assert outcome.failed == {}
    second: Kept = found["subject"]
    with psycopg.connect(connection(second)) as session:
        assert session.execute("select count(*) from kept").fetchone() == (0,)


def test_nothing_of_a_service_is_laid_through_a_link_of_its_inputs(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    (tmp_path / "outside").mkdir()
    linked = store.tree([Entry("x", "link", str(tmp_path / "outside"))])
    service = Service(name="s", argv=("true",), port=1, inputs={"src": linked, "src/x/y": store.put(b"planted")})
    with pytest.raises(EngineError, match="would lie in or below 'src/x', a link of the input 'src'"):
        lay_out(service, tmp_path, store)
    assert list((tmp_path / "outside").iterdir()) == []
