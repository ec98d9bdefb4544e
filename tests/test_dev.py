"""./dev: how it makes its environment, and what a run leaves running and what not."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from pipeline import Journal, Project
from pipeline.history import StageHistory, one
from pipeline.settings import Settings
from stages.delivery.down import down, left
from tests.signals import heard

TOP = Path(__file__).parents[1]

PIPELINE = """
import os
from pathlib import Path
from typing import ClassVar

import anyio

from pipeline import Effect, Pipeline, Stage
from stages.delivery import process
from tests.pipeline.toys import Number


class Serves(Stage[Number]):
    effect: ClassVar[Effect] = Effect.RETRYABLE

    async def run(self, work):
        state = work.state("service/it")
        if not list(process.running(f"{state}:")):
            await process.start(f"{state}:", ("sleep", "600"), {"PATH": os.defpath}, cwd=state, log=state / "log")
        if "HANGS" in os.environ:
            await anyio.sleep(600)
        return Number(value=1)


pipeline = Pipeline("it", serves=Serves())
"""


@dataclass
class Checkout:
    """A checkout of this repository whose example is a service that sleeps."""

    root: Path

    def start(self, *words: str, **env: str) -> subprocess.Popen[str]:
        clean = {name: value for name, value in os.environ.items() if name != "PIPELINE_HOME"}
        return subprocess.Popen(
            ["sh", "./dev", *words],
            cwd=self.root,
            env={**clean, "PYTHON": sys.executable, "PYTHONPATH": str(TOP), **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=heard,  # noqa: PLW1509 - there are no threads here
        )

    def __call__(self, *words: str) -> str:
        with self.start(*words) as done:
            output = done.communicate(timeout=60)[0]
        assert done.returncode == 0, output
        return output

    @property
    def project(self) -> Project:
        example = self.root / "examples" / "camera_counting"
        return Project(root=example, home=example / ".pipeline", settings=Settings())

    def wait(self, run: subprocess.Popen[str]) -> None:
        """Until the service is there."""
        until = time.monotonic() + 30
        while not self.serves():
            assert run.poll() is None, run.communicate()[0]
            assert time.monotonic() < until, "no service was started"
            time.sleep(0.02)

    def last_run(self) -> list[StageHistory]:
        journal = Journal(self.project.home / "journal.db")
        history = one(journal, "")
        journal.close()
        return list(history.stages.values()) if history else []

    def serves(self) -> bool:
        return bool(left(self.project))


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    found = Checkout(tmp_path)
    example, binary, lock = found.project.root, tmp_path / ".venv" / "bin", tmp_path / "locks" / "run.lock"
    for place in (example, binary, lock.parent):
        place.mkdir(parents=True)
    shutil.copy(TOP / "dev", tmp_path)
    (example / "delivery.py").write_text(PIPELINE)
    (example / "pyproject.toml").write_text('[tool.pipeline]\nengine = "host"\n')
    lock.write_text("")
    (binary / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (binary / "python").chmod(0o755)
    version = "{}.{}.{} {}".format(*sys.version_info[:3], sys.base_prefix)
    stamp = subprocess.run(["cksum"], input="", capture_output=True, text=True, check=True).stdout
    (tmp_path / ".venv" / "lockgate-stamp-run").write_text(f"{version} {stamp}")
    yield found
    anyio.run(down, found.project)


def test_what_a_run_started_is_taken_down_at_its_end(checkout: Checkout) -> None:
    assert "took down 1 process" in checkout("run")
    assert not checkout.serves()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_a_run_started_is_taken_down_when_it_is_interrupted(checkout: Checkout, number: signal.Signals) -> None:
    with checkout.start("run", HANGS="1") as run:
        checkout.wait(run)
        os.killpg(run.pid, number)  # as a terminal does
        output = run.communicate(timeout=60)[0]
    assert run.returncode == 128 + number, output
    assert "took down 1 process" in output
    assert not checkout.serves()


def test_a_service_that_is_kept_stays_until_it_is_taken_down(checkout: Checkout) -> None:
    assert "still running: 1 service; ./dev down takes it down" in checkout("run", "serves", "--keep")
    assert "still running: 1 service" in checkout("run")
    assert checkout.serves()
    assert "took down 1 process" in checkout("down")
    assert not checkout.serves()
    assert "took down 1 process" in checkout("run")  # nobody asked to keep this one


def test_after_a_run_that_is_interrupted_it_is_said_what_was_kept(checkout: Checkout) -> None:
    checkout("run", "--keep")
    with checkout.start("run", HANGS="1") as run:
        until = time.monotonic() + 30
        while "running" not in [stage.state for stage in checkout.last_run()]:
            assert time.monotonic() < until, "no run was started"
            time.sleep(0.02)
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does
        output = run.communicate(timeout=60)[0]
    assert (run.returncode, "still running: 1 service; ./dev down" in output) == (130, True), output


def test_what_an_interrupted_run_left_is_not_taken_for_kept(checkout: Checkout) -> None:
    with checkout.start("run", HANGS="1") as run:
        checkout.wait(run)
        os.killpg(run.pid, signal.SIGKILL)
        run.communicate()
    assert checkout.serves()
    assert "took down 1 process" in checkout("run")
    assert not checkout.serves()


@pytest.mark.skipif(shutil.which("flock") is None, reason="without flock, of util-linux, nobody waits")
def test_who_comes_second_waits_until_the_first_has_prepared_the_environment(checkout: Checkout) -> None:
    lock = checkout.root / ".pipeline" / "prepare.lock"
    stamp = checkout.root / ".venv" / "lockgate-stamp-run"
    prepared = stamp.read_text()
    stamp.unlink()
    lock.parent.mkdir()
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with checkout.start("down") as second:
            assert second.stdout is not None
            assert second.stdout.readline() == "waiting for another ./dev, which prepares .venv\n"
            assert second.poll() is None
            stamp.write_text(prepared)
            fcntl.flock(held, fcntl.LOCK_UN)
            assert second.communicate(timeout=60)[0] == "nothing was running\n"
    assert second.returncode == 0


def test_where_the_environment_is_prepared_nothing_is_written_for_it(checkout: Checkout) -> None:
    (checkout.root / ".pipeline").touch()  # so that no lock can be made there, as where one may not write
    assert checkout("down") == "nothing was running\n"


def test_it_works_where_the_shell_goes_elsewhere_by_names(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / checkout.root.name).mkdir()
    done = subprocess.run(
        ["sh", f"{checkout.root.name}/dev", "down"],
        cwd=checkout.root.parent,
        env={**os.environ, "CDPATH": str(other), "PYTHON": sys.executable, "PYTHONPATH": str(TOP)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "nothing was running\n"), done.stderr


@pytest.mark.long
@pytest.mark.parametrize(
    ("told", "installer"),
    [({}, "uv"), ({"PIP_EXTRA_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}, "pip")],
    ids=["pip is told nothing", "pip is told of an index"],
)
def test_where_uv_is_not_installed_it_comes_first_and_does_the_rest_unless_pip_knows_better(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, told: dict[str, str], installer: str
) -> None:
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX", "PIP_PROXY", "PIP_CERT"):
        monkeypatch.delenv(name, raising=False)
    entries = re.findall(r"^\S+==(?:.*\\\n)+.*\n", (TOP / "locks" / "run.lock").read_text(), re.MULTILINE)
    wanted = [entry for entry in entries if entry.startswith(("uv==", "idna=="))]
    assert len(wanted) == 2
    (checkout.root / "locks" / "run.lock").write_text("".join(wanted))
    shutil.rmtree(checkout.root / ".venv")
    programs = checkout.root / "programs"
    programs.mkdir()
    for name in ("sh", "sed", "grep", "head", "cat", "cksum", "dirname", "rm"):
        (programs / name).symlink_to(shutil.which(name) or name)
    with checkout.start("down", PATH=str(programs), **told) as done:  # which finds nothing of this library in that environment
        output = done.communicate(timeout=120)[0]
    assert "2 packages from locks/run.lock" in output
    installers = {
        place.parent.name.partition("-")[0]: place.read_text().strip()
        for place in (checkout.root / ".venv").glob("lib/*/site-packages/*.dist-info/INSTALLER")
    }
    assert (installers["uv"], installers["idna"]) == ("pip", installer), output
