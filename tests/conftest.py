"""Fixtures of all tests: a project in a temporary directory, and stages run on the real host engine."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings

from pipeline import Journal, Pipeline, Project, Stage, Store
from pipeline.engine import Engine
from pipeline.engines.choose import RUNNER, runner
from pipeline.engines.dagger import where_to_find_it
from pipeline.errors import LockgateError
from pipeline.run import Outcome
from pipeline.scratch import Scratch, sweep
from pipeline.settings import Settings
from tests.memory import roomy
from tests.pipeline.engines.own_engine import an_engine
from tests.postgres import Server, install
from tests.running import run_pipeline

settings.register_profile("everywhere", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("everywhere")  # a busy machine is no failure

T = TypeVar("T")

HERE = Path(__file__).parent

DIRECTORY, ROOM = "lockgate-tests-", 8 << 30
"""How the name of a directory in memory begins, and how many bytes have to be free: a run of all tests takes 3 GB."""


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Have directories of tests in memory where there is room for them, unless `--basetemp` names another place.

    They are gone when the tests have ended. Most of what tests wait for else is the disk, with files nobody keeps.
    """
    if hasattr(config, "workerinput") or config.option.basetemp or (place := roomy(ROOM)) is None:
        return
    sweep(place, DIRECTORY)
    scratch = Scratch(place, DIRECTORY)
    config.add_cleanup(scratch.remove)
    config.option.basetemp = str(scratch.path / "tests")
    others = scratch.path / "tmp"
    others.mkdir()
    tempfile.tempdir = os.environ["TMPDIR"] = str(others)


def pytest_collection(session: pytest.Session) -> None:
    """Of all tests, have each worker import another part first: what one has compiled the others find.

    In a fresh checkout that takes longer than all else before the first test. What cannot be imported is told of later.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    if not worker or {session.config.rootpath / one for one in session.config.args} != {HERE}:
        return
    found = sorted(HERE.rglob("test_*.py"))
    first = int(worker) * len(found) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    for path in (*found[first:], *found[:first]):
        with contextlib.suppress(Exception, pytest.skip.Exception):
            import_module(".".join(path.relative_to(HERE.parent).with_suffix("").parts))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish(session: pytest.Session) -> None:
    """What is imported by now stays: nobody need look for garbage in it again and again."""
    gc.freeze()


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two workers more than processors that this process may use: while some wait for a server, a container, a judge or a
    limit of time, others work."""
    return len(os.sched_getaffinity(0)) + 2


RunStage = Callable[..., Any]


class StageDidNotPass(LockgateError):
    """The stage under test failed; `outcome` tells how the run ended."""

    def __init__(self, what: str, outcome: Outcome) -> None:
        super().__init__(what)
        self.outcome = outcome


@pytest.fixture(scope="session")
def shared_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that all workers share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def shared_home(shared_place: Path) -> Path:
    """A state directory all tests share, so that each tool is installed once; across runs when one is named."""
    named = os.environ.get("LOCKGATE_TEST_HOME")
    home = Path(named) if named else shared_place / "home"
    home.mkdir(parents=True, exist_ok=True)
    return home


@pytest.fixture
def project(tmp_path: Path, shared_home: Path) -> Project:
    """An empty project under git whose state directory is the shared one."""
    root = tmp_path / "project"
    root.mkdir()
    (root / "pyproject.toml").write_text("[project]\nname = 'thing'\nversion = '1'\n")
    subprocess.run(["git", "init", "-q", "-b", "main", root], check=True)
    return Project(root=root, home=shared_home, settings=Settings())


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    found = Journal(tmp_path / "journal.db")
    yield found
    found.close()


@pytest.fixture
def store(shared_home: Path) -> Store:
    return Store(shared_home / "store")


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory, shared_home: Path) -> Iterator[Server]:
    """A server for all tests of a worker, each of which has a schema or a database of its own there.

    For root it runs as another user, whom pytest locks out of its own directories whenever another session begins.
    """
    project = Project(root=tmp_path_factory.mktemp("postgres"), home=shared_home, settings=Settings())
    with tempfile.TemporaryDirectory(prefix="lockgate-postgres-") as place:
        with (shared_home / "postgres.lock").open("w") as lock:  # or each worker would download it and compile its modules
            fcntl.flock(lock, fcntl.LOCK_EX)
            site = install(project, Store(shared_home / "store"), Path(place, "site"))
        found = Server(site, Path(place))
        found.start()
        try:
            yield found
        finally:
            found.stop()


@pytest.fixture(scope="session")
def dagger_address(shared_place: Path) -> Iterator[str]:
    """Where to find the engine of `dagger_engine` if it is not found by itself."""
    pytest.importorskip("dagger", reason="the Dagger SDK is not installed")
    with an_engine(runner, shared_place) as address:
        yield address


@pytest.fixture
def dagger_engine(dagger_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real Dagger engine: one that answers or is configured, else one started for the session; skipped where neither can be."""
    if dagger_address:
        monkeypatch.setenv(RUNNER, dagger_address)


@pytest.fixture(scope="session")
def shared_session(dagger_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables by which actions of many tests join one session with the engine: to open one takes longer than most actions.

    Without the program `dagger` there are none, and each test has a session of its own, as a run has.
    """
    program = shutil.which("dagger")
    if program is None:
        yield {}
        return
    env = {**os.environ, **({RUNNER: dagger_address} if dagger_address else {})}
    where_to_find_it(env)
    log = tmp_path_factory.mktemp("session") / "log"
    with (
        log.open("w") as words,
        subprocess.Popen(
            [program, "session"], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words, text=True
        ) as process,
    ):
        line = process.stdout.readline() if process.stdout else ""
        assert line.startswith("{"), log.read_text()
        said = json.loads(line)
        yield {"DAGGER_SESSION_PORT": str(said["port"]), "DAGGER_SESSION_TOKEN": said["session_token"]}
        if process.stdin:
            process.stdin.close()  # that is how it is told to end


@pytest.fixture
def dagger_session(dagger_engine: None, shared_session: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A real Dagger engine, in a session that other tests are in too."""
    for name, value in shared_session.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def run_stage(project: Project, store: Store, journal: Journal) -> RunStage:
    """Run a stage and all it needs on the host engine; its result. Raises StageDidNotPass with the first error."""

    def run(stage: Stage[T], *, engine: Engine | None = None) -> T:
        outcome, found = run_pipeline(Pipeline("under-test", subject=stage), project, store, journal, engine=engine)
        if "subject" not in found:
            raise StageDidNotPass("\n".join(f"{name}: {why}" for name, why in outcome.failed.items()), outcome)
        value: T = found["subject"]
        return value

    return run
