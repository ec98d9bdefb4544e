"""A Dagger engine for the tests alone, where the program is installed and nothing answers already."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import psutil
import pytest

from pipeline.engines.choose import answers
from tests import memory

PROGRAM = "dagger-engine"
HOMES = "lockgate-dagger-"
"""How the names of directories of engines begin."""
STARTS, ENDS = 60.0, 60.0
"""Seconds an engine has to listen, and to end."""

ALONE = (
    "unshare", "--mount", "--propagation", "slave",
    "sh", "-c", 'mkdir -p /run/dagger && mount -t tmpfs tmpfs /run/dagger && exec "$@"', "engine",
)  # fmt: skip
"""How an engine is started that nobody finds by its default address, and whose mounts end with it."""

ROOM = 6 << 30
"""Bytes of memory in which the data of an engine lies, if there are so many: every test would wait for the disk."""


@contextmanager
def an_engine(found: Callable[[Mapping[str, str]], str | None], place: Path) -> Iterator[str]:
    """The address of an engine that is started, or nothing where `found` tells of one; skips where there can be none.

    It is one for all processes that name the same directory `place`: the first starts it, the last one ends it.
    """
    if found(os.environ) is not None:
        yield ""
        return
    program = shutil.which(PROGRAM)
    if program is None:
        pytest.skip(f"no Dagger engine can be reached, and no {PROGRAM} is on PATH to start one")
    if os.getuid() != 0:
        pytest.skip(f"no Dagger engine can be reached, and {PROGRAM} needs root to start one")
    with _users(place).open("a") as users:
        with _turn(place):
            _sweep()
            fcntl.flock(users, fcntl.LOCK_SH)
            mine = _mine(place)
            home = Path(mine["home"]) if mine else _started(program, place)
        try:
            yield _address(home)
        finally:
            with _turn(place):
                if _is_last(users) and (mine := _mine(place)):
                    _end(mine)


@contextmanager
def _turn(place: Path) -> Iterator[None]:
    """Nobody else starts or ends the engine meanwhile."""
    with (place / "engine.turn").open("a") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        yield


def _is_last(users: TextIO) -> bool:
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _address(home: Path) -> str:
    return f"unix://{home}/engine.sock"


def _engines() -> Iterator[dict[str, Any]]:
    """What is known of each engine that tests have started: its directory and number, and the file that its users hold."""
    for directory in {memory.PLACE, Path(tempfile.gettempdir())}:
        for about in directory.glob(f"{HOMES}*/engine.json"):
            with contextlib.suppress(FileNotFoundError):  # another session has just ended it
                yield json.loads(about.read_text())


def _mine(place: Path) -> dict[str, Any] | None:
    return next((about for about in _engines() if about["users"] == str(_users(place))), None)


def _users(place: Path) -> Path:
    return place / "engine.users"


def _started(program: str, place: Path) -> Path:
    """The directory of an engine that answers."""
    home = Path(tempfile.mkdtemp(prefix=HOMES, dir=memory.roomy(ROOM)))  # not a test's own: a socket's path has to be short
    with (home / "log").open("wb") as log:
        command = [*ALONE, program, "--addr", _address(home), "--root", str(home / "root")]
        engine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    fresh = home / "engine.json.unfinished"
    fresh.write_text(json.dumps({"home": str(home), "pid": engine.pid, "users": str(_users(place))}))
    fresh.replace(home / "engine.json")  # another session may look at any time
    until = time.monotonic() + STARTS
    while not answers(home / "engine.sock"):
        if engine.poll() is not None or time.monotonic() > until:
            said = (home / "log").read_text(errors="replace")[-300:]
            _end({"home": str(home), "pid": engine.pid})
            pytest.skip(f"{PROGRAM} did not start: {said}")
        time.sleep(0.1)
    engine.returncode = 0  # who ends it need not be this process
    return home


def _sweep() -> None:
    """End the engines of sessions that were killed: nobody holds their file of users any more."""
    for about in list(_engines()):
        users = Path(about["users"])
        if not users.exists():
            _end(about)
            continue
        with users.open("a") as file:
            if _is_last(file):
                _end(about)


def _end(about: dict[str, Any]) -> None:
    """End the engine, and remove its data."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not _is_engine(about):  # by now the number may be somebody else's
            break
        with contextlib.suppress(ProcessLookupError):
            os.kill(about["pid"], number)
        if _gone(about["pid"]):
            break
    shutil.rmtree(about["home"])


def _is_engine(about: dict[str, Any]) -> bool:
    try:
        return about["home"] in " ".join(psutil.Process(about["pid"]).cmdline())
    except psutil.Error:
        return False


def _gone(pid: int) -> bool:
    """Whether it ends in time; one that nobody has taken leave of has ended too."""
    until = time.monotonic() + ENDS
    while time.monotonic() < until:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False
