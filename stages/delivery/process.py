"""Long-lived processes of this machine, found again by a mark in their environment rather than by a remembered number."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import anyio

from pipeline import StageFailed

MARK = "LOCKGATE_PROCESS"


@dataclass(frozen=True, slots=True)
class Process:
    """A running process: its number, the mark it was started with, and its environment."""

    pid: int
    mark: str
    env: Mapping[str, str]


def start(mark: str, argv: tuple[str, ...], env: Mapping[str, str], *, cwd: Path, log: Path) -> int:
    """Start a process that outlives this one; its number. Its output goes to the end of `log`."""
    with log.open("ab") as output:
        try:
            child = subprocess.Popen(
                argv,
                env={**env, MARK: mark},
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise StageFailed(f"{argv[0]} cannot be started: {error.strerror}", right="a program that is there") from error
    return child.pid


def running(prefix: str) -> Iterator[Process]:
    """Processes of this user whose mark begins with `prefix`; of a family only its first."""
    found = {process.pid: process for process in _marked(prefix)}
    for pid, process in sorted(found.items()):
        parent = _parent(pid)
        if parent not in found or found[parent].mark != process.mark:
            yield process


async def stop(process: Process, patience: float = 10.0) -> None:
    """Ask the process group to end; kill it when it has not after `patience` seconds."""
    for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with anyio.move_on_after(seconds):
            while alive(process):
                await anyio.sleep(0.05)
            return


def alive(process: Process) -> bool:
    """Whether that very process still runs (not a zombie, nor another one with its number)."""
    return _mark(process.pid) == process.mark


def _marked(prefix: str) -> Iterator[Process]:
    for name in os.listdir("/proc"):
        if name.isdigit() and (env := _environment(int(name))).get(MARK, "").startswith(prefix) and MARK in env:
            yield Process(int(name), env[MARK], env)


def _mark(pid: int) -> str:
    return _environment(pid).get(MARK, "")


def _environment(pid: int) -> dict[str, str]:
    """The environment a process was started with; empty for one that is gone, a zombie or somebody else's."""
    try:
        text = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (item.split(b"=", 1) for item in text.split(b"\0") if b"=" in item)
    return {os.fsdecode(name): os.fsdecode(value) for name, value in pairs}


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0
