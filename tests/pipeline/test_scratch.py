"""Directories of actions: gone in the end, also when their process was killed, and never while it lives."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

import pytest

from pipeline.scratch import FRESH, LOCK, PREFIX, YOUNG, Scratch, held_file, sweep

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def own_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def left_behind() -> Path:
    """A directory with read-only content whose owner was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        path = Scratch().path
        (path / "root" / "d").mkdir(parents=True)
        (path / "root" / "d" / "f").write_text("x")
        (path / "root" / "d").chmod(0o555)
        os.write(writing, str(path).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        return Path(pipe.read())


def test_a_directory_is_gone_after_its_use(own_tmp: Path) -> None:
    with Scratch() as scratch:
        (scratch.path / "f").write_text("x")
    assert list(own_tmp.iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_holds_is_not(own_tmp: Path) -> None:
    left = left_behind()
    assert left.exists()
    with Scratch() as held:
        sweep()
        assert list(own_tmp.iterdir()) == [held.path]


def test_a_directory_that_is_only_just_being_made_is_left_alone(own_tmp: Path) -> None:
    fresh = own_tmp / f"{PREFIX}fresh"
    fresh.mkdir()
    sweep()
    assert fresh.exists()


def test_a_file_is_left_alone_as_long_as_it_is_open(own_tmp: Path) -> None:
    path, file = held_file(own_tmp, PREFIX)
    with file:
        sweep()
        assert list(own_tmp.iterdir()) == [path]
    sweep()
    assert list(own_tmp.iterdir()) == []


def test_a_file_that_is_swept_away_before_it_is_locked_is_made_again(own_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = fcntl.flock

    def swept_first(file: IO[bytes], how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        sweep()
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", swept_first)
    path, file = held_file(own_tmp, PREFIX)
    with file:
        assert list(own_tmp.iterdir()) == [path]


def test_other_directories_links_and_those_of_others_are_left_alone(own_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left, elsewhere = left_behind(), own_tmp / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / LOCK).write_text("")
    (own_tmp / f"{PREFIX}link").symlink_to(elsewhere)
    (own_tmp / "lockgate-0-name").mkdir()
    monkeypatch.setattr(os, "getuid", lambda: left.stat().st_uid + 1)
    sweep()
    assert left.exists()
    monkeypatch.undo()
    monkeypatch.setattr(tempfile, "tempdir", str(own_tmp))
    sweep()
    assert {path.name for path in own_tmp.iterdir()} == {"elsewhere", f"{PREFIX}link", "lockgate-0-name"}
    assert (elsewhere / LOCK).exists()


def test_a_sweep_that_was_killed_is_taken_up_by_the_next(own_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = left_behind()

    def killed(path: Path, **_: object) -> None:
        if path == left:  # what is in it was next to last
            raise PermissionError

    with monkeypatch.context() as stopped:
        stopped.setattr("shutil.rmtree", killed)
        sweep()
    assert (left / LOCK).exists()
    sweep()
    assert list(own_tmp.iterdir()) == []


ORDINARY = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(24, 1); ctypes.CDLL(None).prctl(24, 2)  # CAPBSET_DROP of DAC_OVERRIDE and DAC_READ_SEARCH
os.execv(sys.executable, [sys.executable, "-c", *sys.argv[1:]])
"""
"""Runs a program for which, as root too, modes hold."""

LEAVES = """
import sys
from pathlib import Path
from pipeline.scratch import Scratch
with Scratch() as scratch:
    closed = scratch.path / "root" / "closed"
    (closed / "below").mkdir(parents=True)
    (closed / "below" / "outside").symlink_to(sys.argv[1])
    (closed / "below" / "directory").symlink_to(Path(sys.argv[1]).parent)
    (closed / "below" / "nowhere").symlink_to("/nowhere")
    (closed / "below" / "file").write_text("x")
    (closed / "below").chmod(int(sys.argv[2], 8))
    closed.chmod(int(sys.argv[2], 8))
"""


@pytest.mark.parametrize("mode", ["0555", "0311", "0000"])
def test_what_was_closed_is_removed_and_what_links_point_to_is_not_touched(tmp_path: Path, own_tmp: Path, mode: str) -> None:
    outside = tmp_path / "elsewhere" / "file"
    outside.parent.mkdir(mode=0o755)
    outside.write_text("x")
    outside.chmod(0o644)
    env = {**os.environ, "TMPDIR": str(own_tmp), "PYTHONPATH": str(ROOT)}
    program = [sys.executable, "-c", ORDINARY, LEAVES, str(outside), mode]
    done = subprocess.run(program, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(own_tmp.iterdir()) == [outside.parent]
    assert [path.stat().st_mode & 0o777 for path in (outside, outside.parent)] == [0o644, 0o755]


def make_and_sweep(place: str, rounds: int) -> None:
    tempfile.tempdir = place
    for _ in range(rounds):
        with Scratch() as scratch:
            sweep()
            with (scratch.path / LOCK).open() as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                raise AssertionError("its lock was free")


def test_many_that_make_and_sweep_at_once_never_take_each_others(own_tmp: Path) -> None:
    for _ in range(3):
        left_behind()
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=make_and_sweep, args=(str(own_tmp), 50)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert list(own_tmp.iterdir()) == []


@pytest.mark.parametrize("begun", [(), (FRESH,)])
def test_what_was_left_before_it_could_be_locked_goes_once_it_is_old(own_tmp: Path, begun: tuple[str, ...]) -> None:
    left = own_tmp / f"{PREFIX}left"
    left.mkdir()
    for name in begun:
        (left / name).touch()
    sweep()
    assert left.exists()  # its maker may be at it
    os.utime(left, (0, time.time() - YOUNG - 1))
    sweep()
    assert not left.exists()


def test_an_old_directory_without_a_lock_that_holds_something_is_nobody_s_to_remove(own_tmp: Path) -> None:
    mine = own_tmp / f"{PREFIX}mine"
    mine.mkdir()
    (mine / "notes").touch()
    os.utime(mine, (0, 0))
    sweep()
    assert (mine / "notes").exists()


def test_a_directory_that_cannot_be_locked_does_not_stay(own_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.scratch.FRESH", "no/such/place")
    with pytest.raises(FileNotFoundError):
        Scratch()
    assert list(own_tmp.iterdir()) == []
