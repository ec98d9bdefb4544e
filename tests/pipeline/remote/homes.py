"""Two machines with a home each that run the same pipeline and share through a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline import Action, Blob, Journal, Pipeline, Project, Result, Stage, Store, Tree, Work
from pipeline.history import RunHistory, one
from pipeline.journal import Event
from pipeline.remote.access import Access
from pipeline.run import Outcome
from tests.pipeline.toys import Constant, Number
from tests.running import run_pipeline


class Written(Result):
    """What a command left."""

    tree: Tree
    note: Blob

    def summary(self) -> str:
        return self.tree.summary()


class Writes(Stage[Written]):
    """Runs a command that leaves a directory and a file of `size` bytes."""

    of: Stage[Number]
    size: int = 10

    async def run(self, work: Work) -> Written:
        script = f"mkdir -p out/deep && echo {work[self.of].value} >out/a && echo b >out/deep/b && : >out/empty"
        script += " && chmod +x out/a && ln -s a out/l"
        note = f"head -c {self.size} /dev/zero >note"
        result = await work.execute(Action(argv=("sh", "-c", f"{script} && {note}"), outputs=("out", "note")))
        result.require()
        return Written(tree=result.output("out").tree, note=result.output("note").blob)


class Reads(Stage[Number]):
    """Runs a command on what another one left."""

    of: Stage[Written]

    async def run(self, work: Work) -> Number:
        action = Action(
            argv=("sh", "-c", "./in/a 2>/dev/null; cat in/l >got"), inputs={"in": work[self.of].tree}, outputs=("got",)
        )
        result = await work.execute(action)
        return Number(value=int(result.require().output("got").read()))


def building(size: int = 10) -> Pipeline:
    """Two stages that run a command each, and one that does not."""
    number = Constant(value=7)
    writes = Writes(of=number, size=size)
    return Pipeline("thing", number=number, writes=writes, reads=Reads(of=writes))


class Home:
    """A machine: its own store, journal and project."""

    def __init__(self, place: Path) -> None:
        (place / "project").mkdir(parents=True)
        self.project = Project.at(place / "project", {"PIPELINE_HOME": str(place / "home")})
        self.project.home.mkdir(exist_ok=True)
        (self.project.root / "n").write_text("6")
        self.store, self.journal = Store(place / "home" / "store"), Journal(place / "home" / "journal.db")
        self.runs: list[str] = []

    def run(self, pipeline: Pipeline, remote: Access | None, **more: Any) -> tuple[Outcome, dict[str, Any]]:
        outcome, results = run_pipeline(pipeline, self.project, self.store, self.journal, remote=remote, **more)
        self.runs.append(outcome.run)
        return outcome, results

    def states(self, pipeline: Pipeline, remote: Access | None, **more: Any) -> dict[str, str]:
        """How each stage ended in a run of it that passed."""
        outcome, _ = self.run(pipeline, remote, **more)
        assert not outcome.failed
        return {stage.name: stage.state for stage in self.history().stages.values()}

    def history(self) -> RunHistory:
        """The latest run."""
        found = one(self.journal, self.runs[-1])
        assert found is not None
        return found

    def events(self, kind: str) -> list[Event]:
        """What the latest run journalled of that kind."""
        return list(self.journal.events(self.runs[-1], kind=kind))

    def close(self) -> None:
        self.journal.close()
