"""An operation: what an operator has a stage do about what it brought about, outside of a run."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from pipeline import record as records
from pipeline.data import Blob
from pipeline.effects import Effects
from pipeline.engines.choose import open_engine
from pipeline.errors import ConfigError, LockgateError, StageFailed, StoreError
from pipeline.leftover import KINDS, Leftover, left_open
from pipeline.order import Order
from pipeline.session import Session
from pipeline.stage import Stage
from pipeline.work import Surroundings, Work

if TYPE_CHECKING:
    from pipeline.journal import Event

NOTHING = "nothing was left open"


def standing(events: Iterable[Event]) -> Leftover | None:
    """The last effect that was confirmed, or could not be taken back, unless it was taken back since. Pure.

    One that was taken back before anybody confirmed it says nothing of the one before.
    """
    found: Leftover | None = None
    done: dict[str, Leftover] = {}
    for event in events:
        about = event.data.get("about", "")
        if event.data.get("later"):
            continue
        if event.kind == "effect.done":
            done[about] = Leftover(run=event.data.get("of", event.run), about=about, result=event.data["result"])
        elif event.kind in ("effect.stands", "undo.failed") and about in done:
            found = done.pop(about)
        elif event.kind == "undo.done":
            done.pop(about, None)
            if event.data.get("stays"):
                continue
            found = None if found is not None and about in ("", found.about) else found
    return found


UNDOING = ("undo.intended", "undo.done", "undo.failed", "effect.intended", "effect.done", "effect.failed")


def half_undone(events: Iterable[Event], about: str) -> bool:
    """Whether taking that effect back was begun, and came to no end: neither then, nor when it was tried again. Pure.

    That a later run has not brought it about anew says nothing of what stands.
    """
    half = before = anew = False
    for event in events:
        if event.data.get("about", about) != about:
            continue
        match event.kind:
            case "undo.intended":
                half, before = True, half
            case "effect.intended":
                anew = True
            case "effect.failed" if anew:
                anew = False
            case "undo.failed":
                half = bool(event.data.get("half")) or before
            case "undo.done" | "effect.done" | "effect.failed":
                half = anew = False
    return half


ResultOf = Callable[[Stage[Any]], Any]
"""What an input of a stage returned."""


class Operation:
    """One order to one stage, as `run`, an id of its own by which the journal has it."""

    def __init__(self, session: Session, stage: Stage[Any], run: str, listen: Callable[[str], None]) -> None:
        self._session, self._stage, self._run = session, stage, run
        self._name = session.pipeline.name_of(stage)
        self._around = Surroundings(
            run,
            session.store,
            session.journal,
            session.project,
            session.facts,
            lambda _name, piece: listen(piece.decode(errors="replace").rstrip("\n")),
            session.pipeline.name_of,
        )
        self._lock = session.journal.effects_lock()
        self._effects = Effects(
            session.pipeline, run, journal=session.journal, store=session.store, lock=self._lock, work=self.work, resumed=False
        )

    def work(self, stage: Stage[Any], /, *, results: ResultOf | None = None, interrupted: bool = False, of: str = "") -> Work:
        """The stage's work, on this machine, with the results it is given as inputs."""
        return Work(
            self._around,
            self._session.pipeline.name_of(stage),
            attempt=0,
            observed=None,
            inputs=self._session.pipeline.inputs(stage),
            results=results or self._latest,
            engine=open_engine("host", self._session.project, self._session.store),
            interrupted=interrupted,
            of=of,
        )

    async def undo(self, why: str) -> str:
        """Take the latest effect of the stage back. Raises ConfigError where there is none, StageFailed where it cannot be."""
        return await self._alone(lambda: self._effects.undo_standing(self._stage, self._standing(), why))

    async def obey(self, order: Order) -> str:
        """Have the stage do what the order says; what came of it."""
        return await self._alone(lambda: self._stage.obey(self.work(self._stage), order))

    async def recover(self) -> str:
        """Take back what a run, or an undo, left open of the stage as it was cut off, and mend what stands, in any case.

        Raises StageFailed where nobody can.
        """
        left = left_open(self._session.journal, self._stage, self._name) or self._half_undone()
        if not left and not self._stage.can_mend():
            return NOTHING
        return await self._alone(self._settle_and_mend) or NOTHING

    async def _settle_and_mend(self) -> str:
        try:
            came = await self._effects.settle_one(self._stage)
            if (half := self._half_undone()) is not None:  # perhaps what it was begun over
                came.append(await self._effects.undo_standing(self._stage, half, "an undo has come half way"))
        except Exception as error:
            try:
                also = await self._mend()
            except LockgateError as second:
                also = second.what
            if isinstance(error, LockgateError):
                error.what = "; ".join(filter(None, (also, error.what)))
            raise
        return "; ".join(filter(None, (*came, await self._mend())))  # another process may have come first

    async def _mend(self) -> str:
        return await self._stage.mend(self.work(self._stage))

    def _standing(self) -> Leftover:
        """The latest effect of the stage that took place and was not taken back. Raises ConfigError where one is still open."""
        self._need_settled()
        if (found := self._stands()) is None:
            raise ConfigError(
                f"there is nothing of {self._name} to take back: it never took place, or was taken back",
                next="python -m pipeline history",
            )
        return found

    def _stands(self) -> Leftover | None:
        return standing(self._session.journal.events(kind=KINDS, stage=self._name))

    def _half_undone(self) -> Leftover | None:
        """What stands, where somebody began to take it back, and was cut off or broke off in the middle."""
        found = self._stands()
        events = self._session.journal.events(kind=UNDOING, stage=self._name)
        return found if found is not None and half_undone(events, found.about) else None

    def _need_settled(self) -> None:
        """What a run that was cut off left open comes first: behind it nobody would see what is to be taken back."""
        left = left_open(self._session.journal, self._stage, self._name)
        if left:
            raise ConfigError(
                f"run {left[-1].run} was cut off, and left {self._name} open",
                right="that taken back first",
                next=f"python -m pipeline recover {shlex.quote(self._name)}",
            )

    async def _alone(self, work: Callable[[], Any]) -> str:
        if not self._lock.try_take():
            raise ConfigError(
                "a run, or another order, is at work that has side effects nobody confirmed yet",
                right="a time when none is",
                next="python -m pipeline deployments; abort a rollout that goes on, or"
                f" python -m pipeline recover {shlex.quote(self._name)} --take-over, which ends the run",
            )
        try:
            said: str = await work()
        finally:
            self._lock.give_back()
        return said

    def _latest(self, source: Stage[Any]) -> Any:
        """What an input returned last, in any run."""
        name = self._session.pipeline.name_of(source)
        found = self._session.journal.latest(name, ("stage.finished", "stage.cached"))
        if found is None:
            raise StageFailed(
                f"{name} has no result yet", right=f"a run of {self._name}", next=f"python -m pipeline run {self._name}"
            )
        try:
            return records.result(self._session.store, source, name, Blob(digest=found.data["result"], size=0))
        except StoreError as error:
            raise StageFailed(f"the result of {name} is lost: {error.what}", next=f"python -m pipeline run {name}") from error
