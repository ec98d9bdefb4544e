"""Python programs in processes of their own that start warm: forked from one that has imported the project already.

Starting an interpreter and importing what it needs takes several times as long as most commands that tests give. From
the first line of the program on nothing differs from a process that was started as usual: arguments, streams, directory,
environment, PYTHONPATH and exit are its own. A test of the start itself (options of the interpreter, closed streams, a
signal at once) starts one as usual.
"""

from __future__ import annotations

import atexit
import functools
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[1]

IMPORTED = (
    *(f"pipeline.cli.{path.stem}" for path in sorted((ROOT / "pipeline" / "cli").glob("*.py")) if path.stem != "live"),
    *("anyio._backends._asyncio", "pipeline.engines.host", "pipeline.remote.sharing", "gates", "tests.pipeline.toys"),
    *("tests.pipeline.test_effects", "tests.stages.delivery.small", "httpx"),
)
"""What most programs of the tests import."""


@dataclass
class Process:
    """A program that was started."""

    pid: int
    _told: IO[bytes]
    _written: IO[bytes]
    returncode: int | None = field(default=None, init=False)
    output: str = field(default="", init=False)
    """What it said, when it has ended."""

    def wait(self) -> int:
        """The exit code, that of `subprocess`, when it has ended."""
        if self.returncode is None:
            with self._told, self._written:
                self.returncode = int(self._told.read())
                self.output = _text(self._written)
        return self.returncode

    def kill(self) -> None:
        """SIGKILL, unless it has been waited for."""
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)


def run(words: Sequence[str], *, cwd: Path, env: Mapping[str, str], merged: bool = False) -> subprocess.CompletedProcess[str]:
    """Run `python WORD...` to its end; its standard error is `merged` into its output, or text of its own."""
    with tempfile.TemporaryFile() as errors:
        process = start(words, cwd=cwd, env=env, errors=None if merged else errors)
        try:
            process.wait()
        except BaseException:  # the test has had its time
            process.kill()
            raise
        return subprocess.CompletedProcess([*words], process.wait(), process.output, _text(errors))


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace").replace("\r\n", "\n")


def start(words: Sequence[str], *, cwd: Path, env: Mapping[str, str], errors: IO[bytes] | None = None) -> Process:
    """Start `python -m MODULE WORD...` or `python -c CODE WORD...`; its standard error goes to `errors` or to its output."""
    output = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the process has ended
    request = json.dumps([list(map(str, words)), str(cwd), dict(env)]).encode()
    read, write = os.pipe()
    with open(os.devnull, "rb") as nothing:
        streams = [nothing.fileno(), output.fileno(), (errors or output).fileno(), write]
        socket.send_fds(_server(), [request], streams)
    os.close(write)
    told = os.fdopen(read, "rb", buffering=0)
    return Process(int(told.read(PID)), told, output)


PID = 12
"""Bytes in which the number of a process is told."""


@functools.cache
def _server() -> socket.socket:
    """The way to the process that has imported everything; it ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.warm", str(theirs.fileno())],
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def serve(connection: socket.socket) -> list[str] | None:
    """Answer requests until nobody can have one any more. In a process that is to run a program: its words."""
    ended, ending = os.pipe()
    os.set_blocking(ending, False)
    signal.set_wakeup_fd(ending, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, int] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        selector.register(ended, selectors.EVENT_READ)
        while True:
            ready = [key.fileobj for key, _ in selector.select()]
            if ended in ready:
                os.read(ended, 1000)
                _tell_ended(running)
            if connection not in ready:
                continue
            message, streams, _, _ = socket.recv_fds(connection, 1 << 20, 4)
            if not message:
                return None
            told = streams.pop()
            child = os.fork()
            if child == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for file in (connection, selector):
                    file.close()
                for other in (ended, ending, told, *running.values()):
                    os.close(other)
                return _started(message, streams)
            os.write(told, b"%*d" % (PID, child))
            running[child] = told
            for stream in streams:
                os.close(stream)


def _tell_ended(running: dict[int, int]) -> None:
    """Tell of each process that has ended with which code, to who started it."""
    for child, told in list(running.items()):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            os.write(told, b"%d" % os.waitstatus_to_exitcode(status))
            os.close(running.pop(child))


def _started(message: bytes, streams: list[int]) -> list[str]:
    """The words of a program, with all that is to surround it in place."""
    words, directory, env = json.loads(message)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    for stream in streams:
        os.close(stream)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(env)
    paths = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [directory if words[0] == "-m" else "", *paths, *(path for path in sys.path[1:] if path != str(ROOT))]
    return list(words)


def _main(number: int) -> None:
    for name in IMPORTED:
        import_module(name)
    gc.freeze()  # what is here stays, and is not to be copied because somebody counts it
    words = serve(socket.socket(fileno=number))
    if words is None:
        return
    option, what, *rest = words
    sys.argv = [option if option == "-c" else what, *rest]
    try:
        if option == "-c":
            exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
        else:
            runpy.run_module(what, run_name="__main__", alter_sys=True)
    except SystemExit as asked:
        if isinstance(asked.code, int):
            _leave(asked.code)
        raise


def _leave(code: int) -> None:
    """End as an interpreter does that has nothing to take apart: what it imported is not this program's."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


if __name__ == "__main__":
    _main(int(sys.argv[1]))
