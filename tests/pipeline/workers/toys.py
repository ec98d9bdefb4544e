"""Stages whose actions tell where they are and wait for files, so that a test decides how long they take."""

from __future__ import annotations

from typing import ClassVar

from pipeline import Action, Blob, Effect, Result, Stage, Tree, Work
from tests.pipeline.toys import Number


class Made(Result):
    tree: Tree
    note: Blob


SCRIPT = """
import os, pathlib, sys, time
size, mark, until = int(sys.argv[1]), pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
pathlib.Path("out/deep").mkdir(parents=True)
pathlib.Path("out/deep/a").write_text("made\\n")
pathlib.Path("out/run").write_text("#!/bin/sh\\n")
os.chmod("out/run", 0o755)
os.symlink("deep/a", "out/link")
pathlib.Path("note").write_bytes(bytes(size))
print("made here")
mark.touch()
while not until.exists():
    time.sleep(0.02)
"""


class Makes(Stage[Made]):
    """Leaves a tree and `size` bytes; touches the file `mark` and ends when there is a file `until`."""

    size: int = 10
    mark: str = "/dev/null"
    until: str = "/dev/null"

    async def run(self, work: Work) -> Made:
        argv = ("python", "-c", SCRIPT, str(self.size), self.mark, self.until)
        result = (await work.execute(Action(argv=argv, outputs=("out", "note")))).require()
        return Made(tree=result.output("out").tree, note=result.output("note").blob)


class Weighs(Stage[Number]):
    """The bytes of what another one left."""

    of: Stage[Made]

    async def run(self, work: Work) -> Number:
        made = work[self.of]
        action = Action(
            argv=("sh", "-c", "cat in/link && wc -c <note >size"),
            inputs={"note": made.note},
            tools={"in": made.tree},
            outputs=("size",),
        )
        return Number(value=int((await work.execute(action)).require().output("size").read()))


class Sends(Stage[Number]):
    """A side effect: a line more in a file outside."""

    of: tuple[Stage[Result], ...]
    to: str
    effect: ClassVar[Effect] = Effect.ONCE

    async def run(self, work: Work) -> Number:
        (await work.execute(Action(argv=("sh", "-c", f"echo sent >>{self.to}")))).require()
        return Number(value=1)


class Whispers(Stage[Number]):
    """Needs a secret."""

    async def run(self, work: Work) -> Number:
        action = Action(argv=("sh", "-c", 'echo "$WORD" | wc -c >size'), secrets={"WORD": "A_SECRET"}, outputs=("size",))
        return Number(value=int((await work.execute(action)).require().output("size").read()))


class HangsOnce(Stage[Number]):
    """Hangs where it is first to make the directory `claim`, else ends at once."""

    claim: str

    async def run(self, work: Work) -> Number:
        script = f"mkdir {self.claim} 2>/dev/null && sleep 1000; echo 1 >n"
        return Number(
            value=int((await work.execute(Action(argv=("sh", "-c", script), outputs=("n",)))).require().output("n").read())
        )
