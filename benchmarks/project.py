"""A project whose pipeline is a graph: a delivery.py that makes its stages in a loop, as anybody would write it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from benchmarks.graph import Graph

DELIVERY = """
import json
from pathlib import Path

from pipeline import Pipeline, Result, Stage, Work


class Number(Result):
    value: int


class Step(Stage[Number]):
    number: int
    inputs: tuple[Stage[Number], ...] = ()

    async def run(self, work: Work) -> Number:
        return Number(value=(self.number + sum(work[one].value for one in self.inputs)) % 1_000_003)


steps = []
for number, inputs in enumerate(json.loads(Path(__file__).with_name("graph.json").read_text())):
    steps.append(Step(number=number, inputs=tuple(steps[one] for one in inputs)))
pipeline = Pipeline("steps", steps=tuple(steps))
"""


def write(root: Path, graph: Graph) -> None:
    """Into `root`, which is made; under git, as projects are."""
    root.mkdir(parents=True)
    (root / "graph.json").write_text(json.dumps(graph))
    (root / "delivery.py").write_text(DELIVERY)
    (root / "pyproject.toml").write_text('[tool.pipeline]\nengine = "host"\n')
    subprocess.run(["git", "init", "-q", root], check=True)
