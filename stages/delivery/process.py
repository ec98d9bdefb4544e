"""Long-lived processes of this machine, found again by a mark in their environment rather than by a remembered number."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from pipeline import StageFailed

MARK = "LOCKGATE_PROCESS"

LOOKS = 100
"""Milliseconds after which a process that shows no environment is taken to have none."""

SHOWN = 5.0
"""Seconds in which one that was started has to show its environment."""


@dataclass(frozen=True)
class Process:
    """A running process: its number, the mark it was started with, and its environment."""

    pid: int
    mark: str
    env: Mapping[str, str]


async def start(mark: str, argv: tuple[str, ...], env: Mapping[str, str], *, cwd: Path, log: Path) -> int:
    """Start a process that outlives this one; its number. Its output goes to the end of `log`.

    Raises StageFailed where it cannot be started, or could not be found again.
    """
    await checkpoint_if_cancelled()
    pid = _detached(argv, {**env, MARK: mark}, cwd, log)
    with anyio.move_on_after(SHOWN, shield=True):  # who is cancelled now would not know its number
        while not _items(pid) and _stat(pid):  # the kernel shows it a moment after the program was loaded
            await anyio.sleep(0.001)
        return pid
    raise await _hidden(pid, argv[0])


def _detached(argv: tuple[str, ...], env: Mapping[str, str], cwd: Path, log: Path) -> int:
    with log.open("ab") as output:
        try:
            child = subprocess.Popen(
                argv, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as error:
            raise StageFailed(f"{argv[0]} cannot be started: {error.strerror}", right="a program that is there") from error
    child.returncode = 0  # nobody here waits for it, and Popen need not warn of that
    return child.pid


async def _hidden(pid: int, program: str) -> StageFailed:
    """End what shows no environment with its family, where that is allowed, and say so."""
    left = ""
    try:
        os.kill(pid, signal.SIGKILL)
    except PermissionError:
        left = f"; process {pid} goes on, with rights of its own"
    with contextlib.suppress(PermissionError, ProcessLookupError):  # one of the family that has them too, or there is none
        os.killpg(pid, signal.SIGKILL)
    if not left:
        await ended(pid)
        _reap(pid)
    return StageFailed(
        f"{program} does not show its environment to who started it, and could not be found again{left}",
        right="a program that may be read, and has no rights of its own (set-user-ID bit, file capabilities)",
    )


def running(prefix: str) -> Iterator[Process]:
    """Processes of this user whose mark begins with `prefix`; of a family only its first."""
    found = {process.pid: process for process in _marked(prefix)}
    for pid, process in sorted(found.items()):
        parent = _parent(pid)
        if parent not in found or found[parent].mark != process.mark:
            yield process


async def ended(pid: int) -> int:
    """The exit code of a process that this one started, once it has ended; its number is kept until `stop`."""
    while (code := _exit_code(pid)) is None:
        await anyio.sleep(0.02)
    return code


async def stop(process: Process, patience: float = 10.0) -> None:
    """Ask the process and its family to end; kill those that have not after `patience` seconds."""
    _signal(process, signal.SIGTERM)
    with anyio.move_on_after(patience):
        while alive(process):
            await anyio.sleep(0.05)
    with anyio.fail_after(10):
        while alive(process):
            _signal(process, signal.SIGKILL)
            await anyio.sleep(0.05)
    _reap(process.pid)


def program(process: Process) -> str:
    """The name of the file it executes; empty where it has ended, or that is not to be known."""
    try:
        return os.path.basename(os.readlink(f"/proc/{process.pid}/exe")).removesuffix(" (deleted)")
    except OSError:
        return ""


def alive(process: Process) -> bool:
    """Whether anything of that very family still runs (not a zombie, nor another process with its number)."""
    return any(True for _ in _family(process))


def listens(process: Process, port: int) -> bool:
    """Whether it is this family that listens on the TCP port, and not somebody else who was quicker."""
    sockets = {f"socket:[{inode}]" for inode in _listeners(port)}
    return any(not sockets.isdisjoint(_files(pid)) for pid in _family(process))


def connections(processes: Iterable[Process], places: Iterable[str]) -> int:
    """How many connections the families have to places, each an IPv4 address and a port (`127.0.0.1:8080`)."""
    sockets = {f"socket:[{inode}]" for inode in _established(set(map(_written, places)))}
    return sum(len(sockets & _files(pid)) for one in processes for pid in _family(one)) if sockets else 0


def _written(place: str) -> str:
    """As `/proc/net/tcp` writes it."""
    host, _, port = place.rpartition(":")
    return f"{int.from_bytes(socket.inet_aton(host), sys.byteorder):08X}:{int(port):04X}"


def _signal(process: Process, number: signal.Signals) -> None:
    for pid in list(_family(process)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _exit_code(pid: int) -> int | None:
    """How a process that this one started ended: its code, or minus the signal it died of; None while it runs."""
    found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if found is None:
        return None
    return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status


def _reap(pid: int) -> None:
    """Take leave of a process that this one started, so that no zombie stays; nothing to do for any other."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _family(process: Process) -> Iterator[int]:
    """Who has the mark, and who is in the session of the first of them: programs that write their title over their
    environment, as PostgreSQL does, have no mark."""
    mark, session = _item(process.mark), str(process.pid)
    first = mark in _shown(process.pid) or _unreaped(process.pid)
    for pid in sorted(_pids(), key=process.pid.__ne__):  # it first: who asks whether anybody is there need not look further
        if mark in _items(pid, mark) or (first and _stat(pid)[3:4] == [session]):
            yield pid


def _unreaped(pid: int) -> bool:
    """Whether it is a zombie that this process has not taken leave of: nobody else can have its number yet."""
    fields = _fields(pid)
    return fields[:1] == ["Z"] and fields[1] == str(os.getpid())


def _marked(prefix: str) -> Iterator[Process]:
    begin = _item(prefix)
    for pid in _pids():
        items = _items(pid, begin)
        if any(item.startswith(begin) for item in items):
            env = _environment(items)
            yield Process(pid, env[MARK], env)


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _items(pid: int, part: bytes = b"") -> list[bytes]:
    """The environment a process was started with (`NAME=VALUE`), if `part` is anywhere in it; empty for one that is gone, a
    zombie or somebody else's."""
    text = _told(pid, "environ")
    return [item for item in text.split(b"\0") if b"=" in item] if part in text else []


def _told(pid: int, what: str) -> bytes:
    """What the system tells of a process (proc(5), /proc/PID/WHAT); empty for one that is gone, or somebody else's.

    Whoever looks for a process asks this of all: a Path, a buffer and a decoder would take several times as long as the system.
    """
    try:
        with open(f"/proc/{pid}/{what}", "rb", buffering=0) as file:
            return file.read()
    except OSError:
        return b""


def _shown(pid: int) -> list[bytes]:
    """As `_items`, of a process that may just be becoming another program: for that moment the kernel shows nothing."""
    for _ in range(LOOKS):
        if (items := _items(pid)) or not _stat(pid):
            return items
        time.sleep(0.001)
    return []


def _item(mark: str) -> bytes:
    return os.fsencode(f"{MARK}={mark}")


def _environment(items: list[bytes]) -> dict[str, str]:
    pairs = (item.split(b"=", 1) for item in items)
    return {os.fsdecode(name): os.fsdecode(value) for name, value in pairs}


def _parent(pid: int) -> int:
    return int("".join(_stat(pid)[1:2]) or 0)


def _stat(pid: int) -> list[str]:
    """State, parent, group, session and more of a process; empty for one that is gone or a zombie."""
    fields = _fields(pid)
    return [] if fields[:1] in (["Z"], ["X"]) else fields


def _fields(pid: int) -> list[str]:
    """What the system tells of a process, from its state on; empty for one that is gone."""
    return _told(pid, "stat").rpartition(b")")[2].decode().split()  # its name may be any bytes


def _listeners(port: int) -> Iterator[str]:
    """Inodes of the sockets that listen on a port (proc(5), /proc/net/tcp: local address, state 0A, inode).

    They come first (kernel documentation, networking/proc_net_tcp), and what is behind them is not read: a busy machine has tens
    of thousands of connections.
    """
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), open(f"/proc/net/{table}") as sockets:
            next(sockets)
            for column in itertools.takewhile(lambda column: column[3] == "0A", map(str.split, sockets)):
                if column[1].endswith(f":{port:04X}"):
                    yield column[9]


def _established(there: Collection[str]) -> Iterator[str]:
    """Inodes of the connections to addresses, as `/proc/net/tcp` writes them (proc(5): remote address, state 01, inode)."""
    with contextlib.suppress(OSError), open("/proc/net/tcp") as sockets:
        for column in map(str.split, sockets):
            if column[2] in there and column[3] == "01":
                yield column[9]


def _files(pid: int) -> set[str]:
    """What the open files of a process are."""
    found = set()
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found
