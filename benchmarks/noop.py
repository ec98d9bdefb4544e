"""A run that has nothing to do, from the start of its process to its end: results are kept from a run before it.

The peers' tasks write a file each, by which they see that nothing changed: that is how their users have them do nothing.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import peer, project
from benchmarks.figure import ROOT, Figure, paired, python, seconds
from benchmarks.graph import Graph, layered
from benchmarks.startup import FLOOR
from pipeline.journal import Journal

TOUCH = "touch $out"


def measure(*, few: int = 1_000, many: int = 10_000, pairs: int = 7) -> Iterator[Figure]:
    snakemake, doit = ("snakemake", "--cores", "2", "--quiet", "all"), ("doit",)
    yield from of_size(few, 1.5, pairs, {"Snakemake": ("with_snakemake", snakemake, 5.0)})
    yield from of_size(many, 3.0, pairs, {"doit": ("with_doit", doit, 2.0)})


def of_size(count: int, limit: float, pairs: int, peers: dict[str, tuple[str, tuple[str, ...], float]]) -> Iterator[Figure]:
    """`peers`: the program that runs the graph first, the command that has nothing to do, and the times it has to be slower."""
    graph = layered(count)
    with tempfile.TemporaryDirectory(prefix="lockgate-bench-") as place:
        root = Path(place, "project")
        project.write(root, graph)
        command, env = (
            python("-m", "pipeline", "run", "-C", str(root), "--engine", "host"),
            {**os.environ, "PYTHONPATH": str(ROOT)},
        )

        def ours() -> float:
            return seconds(command, env)

        ours()
        ratio, own, floor = paired(ours, lambda: seconds(FLOOR), pairs=pairs)
        name = f"{count:,} stages, nothing changed"
        yield Figure(f"{name}, against importing pydantic", ratio, "x", limit, detail=f"{own:.2f} s, {1000 * floor:.0f} ms")
        for peer_name, (first, again, least) in peers.items():
            yield against(
                f"{name}: times faster than {peer_name}", ours, Path(place, peer_name), graph, first, again, pairs, least
            )
        yield against(f"{name}: times faster than ninja", ours, Path(place, "ninja"), graph, "", ("ninja",), pairs, None)
        check(root)


def against(
    name: str,
    ours: Callable[[], float],
    place: Path,
    graph: Graph,
    first: str,
    again: tuple[str, ...],
    pairs: int,
    least: float | None,
) -> Figure:
    if not peer.here():
        return Figure(name, 0, "x", least, least=True, detail=peer.MISSING)
    peer.lay(place, graph, command=TOUCH)
    if first:
        peer.program(first, place)
    else:
        peer.seconds(place, *again)
    made = newest(place / "out")
    ratio, theirs, own = paired(lambda: peer.seconds(place, *again), ours, pairs=pairs)
    if newest(place / "out") != made:
        raise RuntimeError(f"{again[0]} found something to do")
    return Figure(name, ratio, "x", least, least=True, detail=f"{own:.2f} s, {theirs:.2f} s")


def newest(directory: Path) -> int:
    return max(path.stat().st_mtime_ns for path in directory.iterdir())


def check(root: Path) -> None:
    """Raises RuntimeError when a run after the first one had something to do."""
    journal = Journal(root / ".pipeline" / "journal.db")
    at_work = {event.run for event in journal.events(kind="stage.started")}
    runs = journal.runs()
    journal.close()
    if len(runs) < 2 or at_work != {runs[0]}:
        raise RuntimeError("a run after the first had something to do")
