"""PostgreSQL as a service."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gates import all_passed
from pipeline import Project, Store
from pipeline.engines.choose import open_engine
from pipeline.engines.local import free_port
from pipeline.engines.sandbox import answers
from stages.postgres import PostgresService, PostgresTool
from stages.pytest import IntegrationTests
from stages.scripts import postgres as program
from stages.source import WorkingCopy
from tests.conftest import RunStage
from tests.stages.installed import installed

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs it as another user")

TESTS = """
import os, psycopg
def test_sql():
    with psycopg.connect(os.environ["DATABASE_URL"]) as session:
        session.execute("create table seen (person text)")
        session.execute("insert into seen values ('Zoë')")
        assert session.execute("select person from seen").fetchall() == [("Zoë",)]
        assert session.execute("show server_version_num").fetchone()[0] >= "180000"
        assert session.execute("show fsync").fetchone() == ("off",)
def test_it_is_found_at_host_and_port():
    with psycopg.connect(host=os.environ["DB_HOST"], port=os.environ["DB_PORT"], user="postgres") as session:
        assert session.execute("select rolsuper from pg_roles where rolname = current_user").fetchone() == (True,)
"""


@pytest.fixture
def integration(project: Project) -> IntegrationTests:
    (project.root / "tests").mkdir()
    (project.root / "tests" / "test_it.py").write_text(TESTS)
    source = WorkingCopy()
    return IntegrationTests(
        source=source,
        environment=installed("database.lock"),
        services=(PostgresService(),),
        env=(("DATABASE_URL", "postgresql://postgres@{DB_HOST}:{DB_PORT}/postgres"),),
    )


def test_tests_speak_sql_to_a_real_server(integration: IntegrationTests, run_stage: RunStage) -> None:
    report = run_stage(integration)
    assert report.bad() == ()
    assert all_passed(report).passed


def test_only_what_is_thrown_away_does_not_wait_for_the_disk() -> None:
    thrown_away, stays = (" ".join(program.settings("", "", kept=kept)) for kept in (False, True))
    assert "fsync=off" in thrown_away
    assert not {"fsync", "synchronous_commit", "full_page_writes"} & {word.split("=")[0] for word in stays.split()}


@pytest.mark.usefixtures("dagger_session")
def test_the_same_server_runs_in_a_container(
    integration: IntegrationTests, run_stage: RunStage, project: Project, store: Store
) -> None:
    report = run_stage(integration, engine=open_engine("dagger", project, store))
    assert report.bad() == ()
    assert all_passed(report).passed


@pytest.fixture
def site(run_stage: RunStage, store: Store) -> Path:
    return store.shared(run_stage(PostgresTool()))


@pytest.fixture
def server(site: Path, tmp_path: Path) -> Iterator[Server]:
    found = Server(site, tmp_path / "kept")
    yield found
    found.stop()


class Server:
    """The script as a process, its data in `data`."""

    def __init__(self, site: Path, data: Path) -> None:
        self.site, self.data, self.port = site, data, free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        process = self.spawn()
        while not answers({"ready": "postgresql", "port": self.port}):
            assert process.poll() is None
            time.sleep(0.02)

    def spawn(self) -> subprocess.Popen[bytes]:
        env = {"PATH": os.environ["PATH"], "HOST": "127.0.0.1", "PORT": str(self.port), "PGDATA": str(self.data)}
        env["TMPDIR"] = str(self.data.parent)
        self.data.parent.mkdir(exist_ok=True)
        self.process = subprocess.Popen([sys.executable, "-I", program.__file__, str(self.site)], env=env)
        return self.process

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout=20)

    def psql(self, statement: str) -> str:
        with self.session(statement, self.data / "pgpass") as session:
            said = session.communicate()[0]
        assert session.returncode == 0, said
        return said.strip()

    def session(self, statement: str, pgpass: Path) -> subprocess.Popen[str]:
        """The program `psql`, which never asks for a password."""
        return subprocess.Popen(
            [self.site / program.PROGRAMS / "psql", "-Xwh127.0.0.1", f"-p{self.port}", "-Upostgres", "-Atc", statement],
            env={"PATH": os.environ["PATH"], "PGPASSFILE": str(pgpass)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def started(site: Path, data: Path, *under: str) -> subprocess.CompletedProcess[str]:
    """The script, which is expected to end by itself."""
    env = {"PATH": os.environ["PATH"], "PGDATA": str(data), "PORT": str(free_port())}
    command = [*under, sys.executable, "-I", program.__file__, str(site)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)


def test_the_data_stay_in_pgdata_and_the_server_ends_in_good_order(server: Server) -> None:
    server.start()
    server.psql("create table kept as select 7 as number")
    assert server.stop() == 0
    assert (server.data / "PG_VERSION").read_text() == "18\n"
    server.start()
    assert server.psql("select number from kept") == "7"


def test_nobody_is_let_in_to_data_that_are_kept_without_the_password_beside_them(server: Server, tmp_path: Path) -> None:
    server.start()
    refused, no_file = tmp_path / "wrong", tmp_path / "none"
    refused.write_text("*:*:*:postgres:guessed\n")
    refused.chmod(0o600)
    for place, why in ((no_file, "no password supplied"), (refused, "password authentication failed")):
        with server.session("select 1", place) as session:
            assert why in session.communicate()[0]
    assert server.psql("select 1") == "1"
    assert stat.S_IMODE((server.data / "pgpass").stat().st_mode) == 0o600
    assert stat.S_IMODE(server.data.stat().st_mode) == 0o700


def test_data_that_were_kept_without_a_password_get_one(server: Server) -> None:
    server.start()
    password = (server.data / "pgpass").read_text()
    server.psql("alter role postgres password null")
    assert server.stop() == 0
    (server.data / "pgpass").unlink()
    (server.data / "pg_hba.conf").write_text("host all all all trust\n")
    server.start()
    assert server.psql("select 1") == "1"
    assert (server.data / "pgpass").read_text() != password


def test_an_open_session_does_not_keep_the_server_from_ending(server: Server) -> None:
    server.start()
    session = server.session("select pg_sleep(600)", server.data / "pgpass")
    while server.psql("select count(*) from pg_stat_activity where query like '%pg_sleep(600)'") == "0":
        time.sleep(0.02)
    assert server.stop() == 0
    session.communicate(timeout=20)


def test_data_of_a_server_that_was_killed_are_recovered_before_the_port_opens(server: Server) -> None:
    server.start()
    server.psql("create table kept as select 7 as number")
    postmaster = int((server.data / "postmaster.pid").read_text().split()[0])
    os.kill(postmaster, signal.SIGKILL)
    assert server.process is not None
    assert server.process.wait(timeout=20) == 128 + signal.SIGKILL
    server.start()
    assert server.psql("select number from kept") == "7"


def test_a_directory_that_is_no_database_is_said_to_be_none(site: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("something else")
    done = started(site, tmp_path)
    assert done.returncode == 1
    assert "exists but is not empty" in done.stdout


@as_root
def test_root_never_runs_the_server_itself(server: Server) -> None:
    server.start()
    assert server.data.stat().st_uid != 0
    status = Path(f"/proc/{(server.data / 'postmaster.pid').read_text().split()[0]}/status").read_text()
    assert [line.split()[1:] for line in status.splitlines() if line.startswith("Uid:")] == [[str(server.data.stat().st_uid)] * 4]


@pytest.fixture
def home(site: Path) -> Iterator[Path]:
    """A directory that only root may pass through, beside none that anybody may write to, with the programs in it."""
    with tempfile.TemporaryDirectory(dir="/root", prefix="lockgate-tests-") as name:
        shutil.copytree(site, Path(name, "site"), symlinks=True)
        Path(name, "other").write_text("nothing of the server's")
        yield Path(name)


@pytest.fixture
def mounts() -> None:
    if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this system lets nobody mount")


@as_root
@pytest.mark.usefixtures("mounts")
def test_below_the_home_of_root_the_server_sees_its_own_files_alone(home: Path) -> None:
    server = Server(home / "site", home / "state" / "kept")
    for number in ("7", "8"):
        server.start()
        try:
            server.psql(f"create table kept{number} as select 7 as number")
            seen = Path(f"/proc/{(server.data / 'postmaster.pid').read_text().split()[0]}/root")
            assert sorted(path.name for path in (seen / home.relative_to("/")).iterdir()) == ["site", "state"]
            assert stat.S_IMODE(home.stat().st_mode) == 0o700
        finally:
            assert server.stop() == 0
    assert (server.data / "pgpass").stat().st_uid != 0


@as_root
@pytest.mark.usefixtures("mounts")
def test_what_is_mounted_below_the_data_stays_there(home: Path) -> None:
    server, inner = Server(home / "site", home / "state" / "kept"), home / "state" / "kept" / "pg_wal"
    server.start()
    assert server.stop() == 0
    kept = home / "wal"
    shutil.copytree(inner, kept)
    for path in (kept, *kept.rglob("*")):
        os.chown(path, server.data.stat().st_uid, server.data.stat().st_gid)
    subprocess.run(["mount", "--bind", kept, inner], check=True)
    try:
        before = {path.name: path.stat().st_mtime_ns for path in kept.iterdir()}
        server.start()
        server.psql("create table more as select 7 as number")
        assert server.stop() == 0
        assert {path.name: path.stat().st_mtime_ns for path in kept.iterdir()} != before
    finally:
        subprocess.run(["umount", inner], check=True)


@as_root
@pytest.mark.usefixtures("mounts")
def test_programs_and_data_may_lie_within_each_other(home: Path) -> None:
    server = Server(home / "site", home / "site" / "state" / "kept")
    server.start()
    assert server.psql("select 1") == "1"
    assert server.stop() == 0


@as_root
def test_programs_that_the_umask_keeps_from_the_other_user_are_run_from_a_copy_that_goes_with_the_server(
    site: Path, tmp_path: Path
) -> None:
    private = tmp_path / "site"
    shutil.copytree(site, private, symlinks=True)
    subprocess.run(["chmod", "-R", "go=", private], check=True)
    server = Server(private, tmp_path / "kept")
    server.start()
    assert server.psql("select 1") == "1"
    assert any(path.is_file() for path in tmp_path.glob("postgres-*/**/*"))
    assert server.stop() == 0
    assert not any(path.is_file() for path in tmp_path.glob("postgres-*/**/*"))
    assert [path for path in private.rglob("*") if path.stat().st_mode & 0o077 and not path.is_symlink()] == []


def test_a_server_that_is_told_to_end_while_its_data_are_made_leaves_none_that_are_taken_for_whole(
    site: Path, tmp_path: Path
) -> None:
    server = Server(site, tmp_path / "kept")
    process = server.spawn()
    while not (server.data / "PG_VERSION").exists():
        assert process.poll() is None
    server.stop()
    server.start()
    assert server.psql("select 1") == "1"
    assert server.stop() == 0


@as_root
def test_a_server_that_is_told_to_end_while_it_starts_leaves_no_copy(site: Path, tmp_path: Path) -> None:
    private = tmp_path / "site"
    shutil.copytree(site, private, symlinks=True)
    subprocess.run(["chmod", "-R", "go=", private], check=True)
    server = Server(private, tmp_path / "kept")
    server.spawn()
    while not any(path.is_file() for path in tmp_path.glob("postgres-*/**/*")):
        assert server.process is not None
        assert server.process.poll() is None
    assert server.stop() == 128 + signal.SIGTERM
    assert not any(path.is_file() for path in tmp_path.glob("postgres-*/**/*"))


@as_root
@pytest.mark.usefixtures("mounts")
def test_programs_that_the_other_user_may_not_run_are_named(home: Path) -> None:
    (home / "site" / program.PROGRAMS / "postgres").chmod(0o644)
    done = started(home / "site", home / "state" / "kept")
    assert done.returncode == 1
    assert re.search(rf"the user \w+ may not run {home}/site/\S+: chmod -R o\+rX {home}/site\n", done.stderr)


def test_a_place_without_programs_or_for_no_data_is_refused_in_one_line(site: Path, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").touch()
    for place, data, why in (
        (tmp_path / "none", tmp_path / "data", "is not there: name the directory in which the wheel"),
        (site, tmp_path / "loop", "Symlink loop|Too many levels of symbolic links|File exists"),
        (site, tmp_path / "file", "File exists"),
    ):
        done = started(place, data)
        assert done.returncode == 1
        assert re.fullmatch(rf".*({why}).*\n", done.stderr)


@pytest.mark.parametrize("said", ["no space: FATAL:  could not write", "initdb: error: could not write"])
def test_why_it_failed_is_the_last_word(said: str) -> None:
    told = program.told("initdb", 1, f"fine so far\n{said}\ninitdb: removing contents of data directory")
    assert told[0] == "fine so far"
    assert told[-1] == f"initdb ended with 1: {said}"


@as_root
def test_root_without_the_right_to_mount_is_told_what_to_do(home: Path) -> None:
    done = started(home / "site", home / "kept", "setpriv", "--bounding-set=-sys_admin")
    assert done.returncode == 1
    private = home if stat.S_IMODE(Path("/root").stat().st_mode) & stat.S_IXOTH else Path("/root")
    assert f"may not pass through {private} ([Errno 1] a mount namespace: Operation not permitted): chmod o+x" in done.stderr
