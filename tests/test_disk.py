"""A disk that is full, read-only or broken: what is said, what is left, and that the bench which counts it counts right."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks import disk
from benchmarks.figure import ROOT

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (cc): the disk cannot be made to fail")

FULL, FULL_ONCE, READ_ONLY, BROKEN_ONCE, BROKEN = disk.FAULTS


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return disk.compiled(tmp_path_factory.mktemp("library"))


def write(root: Path) -> None:
    (root / "file").write_bytes(b"x")


def database(root: Path) -> None:
    with closing(sqlite3.connect(root / "db", isolation_level=None)) as db:
        db.execute("pragma journal_mode=wal")
        db.execute("pragma synchronous=full")
        db.execute("create table t (x)")


WRITES: dict[str, Callable[[Path], object]] = {
    "write": write,
    "mkdir": lambda root: (root / "directory").mkdir(),
    "rename": lambda root: (root / "here").rename(root / "there"),
    "link": lambda root: os.link(root / "here", root / "there"),
    "symlink": lambda root: (root / "there").symlink_to("here"),
    "remove": lambda root: (root / "here").unlink(),
    "copy": lambda root: shutil.copyfile(root / "here", root / "there"),
    "sqlite": database,
}


def main() -> None:
    """Do one kind of write again and again, one call later failing each time, and print what it raised."""
    root, kind, error = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    shim = ctypes.CDLL(None)
    for number in range(1, 200):
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        (root / "here").touch()
        shim.disk_arm(str(root).encode(), number, error, 0)
        try:
            WRITES[kind](root)
            print("fine")
        except (OSError, sqlite3.Error) as caught:
            print(getattr(caught, "errno", None) or getattr(caught, "sqlite_errorname", ""))
        calls = shim.disk_count()
        shim.disk_arm(b"/nowhere", 0, 0, 0)
        if calls < number:
            break


@pytest.mark.parametrize("kind", WRITES)
def test_every_call_that_writes_is_seen_and_fails(library: Path, tmp_path: Path, kind: str) -> None:
    env = {**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.test_disk", str(tmp_path / "below"), kind, str(errno.EIO)]
    said = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout.split()
    assert said.count("fine") < len(said)  # at least one failed, and then none was left to fail
    assert said[-1] == "fine"
    if kind == "sqlite":
        assert {"SQLITE_IOERR_WRITE", "SQLITE_IOERR_FSYNC"} <= set(said)
    else:
        assert set(said) == {str(errno.EIO), "fine"}


@pytest.mark.parametrize(("scenario", "step"), [(0, 90), (6, 30)], ids=str)
def test_a_disk_that_fails_is_said_clearly_and_loses_and_repeats_nothing(scenario: int, step: int) -> None:
    calls, found = disk.every(disk.SCENARIOS[scenario], faults=(FULL, BROKEN_ONCE), step=step)
    assert len(found) == 2 * len(range(1, calls + 1, step))
    assert {one.code for one in found} <= {0, 2}
    assert 2 in {one.code for one in found}
    for what in ("unclear", "lost", "wrong", "twice", "unreadable"):
        assert [said for one in found for said in getattr(one, what)] == []


@pytest.mark.parametrize(
    ("code", "said", "why"),
    [
        (0, "", []),
        (2, "error: /there: the disk is full\n  next: df -h", []),
        (2, "error: /there: something\n  next: df -h", ["what was wrong"]),
        (2, "error: /there: the disk is full", ["what next"]),
        (1, "Traceback", ["a trace", "exit code 1"]),
        (None, "", ["it hung", "exit code None"]),
    ],
)
def test_what_is_not_said_clearly_does_not_pass(code: int | None, said: str, why: list[str]) -> None:
    assert list(disk.unclear(disk.Said(code, "", said, 0))) == why


def test_what_was_lost_or_done_twice_or_is_wrong_does_not_pass(library: Path, tmp_path: Path) -> None:
    scenario = disk.SCENARIOS[0]
    with disk.opened(library, tmp_path.resolve() / "bench") as bench:
        bench.prepare(scenario)
        delivery = bench.prepared / "delivery.py"
        delivery.write_text(delivery.read_text().replace("did(work.name)\n", "did(work.name), did(work.name)\n"))
        bench.results["spelt"] = "0" * 64
        found = bench.tried(scenario, BROKEN, 0)
        assert (found.code, len(found.lost), len(found.wrong), len(found.twice)) == (0, 0, 1, 3)
        told = '{"seq": 1, "kind": "run.started", "stage": ""}\n{"seq": 999, "kind": "stage.finished", "stage": "sends"}\n'
        assert list(bench.lost(disk.Said(0, told, "", 0))) == ["999 stage.finished sends", "run.finished"]


if __name__ == "__main__":
    main()
