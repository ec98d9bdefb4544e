"""The peers: what else runs a graph of tasks, in an environment of its own that `./dev bench` makes from locks/peers.lock."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.figure import ROOT
from benchmarks.graph import Graph

BIN = ROOT / ".pipeline" / "peers" / "bin"
PROGRAMS = Path(__file__).parent / "peers"
MISSING = "not measured: .pipeline/peers is made by ./dev bench"

QUIET = {
    "DO_NOT_TRACK": "1",
    "DAGSTER_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
}
"""Nothing is sent to their makers, nor written to a terminal: both would cost them time."""


def here() -> bool:
    return (BIN / "python").exists()


def versions() -> str:
    """Of the peers themselves, as the lock has them."""
    names = re.findall(r"^([a-z]+)\n", (ROOT / "locks" / "peers.in").read_text(), re.MULTILINE)
    lock = (ROOT / "locks" / "peers.lock").read_text()
    return ", ".join(f"{name} {found[1]}" for name in names if (found := re.search(rf"^{name}==(\S+)", lock, re.MULTILINE)))


def lay(place: Path, graph: Graph, *, command: str = "true") -> None:
    """The graph in every peer's own language at `place`, which is made; `command` is what each task of ninja runs."""
    place.mkdir(parents=True)
    (place / "graph.json").write_text(json.dumps(graph))
    (place / "build.ninja").write_text(ninja(graph, command))
    for name in ("dodo.py", "Snakefile"):
        shutil.copy(PROGRAMS / name, place)


def ninja(graph: Graph, command: str) -> str:
    """A build.ninja. What `true` makes is never there, so each task runs each time."""
    rows = [f"build out/{number}: step {' '.join(f'out/{one}' for one in inputs)}" for number, inputs in enumerate(graph)]
    return "\n".join(["rule step", f"  command = {command}", *rows, ""])


def program(name: str, place: Path, *arguments: str) -> dict[str, float]:
    """The seconds that a program of peers/ tells."""
    told: dict[str, float] = json.loads(_run([BIN / "python", "-P", PROGRAMS / f"{name}.py", *arguments], place).splitlines()[-1])
    return told


def seconds(place: Path, *command: str) -> float:
    """Wall time of a peer's own command as a process."""
    started = time.perf_counter()
    _run([BIN / command[0], *command[1:]], place)
    return time.perf_counter() - started


def _run(command: list[str | Path], place: Path) -> str:
    """What the command prints. Whatever it leaves running is ended, and its home directories go away with it."""
    with tempfile.TemporaryDirectory(prefix="lockgate-bench-", ignore_cleanup_errors=True) as home:
        homes = dict.fromkeys(("HOME", "PREFECT_HOME", "DAGSTER_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"), home)
        env = {"PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}", **homes, **QUIET}
        with Path(home, "output").open("w+") as output, Path(home, "errors").open("w+") as errors:  # what is left has no pipe
            process = subprocess.Popen(command, cwd=place, env=env, stdout=output, stderr=errors, start_new_session=True)
            try:
                code = process.wait(timeout=600)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            output.seek(0), errors.seek(0)
            if code:
                sys.stderr.write(errors.read()[-4000:])
                raise subprocess.CalledProcessError(code, command)
            return output.read()
