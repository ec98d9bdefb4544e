"""Side effects of a run: intended, done, and then standing or taken back; also what a killed run left behind.

One process at a time has open effects: it holds a lock from the first intention until each of them stands
or is taken back, so that no second deployment begins before the one before it was verified.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import anyio

from pipeline import record as records
from pipeline.dag import Pipeline
from pipeline.data import Blob
from pipeline.errors import JournalError, LockgateError, StoreError
from pipeline.journal import Event, Journal
from pipeline.leftover import KINDS, Leftover, leftover
from pipeline.lock import Lock
from pipeline.stage import Effect, Stage
from pipeline.store import Store
from pipeline.work import Work


class WorkOf(Protocol):
    """Makes the work of a stage, with the inputs of this run unless `results` gives others."""

    def __call__(self, stage: Stage[Any], /, *, results: Callable[[Stage[Any]], Any] | None, interrupted: bool) -> Work: ...


class Effects:
    """The effects of the run `run`."""

    def __init__(self, pipeline: Pipeline, run: str, *, journal: Journal, store: Store, lock: Lock, work: WorkOf) -> None:
        self._pipeline, self._run, self._journal, self._store = pipeline, run, journal, store
        self._lock, self._work = lock, work
        self._open: dict[Stage[Any], Any] = {}
        self._begun: set[Stage[Any]] = set()
        self._turn = anyio.Lock()

    async def settle(self, stages: Iterable[Stage[Any]]) -> None:
        """Take back what a killed run left open, unless another run is at work: then what is open is its own."""
        left = [stage for stage in stages if stage.can_undo() and self._left(stage)]
        if left and self._lock.try_take():
            try:
                for stage in left:
                    await self._settle(stage)
            finally:
                self._lock.give_back()

    async def begin(self, stage: Stage[Any], about: str, *, again: bool, say: Callable[[str], None]) -> Any:
        """Journal the intention. Not None: what came of the same effect in a run that was killed; it took place already.

        Raises StageFailed when nobody knows whether the same effect took place, unless it is to be sent `again`.
        """
        if stage.effect is not Effect.ONCE and not stage.can_undo():
            return None
        self._begun.add(stage)
        async with self._turn:
            if not self._lock.held:
                await self._lock.take(lambda: say("another run has side effects that are not confirmed yet; waiting for it"))
        found: Any = None
        if (left := self._left(stage)) is not None:
            if stage.can_undo():
                await self._settle(stage)
            elif left.about != about or again:
                self._write("effect.unknown", stage, of=left.run)
            else:
                found = await stage.recover(self._work_then(stage, left.run))
        if stage.effect is Effect.ONCE and found is None:
            self._write("effect.intended", stage, about=about)
        return found

    def done(self, stage: Stage[Any], about: str, result: Any, digest: str) -> None:
        """The effect took place."""
        self._write("effect.done", stage, about=about, result=digest)
        if stage.can_undo():
            self._open[stage] = result

    def failed(self, stage: Stage[Any], why: str) -> None:
        """The stage itself says that its effect did not take place."""
        self._write("effect.failed", stage, error=why)

    def standing(self, missing: Callable[[Stage[Any]], list[str]]) -> list[Event]:
        """That open effects of which nothing is `missing` any more stand; they are open no longer."""
        found = [stage for stage in self._open if not missing(stage)]
        for stage in found:
            del self._open[stage]
        return [self._event("effect.stands", stage) for stage in found]

    def end(self, stage: Stage[Any]) -> None:
        """The stage does not run any more; another run may have its turn when nothing is open."""
        self._begun.discard(stage)
        if not self._begun and not self._open:
            self._lock.give_back()

    async def take_back(self, missing: Callable[[Stage[Any]], list[str]], *, interrupted: bool) -> dict[Stage[Any], str]:
        """Undo what is open, the last first; why it could not be, where it could not."""
        failed: dict[Stage[Any], str] = {}
        for stage in reversed(list(self._open)):
            names = ", ".join(sorted(missing(stage)))
            why = f"interrupted before {names}" if interrupted else f"{names} did not pass"
            work = self._work(stage, results=None, interrupted=interrupted)
            error = await self._undo(stage, work, self._open[stage], why)
            del self._open[stage]
            if error:
                failed[stage] = error
        self._lock.give_back()
        return failed

    def _left(self, stage: Stage[Any]) -> Leftover | None:
        """What an earlier run left open of this stage's effect."""
        if stage.effect is Effect.PURE:
            return None
        return leftover(self._journal.latest(self._pipeline.name_of(stage), KINDS), undoable=stage.can_undo())

    async def _settle(self, stage: Stage[Any]) -> None:
        """Take back what an earlier run left open of a stage that can; the lock is held."""
        left = self._left(stage)
        if left is None:
            return  # another run took care of it meanwhile
        why = f"run {left.run} ended before anybody confirmed it"
        try:
            work = self._work_then(stage, left.run)
            result = await stage.recover(work) if left.result is None else self._recorded(stage, left.result)
        except Exception as error:
            self._tell("undo.intended", stage, reason=why)
            self._tell("undo.failed", stage, error=str(error), trace=_trace(error))
            return
        if result is None:
            self._tell("effect.failed", stage, error=f"{why}; it did not take place, or was taken back")
        else:
            await self._undo(stage, work, result, why)

    async def _undo(self, stage: Stage[Any], work: Work, result: Any, why: str) -> str:
        """Empty when the effect was taken back, else why not."""
        self._tell("undo.intended", stage, reason=why)
        try:
            await stage.undo(work, result)
        except Exception as error:
            self._tell("undo.failed", stage, error=str(error), trace=_trace(error))
            return f"could not be undone: {error}"
        self._tell("undo.done", stage)
        return ""

    def _work_then(self, stage: Stage[Any], run: str) -> Work:
        """The stage's work with the inputs it had in that run."""

        def result(source: Stage[Any]) -> Any:
            name = self._pipeline.name_of(source)
            found = self._journal.latest(name, ("stage.finished", "stage.cached"), run=run)
            if found is None:
                raise StoreError(f"run {run} has no result of {name}", where=str(self._journal.path))
            return self._recorded(source, found.data["result"])

        return self._work(stage, results=result, interrupted=True)

    def _recorded(self, stage: Stage[Any], digest: str) -> Any:
        return records.result(self._store, stage, self._pipeline.name_of(stage), Blob(digest=digest, size=0))

    def _tell(self, kind: str, stage: Stage[Any], /, **data: Any) -> None:
        """Write to the journal if it can be written: what is taken back must not depend on a full disk."""
        with contextlib.suppress(JournalError):
            self._write(kind, stage, **data)

    def _write(self, kind: str, stage: Stage[Any], /, **data: Any) -> None:
        self._journal.append(self._event(kind, stage, **data))

    def _event(self, kind: str, stage: Stage[Any], /, **data: Any) -> Event:
        return Event(run=self._run, kind=kind, stage=self._pipeline.name_of(stage), data=data)


def _trace(error: Exception) -> str:
    return "" if isinstance(error, LockgateError) else "".join(traceback.format_exception(error))
