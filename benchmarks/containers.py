"""The same five container steps through Lockgate and through hand-written dagger-io.

By hand: one chain of five commands in one session, sent as one query, of which the last file is fetched: as quick as it can
be written. It asks for less than Lockgate does: no log and no output of a single step is brought back, no exit code is looked
at, nothing is journalled or kept, and every step may use the network. Each Lockgate step is a command of its own on the
outputs of the one before, its log shown, its output in the store, its network refused. Neither takes a command from a cache:
in the cold runs each has a mark that was never seen.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figure import ROOT, Figure, paired, python, seconds
from pipeline.engines.choose import runner

STEPS = 5

BY_HAND = """
import asyncio, os, sys
import dagger

async def main():
    async with dagger.Connection(dagger.Config(log_output=open(os.devnull, "w"))) as client:
        container = client.container().from_(sys.argv[2]).with_workdir("/work").with_env_variable("MARK", sys.argv[1])
        for number in range({steps}):
            container = container.with_exec(["sh", "-c", f"echo {{number}} >> out; cat out"])
        print(await container.file("out").contents())

asyncio.run(main())
"""

PIPELINE = """
import os
from pipeline import Action, Pipeline, Stage, Tree, Work

class Step(Stage[Tree]):
    number: int
    mark: str
    before: tuple[Stage[Tree], ...] = ()

    async def run(self, work: Work) -> Tree:
        inputs = {{"out": work[self.before[0]]}} if self.before else {{}}
        action = Action(argv=("sh", "-c", f"mkdir -p out; echo {{self.number}} >> out/out; cat out/out"), inputs=inputs,
                        env={{"MARK": self.mark}}, outputs=("out",))
        return (await work.execute(action)).require().output("out").tree

steps = []
for number in range({steps}):
    steps.append(Step(number=number, mark=os.environ["MARK"], before=(steps[-1],) if steps else ()))
pipeline = Pipeline("steps", steps=tuple(steps))
"""


def measure() -> Iterator[Figure]:
    """Skipped, with a figure that says so, where no engine can be reached."""
    where = runner(os.environ)
    if where is None:
        yield Figure("container steps", 0, "", detail="not measured: no Dagger engine can be reached")
        return
    with tempfile.TemporaryDirectory(prefix="lockgate-bench-") as place:
        root = Path(place)
        (root / "delivery.py").write_text(PIPELINE.format(steps=STEPS))
        (root / "pyproject.toml").write_text('[tool.pipeline]\nengine = "dagger"\n')
        (root / "by_hand.py").write_text(BY_HAND.format(steps=STEPS))
        yield from compared(root)


def compared(root: Path) -> Iterator[Figure]:
    from pipeline.engines.choose import default_image
    from pipeline.engines.dagger import where_to_find_it
    from pipeline.project import Project

    where_to_find_it(os.environ)
    image = default_image(Project.at(root, os.environ))

    def ours(mark: str) -> float:
        return seconds(python("-m", "pipeline", "run", "-C", str(root)), {**os.environ, "MARK": mark, "PYTHONPATH": str(ROOT)})

    def theirs(mark: str) -> float:
        return seconds(python(str(root / "by_hand.py"), mark, image))

    ratio, lockgate, by_hand = paired(lambda: ours(uuid.uuid4().hex), lambda: theirs(uuid.uuid4().hex), pairs=5)
    detail = f"{lockgate:.2f} s, {by_hand:.2f} s"
    yield Figure(f"{STEPS} container steps, cold, against dagger-io by hand", ratio, "x", 1.05, detail=detail)
    ours("same"), theirs("same")
    ratio, by_hand, lockgate = paired(lambda: theirs("same"), lambda: ours("same"), pairs=5)
    detail = f"{lockgate:.2f} s, {by_hand:.2f} s"
    yield Figure(f"{STEPS} container steps, nothing changed: times faster", ratio, "x", 5.0, least=True, detail=detail)
