"""The remote cache as the command line shows it; and that a project without one pays nothing for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from pipeline import Journal
from pipeline.engines.local import free_port
from tests import warm
from tests.pipeline.remote.servers import LOCKED, adversary, needs_nginx, nginx
from tests.signals import heard
from tests.stages.registries import USER, WORD

ROOT = Path(__file__).parents[3]

PIPELINE = """
from pipeline import Pipeline
from tests.pipeline.toys import Constant, Half, Sum
number = Constant(value=14)
half = Half(of=number)
pipeline = Pipeline("thing", number=number, half=half, total=Sum(parts=(half,), plus=1))
"""


def project(root: Path, settings: str) -> Path:
    root.mkdir()
    (root / "pyproject.toml").write_text(f"[tool.pipeline]\nengine = 'host'\n{settings}")
    (root / "delivery.py").write_text(PIPELINE)
    return root


def lockgate(root: Path, *words: str, options: tuple[str, ...] = (), login: dict[str, str] | None = None) -> tuple[int, str]:
    """Exit code and all that was said."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **(login or {})}
    if not options:
        warmed = warm.run(["-m", "pipeline", *words], cwd=root, env=env, merged=True)
        return warmed.returncode, warmed.stdout
    command = [sys.executable, *options, "-m", "pipeline", *words]
    done = subprocess.run(command, cwd=root, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.returncode, done.stdout


@needs_nginx
def test_two_projects_share_and_the_second_one_says_where_its_results_are_from(tmp_path: Path) -> None:
    with nginx(tmp_path / "nginx", LOCKED) as server:
        settings = f"remote_cache = '{server.address}'\nremote_cache_write = true\n"
        login = {"PIPELINE_REMOTE_CACHE_USER": USER, "PIPELINE_REMOTE_CACHE_PASSWORD": WORD}
        first, second = project(tmp_path / "a", settings), project(tmp_path / "b", settings)
        code, said = lockgate(first, "run", login=login)
        assert (code, "3 passed" in said, "remote cache" in said) == (0, True, False), said
        code, said = lockgate(second, "run", login=login)
        assert (code, "3 cached" in said) == (0, True), said
        assert "total: 8 (cached: made elsewhere in run " in said
        assert f", from {server.address})" in said
        assert lockgate(second, "logs", "total")[0] == 0
        assert lockgate(second, "report", login=login)[0] == 0
        journal = b"".join(path.read_bytes() for path in second.rglob("journal.db*"))
        assert WORD.encode() not in journal


def test_a_server_that_is_not_there_is_told_in_one_line_and_what_was_not_sent_in_another(tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    root = project(tmp_path / "a", f"remote_cache = '{address}'\nremote_cache_write = true\n")
    code, said = lockgate(root, "run")
    assert (code, "3 passed" in said) == (0, True), said
    (off,) = [line for line in said.splitlines() if "off for" in line]
    assert off.startswith(f"! remote cache {address} off for reading and writing: 3 failures in a row, the last one: no conn")
    (unsent,) = [line for line in said.splitlines() if "was not sent" in line]
    assert unsent.startswith(f"! remote cache {address} was not sent half, number, total: ")


def test_a_setting_that_cannot_be_used_is_refused_before_anything_runs(tmp_path: Path) -> None:
    root = project(tmp_path / "a", "remote_cache = 'https://me:open-sesame@cache/'\n")
    code, said = lockgate(root, "run")
    assert (code, "credentials" in said, "sesame" in said) == (2, True, False), said
    assert not list(root.rglob("journal.db"))


def test_an_interrupt_while_the_run_waits_for_what_is_being_sent_ends_the_wait_and_changes_nothing_else(tmp_path: Path) -> None:
    with adversary(lambda server, request: request.command != "GET" and server.stopped.wait(60)) as server:
        root = project(tmp_path / "a", f"remote_cache = '{server.address}'\nremote_cache_write = true\n")
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "pipeline", "run"]
        run = subprocess.Popen(command, cwd=root, env=env, stdout=subprocess.PIPE, text=True, preexec_fn=heard)  # noqa: PLW1509 - it only sets signals
        until = time.monotonic() + 60
        while len(server.asked) < 5 or not finished(root, "total"):
            assert time.monotonic() < until
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        said, _ = run.communicate(timeout=60)
    assert (run.returncode, "3 passed" in said, "was not sent" in said) == (0, True, False), said


def finished(root: Path, stage: str) -> bool:
    """Whether the stage's end is in the journal."""
    with closing(Journal(root / ".pipeline" / "journal.db")) as journal:
        return journal.latest(stage, ("stage.finished",)) is not None


def test_plan_asks_no_server(tmp_path: Path) -> None:
    root = project(tmp_path / "a", "remote_cache = 'http://127.0.0.1:1'\n")
    code, said = lockgate(root, "plan", options=("-X", "importtime"))
    assert (code, "httpx" in said, "pipeline.remote" in said) == (0, False, False), said


def test_a_run_without_a_remote_cache_imports_nothing_of_it(tmp_path: Path) -> None:
    code, said = lockgate(project(tmp_path / "a", ""), "run", options=("-X", "importtime"))
    assert (code, "httpx" in said, "pipeline.remote" in said, "cryptography" in said) == (0, False, False, False)
