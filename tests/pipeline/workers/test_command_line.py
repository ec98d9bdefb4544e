"""`run --workers` as the command line shows it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from pipeline import Journal
from tests.pipeline.remote.servers import Nginx, needs_nginx
from tests.pipeline.workers.clusters import LOGIN, ROOT, Cluster, cluster, eventually, left_running
from tests.signals import heard

PIPELINE = """
from pipeline import Pipeline
from tests.pipeline.workers.toys import Makes, Weighs
makes = Makes(mark={mark!r}, until={until!r})
pipeline = Pipeline("thing", makes=makes, weighs=Weighs(of=makes))
"""


def project(root: Path, settings: str, *, mark: str = "/dev/null", until: str = "/dev/null") -> Path:
    root.mkdir()
    (root / "pyproject.toml").write_text(f"[tool.pipeline]\nengine = 'host'\n{settings}")
    (root / "delivery.py").write_text(PIPELINE.format(mark=mark, until=until))
    return root


def started(root: Path, *words: str) -> subprocess.Popen[str]:
    env = {**os.environ, **LOGIN, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pipeline", "run", *words]
    return subprocess.Popen(
        command,
        cwd=root,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=heard,  # noqa: PLW1509 - it only sets signals
    )


def writing(cluster: Cluster) -> str:
    return f"remote_cache = '{cluster.cache}'\nremote_cache_write = true\n"


@needs_nginx
def test_a_run_says_on_which_cluster_it_is_and_shares_its_results_as_ever(shared_cluster: Cluster, tmp_path: Path) -> None:
    shared_cluster.have(1)
    settings = writing(shared_cluster)
    run = started(project(tmp_path / "a", settings), "--workers", shared_cluster.address)
    said, _ = run.communicate(timeout=60)
    assert (run.returncode, "2 passed" in said) == (0, True), said
    (told,) = [line for line in said.splitlines() if "cluster" in line]
    assert told.startswith(f"  cluster {shared_cluster.address}: ")
    assert "distributed" not in said
    run = started(project(tmp_path / "b", settings), "--workers", "tcp://127.0.0.1:1", "--dry-run")
    said, _ = run.communicate(timeout=60)
    assert (run.returncode, "cluster" in said) == (0, False), said


@needs_nginx
@pytest.mark.usefixtures("dagger_engine")
def test_actions_are_executed_in_containers_of_the_workers_engines(cache: Nginx, tmp_path: Path) -> None:
    with cluster(tmp_path / "cluster", cache.address) as own:  # whose workers are told where the engine is
        own.have(2)
        root = project(tmp_path / "a", writing(own))
        run = started(root, "--workers", own.address, "--engine", "dagger")
        said, _ = run.communicate(timeout=120)
        assert (run.returncode, "2 passed" in said) == (0, True), said
        with closing(Journal(root / ".pipeline" / "journal.db")) as journal:
            workers = [event.data.get("worker", "") for event in journal.events(kind="action.finished")]
        assert (len(workers), all(worker.startswith("tcp://") for worker in workers)) == (2, True)
        again = started(project(tmp_path / "b", writing(own)), "--engine", "dagger")  # without workers it has the same results
        said, _ = again.communicate(timeout=120)
        assert (again.returncode, "2 cached" in said) == (0, True), said


@needs_nginx
def test_a_run_that_is_interrupted_leaves_no_process_on_a_worker(shared_cluster: Cluster, tmp_path: Path) -> None:
    shared_cluster.have(1)
    begun = tmp_path / "begun"
    root = project(tmp_path / "a", writing(shared_cluster), mark=str(begun), until=str(tmp_path / "never"))
    run = started(root, "--workers", shared_cluster.address)
    eventually(begun.exists, "the action does not begin")
    assert left_running(begun)
    run.send_signal(signal.SIGINT)
    said, _ = run.communicate(timeout=60)
    assert (run.returncode, "1 interrupted" in said, "Traceback" in said) == (130, True, False), said
    eventually(lambda: not left_running(begun), "the worker goes on")


@needs_nginx
def test_a_coordinator_that_is_killed_leaves_no_process_on_a_worker(shared_cluster: Cluster, tmp_path: Path) -> None:
    shared_cluster.have(1)
    begun = tmp_path / "begun"
    root = project(tmp_path / "a", writing(shared_cluster), mark=str(begun), until=str(tmp_path / "never"))
    run = started(root, "--workers", shared_cluster.address)
    eventually(begun.exists, "the action does not begin")
    run.kill()
    run.communicate()
    eventually(lambda: not left_running(begun), "the worker goes on")


@pytest.mark.parametrize(
    ("settings", "address", "says"),
    [
        ("", "tcp://127.0.0.1:8786", "this project may not write to one"),
        ("remote_cache = 'http://127.0.0.1:1'\n", "tcp://127.0.0.1:8786", "this project may not write to one"),
        ("remote_cache = 'http://127.0.0.1:1'\nremote_cache_write = true\n", "127.0.0.1", "is no address of a Dask scheduler"),
    ],
)
def test_what_workers_cannot_be_had_with_is_refused_before_anything_runs(
    settings: str, address: str, says: str, tmp_path: Path
) -> None:
    root = project(tmp_path / "a", settings)
    run = started(root, "--workers", address)
    said, _ = run.communicate(timeout=60)
    assert (run.returncode, says in said, "expected: " in said) == (2, True, True), said
    assert not list(root.rglob("journal.db"))
