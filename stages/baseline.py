"""Baselines: evidence of an earlier state, for rules that compare."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

from pipeline import Effect, Project, Result, Stage, StageFailed, Tree, WiringError, Work
from pipeline.digest import canonical, of_bytes

R = TypeVar("R", bound=Result)


class KeptBaseline(Result):
    """Evidence that was kept: under which name, and the digest of its canonical JSON."""

    name: str
    evidence: str

    def summary(self) -> str:
        return f"kept as {self.name!r}"


class KeepBaseline(Stage[KeptBaseline], Generic[R]):
    """Keeps `evidence` as the baseline `kept`, in place of the one before: in the project's state directory.

    With `file`, a path below the project, it is written there too, to be committed. Where it may run is said by
    `only`, as in `only=Only(branch=("main",))`.
    """

    effect: ClassVar[Effect] = Effect.RETRYABLE

    evidence: Stage[R]
    kept: str = "main"
    file: str = ""

    async def run(self, work: Work) -> KeptBaseline:
        text = canonical(work[self.evidence].model_dump(mode="json"))
        write(work.state("baselines") / file_name(self.kept, self.evidence.result_type()), text)
        if self.file:
            write(work.project.root / self.file, text)
        return KeptBaseline(name=self.kept, evidence=of_bytes(text))


class Baseline(Stage[R], Generic[R]):
    """A piece of evidence of the type `model` from an earlier state, to compare with.

    It is the one kept under the name `kept` (see KeepBaseline), or the file `path` of `source`. Where there is
    none yet, `first` says what happens: `refuse` fails, `accept` takes the evidence `instead`, which then is
    compared with itself, and says so in log and journal. What is there and cannot be read fails in either case.
    """

    model: type[R]
    kept: str = ""
    source: Stage[Tree] | None = None
    path: str = ""
    first: Literal["refuse", "accept"] = "refuse"
    instead: Stage[R] | None = None

    def __post_init__(self) -> None:
        if bool(self.kept) == bool(self.source and self.path):
            raise WiringError("a Baseline is either kept or a file", right="kept='main', or source= and path=")
        if (self.first == "accept") != (self.instead is not None):
            raise WiringError("a Baseline that accepts a first run takes evidence instead", right="first='accept', instead=...")

    def result_type(self) -> Any:
        return self.model

    def observe(self, project: Project) -> str | None:
        if not self.kept:
            return None
        text = read(project.home / "state" / "baselines" / file_name(self.kept, self.model))
        return "none" if text is None else of_bytes(text)

    async def run(self, work: Work) -> R:
        where = f"the baseline {self.kept!r}" if self.kept else self.path
        text = self._text(work)
        if text is None:
            return self._first(work, where)
        try:
            return self.model.model_validate_json(text)
        except ValueError as error:
            raise StageFailed(
                f"it is no {self.model.__name__}: {error}",
                where=where,
                right="evidence of that type",
                next=f"write it anew: {HOW}",
            ) from error

    def _text(self, work: Work) -> bytes | None:
        if self.source is None:
            return read(work.state("baselines") / file_name(self.kept, self.model))
        tree = work[self.source]
        if all(entry.path != self.path for entry in work.store.entries(tree)):
            return None
        return work.store.read(work.store.file(tree, self.path))

    def _first(self, work: Work, where: str) -> R:
        if self.instead is not None:
            work.record("baseline.missing", where=where, model=self.model.__name__)
            work.say(f"{where} does not exist yet: the present state is taken for it, nothing is compared")
            return work[self.instead]
        raise StageFailed(
            f"there is no {self.model.__name__} to compare with yet",
            where=where,
            right="evidence that an earlier run kept; or first='accept' with instead=, for the first run",
            next=f"run {HOW}",
        )


HOW = "a pipeline with KeepBaseline(evidence=...), as in: python -m pipeline run keep_baseline"


def file_name(kept: str, model: type[Result]) -> str:
    """The file of a baseline. Raises StageFailed for a name that is none."""
    if not kept.replace("-", "").replace("_", "").replace(".", "").isalnum() or kept.startswith("."):
        raise StageFailed(f"{kept!r} cannot name a baseline", right="letters, digits, `-`, `_` and `.`")
    return f"{kept}.{model.__name__}.json"


def read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def write(path: Path, text: bytes) -> None:
    """Write a file in one step: a reader sees the old one or the new one, however many write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new-{os.getpid()}-{os.urandom(8).hex()}")
    try:
        with fresh.open("xb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
