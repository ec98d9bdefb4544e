"""What it costs to have a stage run at all: stages that return a number, in layers, each taking up to three of the layer before.

Lockgate's is the time of a whole run with its store and its journal on the disk, divided by its stages: each result is kept
under its key, each event is durable. Of the peers only Prefect keeps a record of its tasks, in the server and the SQLite
database that it starts by itself; doit, Snakemake and ninja keep what they need to do nothing next time; Dask and Dagster (with
an ephemeral instance) keep nothing. All run in one process but Prefect's server and ninja, which starts `true` for each task;
interpreter, imports and Prefect's server have been started before the clock is. A pipeline is built and planned before it runs;
of that the detail tells, and so it does for the peers that tell the two apart.

An interpreter that was compiled without profile-guided optimization, as pyenv does unless it is told otherwise, takes about a
tenth longer for Lockgate and twice as long for doit: `PYTHON=/usr/bin/python3 ./dev bench scheduling` chooses a distribution's.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import peer, project
from benchmarks.figure import ROOT, Figure, python
from benchmarks.graph import Graph, layered

PATIENCE = 60.0
"""Seconds after which the largest run is given up: its figure does not hold."""

QUICK, SLOW = 3, 1
"""How often a peer is measured."""

PEERS: dict[str, tuple[int, float | None, Callable[[Path], dict[str, float]]]] = {
    "Prefect": (SLOW, 10.0, lambda place: peer.program("with_prefect", place, "graph.json")),
    "Dagster": (SLOW, 10.0, lambda place: peer.program("with_dagster", place, "graph.json")),
    "Dask, threads": (QUICK, 1.0, lambda place: peer.program("with_dask", place, "graph.json", "threads")),
    "Dask, synchronous": (QUICK, 1.0, lambda place: peer.program("with_dask", place, "graph.json", "synchronous")),
    "Snakemake": (SLOW, None, lambda place: peer.program("with_snakemake", place)),
    "doit": (QUICK, None, lambda place: peer.program("with_doit", place)),
    "ninja, a process that runs `true` for each task": (QUICK, None, lambda place: {"run": peer.seconds(place, "ninja")}),
}
"""How often it is measured, how many times quicker Lockgate has to be, and how it runs the graph that was laid at a place."""


def measure(*, small: int = 100, count: int = 10_000, large: int = 100_000, common: int = 1_000) -> Iterator[Figure]:
    """`common` stages are compared with the peers."""
    yield from sizes(small, count, large)
    yield from compared(layered(common))


def sizes(small: int, count: int, large: int) -> Iterator[Figure]:
    runs = [ours(layered(count))]
    if runs[0]["run"] < PATIENCE / 10:
        runs += [ours(layered(count)) for _ in range(QUICK - 1)]
    each = statistics.median(one["run"] for one in runs) / count
    yield Figure(f"overhead of a stage, {count:,} stages", 1e6 * each, "us", 100, detail=told(runs[0]))
    few, alone = ours(layered(small)), min(ours(layered(1))["run"] for _ in range(QUICK))
    detail = f"{told(few)}; a run of one stage takes {1e3 * alone:.1f} ms"
    yield Figure(f"overhead of a stage, {small:,} stages", 1e6 * few["run"] / small, "us", detail=detail)
    name = f"overhead of a stage, {large:,} stages against {count:,}"
    if each * large > PATIENCE:
        detail = f"not measured: at that rate it would take {each * large:.0f} s, and {PATIENCE:.0f} s are given"
        yield Figure(name, float("inf"), "x", 1.5, detail=detail)
        return
    try:
        many = ours(layered(large), timeout=PATIENCE)
        yield Figure(name, many["run"] / large / each, "x", 1.5, detail=told(many))
        name = f"overhead of a stage, {large:,} stages against {small:,}"
        yield Figure(name, many["run"] / large / (few["run"] / small), "x", 1.5, detail="what a run costs by itself included")
    except subprocess.TimeoutExpired:
        yield Figure(name, float("inf"), "x", 1.5, detail=f"given up after {PATIENCE:.0f} s")


def compared(graph: Graph) -> Iterator[Figure]:
    for name, (times, limit, run) in PEERS.items():
        what = f"times below {name}, {len(graph):,} tasks"
        if not peer.here():
            yield Figure(what, 0, "x", limit, least=True, detail=peer.MISSING)
            continue
        pairs = [(theirs(graph, run), ours(graph)) for _ in range(times)]
        ratio = statistics.median(other["run"] / own["run"] for other, own in pairs)
        each, own = (statistics.median(pair[side]["run"] for pair in pairs) / len(graph) for side in (0, 1))
        built = pairs[0][0].get("build")
        detail = f"{1e6 * each:.0f} us a task{f', {built:.2f} s to build' if built else ''}; Lockgate {1e6 * own:.0f} us"
        yield Figure(what, ratio, "x", limit, least=True, detail=detail)


def ours(graph: Graph, *, timeout: float | None = None) -> dict[str, float]:
    """The seconds to build, to plan and to run, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="lockgate-bench-") as place:
        root = Path(place, "project")
        project.write(root, graph)
        command = python("-m", "benchmarks.inside", str(root))
        done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, timeout=timeout)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def theirs(graph: Graph, run: Callable[[Path], dict[str, float]]) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="lockgate-bench-") as place:
        peer.lay(Path(place, "graph"), graph)
        return run(Path(place, "graph"))


def told(run: dict[str, float]) -> str:
    return f"{run['run']:.2f} s to run, {run['build']:.2f} s to build, {run['plan']:.2f} s to plan"
