"""What a running stage may do: take its inputs, execute actions, put content in the store, write to the journal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pipeline.errors import StageFailed, StoreError, UndeclaredInput
from pipeline.stage import Stage

if TYPE_CHECKING:  # every stage imports this module, also where nothing is run
    from pathlib import Path

    from pipeline.action import Action, ActionResult
    from pipeline.condition import Facts
    from pipeline.engine import Engine
    from pipeline.journal import Event, Journal
    from pipeline.order import Order
    from pipeline.project import Project
    from pipeline.store import Store

T = TypeVar("T")


OWN = frozenset({"run", "stage", "effect", "undo", "action", "store", "remote", "workers", "operator"})
"""What the kinds of events begin with that are written of stages; a stage writes others."""


class Surroundings(NamedTuple):
    """What the work of all stages of a run has in common."""

    run: str
    store: Store
    journal: Journal
    project: Project
    facts: Facts
    listen: Callable[[str, bytes], None]
    name_of: Callable[[Stage[Any]], str]


class Work:
    """Handed to `Stage.run`; belongs to one attempt of one stage of one run."""

    def __init__(
        self,
        around: Surroundings,
        name: str,
        *,
        attempt: int,
        observed: str | None,
        inputs: Sequence[Stage[Any]],
        results: Callable[[Stage[Any]], Any],
        engine: Engine,
        interrupted: bool = False,
        of: str = "",
        parts: Mapping[str, Stage[Any]] = MappingProxyType({}),
        actions: int = 0,
    ) -> None:
        self.interrupted, self.parts = interrupted, parts
        self.of = of
        """The run, or earlier attempt of this one, whose side effect was left open, where it is about that; else empty."""
        self.run, self.name, self.attempt, self.observed = around.run, name, attempt, observed
        self.store, self.project, self.facts = around.store, around.project, around.facts
        self._inputs, self._results, self._engine = dict.fromkeys(inputs), results, engine
        self._journal, self._listen, self._name_of = around.journal, around.listen, around.name_of
        self.actions = actions

    @property
    def engine(self) -> str:
        """`host` or `dagger`."""
        return self._engine.name

    @property
    def platform(self) -> str:
        """The platform results depend on, as the engine names it."""
        return self._engine.platform

    def __getitem__(self, stage: Stage[T]) -> T:
        """The result of an input. Raises UndeclaredInput for a stage that is no input of this one."""
        if stage not in self._inputs:
            raise self._undeclared(stage)
        result: T = self._results(stage)
        return result

    def _undeclared(self, stage: Stage[Any]) -> UndeclaredInput:
        asked, inputs = type(stage).__name__, ", ".join(map(self._name_of, self._inputs))
        with contextlib.suppress(KeyError):
            asked = self._name_of(stage)
        return UndeclaredInput(
            f"{self.name} asked for {asked}, which is not one of its inputs",
            right=f"a field of {self.name} that holds {asked}, or one of: {inputs or 'none'}",
        )

    async def execute(self, action: Action) -> ActionResult:
        """Run an action on the run's engine; its log joins the stage's log. A failing command is a result too."""
        self.actions += 1
        number = self.actions
        log = self._logs() / f"{self.attempt}-{number}.log"
        _made(log.parent)
        self._record("action.started", number=number, argv=list(action.argv), digest=action.digest())
        result = await self._engine.execute(action, log, lambda piece: self._listen(self.name, piece))
        self._record(
            "action.finished",
            number=number,
            exit_code=result.exit_code,
            seconds=round(result.seconds, 6),
            network=result.network,
            outputs={path: output.content.digest for path, output in result.outputs.items()},
            **({"worker": result.worker} if result.worker else {}),
        )
        return result

    def say(self, text: str) -> None:
        """Write a line to the stage's log."""
        line = text.encode() + b"\n"
        note = _made(self._logs()) / f"{self.attempt}-{self.actions}.note.log"
        try:
            with note.open("ab") as file:
                file.write(line)
        except OSError as error:
            raise _unwritable(note, error) from error
        self._listen(self.name, line)

    def record(self, kind: str, **data: Any) -> None:
        """Write an event about this stage to the journal; durable when this returns.

        Raises StageFailed for a kind of events that are written of stages, not by them, and for what JSON cannot hold.
        """
        from pipeline import digest

        if kind.partition(".")[0] in OWN:
            raise StageFailed(
                f"{self.name} records {kind!r}, which is not a stage's to tell", right="a kind of its own: deploy.noted"
            )
        try:
            digest.canonical(data)
        except (TypeError, ValueError) as error:
            raise StageFailed(f"{self.name} records {kind!r} with what JSON cannot hold: {error}") from error
        self._record(kind, **data)

    def _record(self, kind: str, **data: Any) -> None:
        from pipeline.journal import Event

        self._journal.append(Event(run=self.run, stage=self.name, kind=kind, data=data))

    def events(self, kind: str) -> list[Event]:
        """Earlier events of one kind about the stage of this name, in any run, the oldest first."""
        return list(self._journal.events(kind=kind, stage=self.name))

    def attempted(self, kind: str) -> list[Event]:
        """Those of them since the side effect was begun that `recover` is asked about.

        None where another run has begun one since: what is true by now came of that one.
        """
        begun = self.events("effect.intended")
        if not begun or begun[-1].run != (self.of or self.run):
            return []
        return [event for event in self.events(kind) if event.seq > begun[-1].seq]

    def orders(self, *, after: int = 0, standing: bool = False) -> list[Order]:
        """What operators asked of this stage in this run since the event of that number, the oldest first.

        `standing`: in any run, and of all stages. Orders of people who may not give them are left out.
        """
        from pipeline.order import orders

        run = "" if standing else self.run
        return orders(self._journal, self.project.settings.operators, stage=self.name, run=run, after=after)

    def latest(self, stage: Stage[T]) -> T | None:
        """What the stage that is running, given as itself, returned when it last ran in an earlier run, of results that may be
        used again.

        None where it never did, and where that is not kept any more. What a stage returns must not follow from it: it is no
        part of its key.
        """
        from pipeline.data import Blob

        begun = next(iter(self._journal.events(self.run, kind="run.started")))
        for event in reversed(self.events("stage.finished")):
            if event.seq < begun.seq and event.data["key"]:
                with contextlib.suppress(StoreError, ValueError):
                    text = self.store.read(Blob(digest=event.data["result"], size=0))
                    result: T = stage.result_type().model_validate_json(text)
                    return result
                return None
        return None

    def _logs(self) -> Path:
        from pipeline.project import log_directory

        return log_directory(self.project.home, self.run, self.name)

    def state(self, name: str) -> Path:
        """A directory of the project that outlives runs; for what deployments and services keep."""
        return _made(self.project.home / "state" / name)


def _made(directory: Path) -> Path:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(directory, error) from error
    return directory


def _unwritable(place: Path, error: OSError) -> StoreError:
    from pipeline.store import unwritable

    return unwritable(place, error)
