"""`python -m benchmarks.command`: command lines of Lockgate, each in a fork of this process, which has imported everything.

Orders come on standard input, one JSON object a line; what came of each goes to standard output, likewise. With
`faulty_disk.c` preloaded, the disk fails below the directory `below` as the order says.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import runpy
import signal
import sys
import time
from pathlib import Path
from typing import Any

from pipeline import snapshot
from pipeline.engines.host import best_level

AHEAD = (
    "anyio._backends._asyncio",
    "pipeline.cli.cache",
    "pipeline.cli.resume",
    "pipeline.cli.runs",
    "pipeline.engines.host",
    "pipeline.pruning",
    "pipeline.repository",
    "pipeline.run",
    "stages.source",
)
"""What commands import when they come to it."""

PATIENCE = 100.0
"""Seconds after which a command has hung: longer than anybody waits for a lock."""


def main() -> None:
    for name in AHEAD:
        importlib.import_module(name)
    best_level()
    snapshot.YOUNG = 0  # the files of a case are seconds old, and the index of the working copy is to be written too
    disk = ctypes.CDLL(None)
    for line in sys.stdin:
        order = json.loads(line)
        if "below" in order:
            disk.disk_arm(order["below"].encode(), order["number"], order["error"], order["stays"])
        child = os.fork()
        if child == 0:
            become(order)
        code = ended(child)
        calls = disk.disk_count() if "below" in order else 0
        print(json.dumps({"code": code, "calls": calls}), flush=True)


def become(order: dict[str, Any]) -> None:
    """Be `python -m pipeline`, whose words are seen in files."""
    for number, name in ((0, os.devnull), (1, order["out"]), (2, order["err"])):
        file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    os.chdir(order["root"])
    sys.stdin = open(0)  # noqa: SIM115 - as long as the process
    sys.argv = ["pipeline", *order["words"]]
    runpy.run_module("pipeline", run_name="__main__", alter_sys=True)


def ended(child: int) -> int | None:
    """The exit code, negative for a signal; None where the command hung."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
