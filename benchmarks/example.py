"""The example's pipeline on the host engine, dependencies already fetched."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.figure import ROOT, Figure, paired, python, seconds
from benchmarks.startup import FLOOR
from pipeline.engines.local import free_port
from pipeline.history import StageHistory, one
from pipeline.journal import Journal

FETCHED = (
    "runtime",
    "testing",
    "building",
    "assets_tool",
    "twine",
    "postgres_tool",
    "ruff_tool",
    "mypy_tool",
    "bandit_tool",
    "trivy_tool",
)
"""The stages that reach the network."""


def measure() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="lockgate-bench-") as place:
        root = Path(place, "example")
        shutil.copytree(ROOT / "examples" / "camera_counting", root, ignore=shutil.ignore_patterns(".pipeline"))
        subprocess.run(["git", "init", "-q", root], check=True)
        env = {**os.environ, "CAMERA_COUNTING_PORT": str(free_port())}
        run = python("-m", "pipeline", "run", "-C", str(root), "--engine", "host")
        try:
            seconds([*run, *FETCHED], env)
            wall = seconds(run, env)
            critical, way = critical_path(root)
            yield Figure(
                "the example, cold: wall time against its critical path",
                wall / critical,
                "x",
                1.15,
                detail=f"{wall:.1f} s, {way}",
            )
            yield from again(root, [*run, "gate"], env)
        finally:
            subprocess.run(python("-m", "stages.delivery.down", str(root)), cwd=ROOT, check=True, capture_output=True)


def again(root: Path, run: list[str], env: dict[str, str]) -> Iterator[Figure]:
    """Up to the gate once more, nothing changed."""
    seconds(run, env)
    ratio, ours, floor = paired(lambda: seconds(run, env), lambda: seconds(FLOOR), pairs=9)
    yield Figure("the example up to the gate, nothing changed, against importing pydantic", ratio, "x", 2.0,
                 detail=f"{1000 * ours:.0f} ms, {1000 * floor:.0f} ms")  # fmt: skip
    journal = opened(root)
    last = journal.runs()[-1]
    yield Figure("actions executed by it", len(list(journal.events(last, kind="action.started"))), "", 0)


def critical_path(root: Path) -> tuple[float, str]:
    """The longest way through the latest run by the time each stage took, and the stages on it."""
    history = one(opened(root), "")
    if history is None:
        raise RuntimeError("the example was not run")
    ends: dict[str, tuple[float, tuple[str, ...]]] = {}
    for name in history.stages:
        end_of(name, history.stages, ends)
    longest, way = max(ends.values())
    return longest, " > ".join(name for name in way if history.stages[name].seconds > 0.5)


def end_of(
    name: str, stages: Mapping[str, StageHistory], ends: dict[str, tuple[float, tuple[str, ...]]]
) -> tuple[float, tuple[str, ...]]:
    """When a stage could end at the earliest, and by which way."""
    if name not in ends:
        stage = stages[name]
        before, way = max((end_of(source, stages, ends) for source in stage.inputs), default=(0.0, ()))
        ends[name] = (before + (stage.seconds if stage.state == "passed" else 0.0), (*way, name))
    return ends[name]


def opened(root: Path) -> Journal:
    return Journal(root / ".pipeline" / "journal.db")
