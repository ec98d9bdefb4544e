"""Side effects of a run: intended, done, and then standing or taken back; also what a killed run left behind.

One process at a time has open effects: it holds a lock from the first intention until each of them stands
or is taken back, so that no second deployment begins before the one before it was verified.

What is promised, also when the process is killed at any instant and when the journal cannot be written any more:

- An effect that must not be repeated, or that can be taken back, begins only after its intention is in a journal the next
  run will find. Without word of what came of it, one that must not be repeated is not begun again before the stage has found
  out (`recover`) or people have decided, whatever other effects its stage has had meanwhile.
- An effect that nobody confirmed is taken back at least once. That does not wait for a journal that cannot be written, so
  the next run may find open what was taken back already. It asks the stage first whether there is anything to take back;
  of one that cannot tell, `undo` is called again, which has to be safe to repeat.
"""

from __future__ import annotations

import contextlib
import math
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import anyio

from pipeline import record as records
from pipeline.dag import Pipeline
from pipeline.data import Blob
from pipeline.errors import BrokenOff, JournalError, LockgateError, NotNow, StageFailed, StoreError, said
from pipeline.journal import Event, Journal
from pipeline.leftover import KINDS, Leftover, left_open
from pipeline.limit import within
from pipeline.rows import RunLock
from pipeline.stage import Effect, Stage, Stays
from pipeline.store import Store
from pipeline.work import Work


class WorkOf(Protocol):
    """Makes the work of a stage, with the inputs of this run unless `results` gives others, about what run `of` brought about."""

    def __call__(
        self, stage: Stage[Any], /, *, results: Callable[[Stage[Any]], Any] | None, interrupted: bool, of: str = ""
    ) -> Work: ...


@dataclass(frozen=True)
class Done:
    """An effect that took place and that nobody has confirmed yet: what it is about, and what its stage returned."""

    about: str
    result: Any


class Effects:
    """The effects of the run `run`."""

    def __init__(
        self, pipeline: Pipeline, run: str, *, journal: Journal, store: Store, lock: RunLock, work: WorkOf, resumed: bool
    ) -> None:
        self._pipeline, self._run, self._journal, self._store = pipeline, run, journal, store
        self._lock, self._work, self._resumed = lock, work, resumed
        self._open: dict[Stage[Any], Done] = {}
        self._in_doubt: dict[Stage[Any], str] = {}
        """What the effect is about of each stage that can take it back, and of which nobody knows whether it took place."""
        self._repeated: set[Stage[Any]] = set()
        """Stages that do once more, as they may, what may have taken place before."""
        self._begun: set[Stage[Any]] = set()
        self._stands: set[Stage[Any]] = set()
        """Stages whose effect stood already when the run was cut off."""
        self._turn = anyio.Lock()

    async def settle(self, stages: Iterable[Stage[Any]]) -> None:
        """Take back what a killed run left open, unless another run is at work: then what is open is its own."""
        left = [stage for stage in stages if stage.can_undo() and self._left_by_others(stage)]
        if left and self._lock.try_take():
            try:
                for stage in left:
                    with _no_matter():  # `begin` asks again, and tells where nobody knows what to take back
                        for one in reversed(self._left_by_others(stage)):  # another run may have taken care of some meanwhile
                            await self._settle(stage, one)
            finally:
                self._lock.give_back()

    async def begin(self, stage: Stage[Any], about: str, *, again: bool, say: Callable[[str], None]) -> Any:
        """Journal the intention. Not None: what came of the same effect in a run that was killed; it took place already.

        Raises StageFailed when nobody knows whether the same effect took place, StoreError when what has to be taken back
        first is lost, unless it is to be sent `again`, and JournalError when the journal was lost.
        """
        found, kept = None, _is_kept(stage)
        if kept:
            self._journal.check()  # a lock that was lost is not taken anew for more
            self._begun.add(stage)
            async with self._turn:
                if not self._lock.held:
                    await self._lock.take(partial(self._waits, stage, about, say))
            found = await self._done_before(stage, about) if self._resumed and not again else None
            if found is None:
                found = await self._see_to_what_is_left(stage, about, again=again)
        elif stage.effect is not Effect.PURE and self._resumed and not again:
            found = await self._done_before(stage, about)
        if stage.effect is not Effect.PURE:
            self._journal.flush()  # what this stage is about to build on is not done again, whatever becomes of it
            self._journal.check()
        if kept and found is None:
            self._write("effect.intended", stage, about=about)
            if stage.can_undo():
                self._in_doubt[stage] = about
        return found

    def _waits(self, stage: Stage[Any], about: str, say: Callable[[str], None]) -> None:
        say("another run has side effects that are not confirmed yet; waiting for it")
        self._tell("effect.waits", stage, about=about)

    def done(self, stage: Stage[Any], about: str, result: Any, digest: str) -> None:
        """The effect took place."""
        self._in_doubt.pop(stage, None)
        if stage in self._stands:
            return
        if stage.can_undo():
            self._open[stage] = Done(about, result)  # also where the journal cannot be written: it is taken back then
        self._write("effect.done", stage, about=about, result=digest)

    def failed(self, stage: Stage[Any], about: str, why: str) -> None:
        """The stage itself says that its effect did not take place; that says nothing of what it did before."""
        if _is_kept(stage) and stage not in self._repeated:
            self._in_doubt.pop(stage, None)
            self._write("effect.failed", stage, about=about, error=why)

    def journal(self, confirmed: Callable[[Stage[Any]], bool], *events: Event) -> None:
        """Note events, and write with them that effects that are `confirmed` by now stand; only then they do."""
        standing = [stage for stage in self._open if confirmed(stage)]
        self._journal.note(*events)
        if standing:
            self._journal.append(*(self._event("effect.stands", stage, about=self._open[stage].about) for stage in standing))
        for stage in standing:
            del self._open[stage]

    def end(self, stage: Stage[Any]) -> None:
        """The stage does not run any more; another run may have its turn when this one has nothing to take back."""
        self._begun.discard(stage)
        if not self._begun and not self._open and not self._in_doubt:
            self._lock.give_back()

    def is_open(self, stages: Iterable[Stage[Any]]) -> bool:
        """Whether an effect of one of the stages may have to be taken back yet."""
        return bool(self._open or self._in_doubt) and any(stage in self._open or stage in self._in_doubt for stage in stages)

    async def take_back(
        self, missing: Callable[[Stage[Any]], list[str]], cut_off: Callable[[Stage[Any]], bool]
    ) -> dict[Stage[Any], str]:
        """Undo what is open, the last first; why it could not be, where it could not.

        `missing` names what should have confirmed an effect; `cut_off` says whether nothing was found wrong with it.
        """
        failed: dict[Stage[Any], str] = {}
        if not self._may_take_back():
            return failed
        for stage, about in self._in_doubt.items():
            await self._find_out(stage, about)
        for stage in reversed(list(self._open)):
            cut = cut_off(stage)
            names = ", ".join(sorted(missing(stage))) or self._pipeline.name_of(stage)
            why = f"interrupted before {names}" if cut else f"{names} did not pass"
            work = self._work(stage, results=None, interrupted=cut)
            error = await self._undo(stage, work, self._open[stage], why)
            del self._open[stage]
            if error:
                failed[stage] = error
        self._lock.give_back()
        return failed

    def _may_take_back(self) -> bool:
        """Whether what is open is still this run's to take back.

        Who loses the lock, as with the server that has it, is to others a run that was killed: the one that has the lock by
        now takes back what was left open. Where nobody can be asked, nobody else can begin anything either.
        """
        with contextlib.suppress(JournalError):
            self._journal.check()  # who has lost the lock knows it now
        if not (self._open or self._in_doubt) or self._lock.held:
            return True
        with contextlib.suppress(JournalError):
            if not self._lock.try_take():
                return False
            kept = {stage for stage in (*self._open, *self._in_doubt) if any(one.run == self._run for one in self._left(stage))}
            self._open = {stage: done for stage, done in self._open.items() if stage in kept}
            self._in_doubt = {stage: about for stage, about in self._in_doubt.items() if stage in kept}
        return True

    async def _find_out(self, stage: Stage[Any], about: str) -> None:
        """What came of an effect that was cut off; open when it took place, left to the next run when nobody knows."""
        with _no_matter():
            result = await self._recover(stage, self._work(stage, results=None, interrupted=True))
            if result is None:
                self._tell("effect.failed", stage, about=about, error="it was cut off, and did not take place or was taken back")
            else:
                self._open[stage] = Done(about, result)

    async def _done_before(self, stage: Stage[Any], about: str) -> Any:
        """What came of the same effect in this run before it was cut off; None where it is to be done, or nobody knows.

        The world may have changed since, the machine may have been started anew: a stage that can find out is asked. What may
        be repeated is repeated otherwise, and of what must not be the journal is believed. An effect that can be undone is
        open again, as it was then: what confirms it has yet to pass. What another run has taken back is to be done.
        """
        events = list(self._journal.events(kind=KINDS, stage=self._pipeline.name_of(stage)))
        of_all = [event for event in events if event.data.get("about") == about]
        of_it = [event for event in of_all if event.run == self._run]
        if stage.can_undo() and of_it and _taken_back_by_others(of_all[of_all.index(of_it[-1]) + 1 :]):
            return None
        last = of_it[-1].kind if of_it else ""
        if last == "effect.stands" and (other := _done_since(events[events.index(of_it[-1]) + 1 :], about)):
            raise StageFailed(
                f"run {other} has done {self._pipeline.name_of(stage)} since, and what it did would be undone",
                right="a run that begins now",
                next="python -m pipeline run",
            )
        if last not in ("effect.intended", "effect.done", "effect.stands"):
            return None
        result = None
        if stage.can_recover():
            result = await self._recover(stage, self._work(stage, results=None, interrupted=True))
        elif stage.effect is Effect.ONCE and last != "effect.intended":
            done = next(event for event in reversed(of_it) if event.kind == "effect.done")
            result = self._recorded(stage, done.data["result"], left=stage, run=self._run)
        if result is not None and last == "effect.stands":
            self._stands.add(stage)
        return result

    def _left_by_others(self, stage: Stage[Any]) -> tuple[Leftover, ...]:
        """What is left open of the stage's effects, but for those of this run that goes on with them."""
        return tuple(one for one in self._left(stage) if not (self._resumed and one.run == self._run))

    def _left(self, stage: Stage[Any]) -> tuple[Leftover, ...]:
        """What earlier runs, or earlier attempts of this one, left open of this stage's effects."""
        return left_open(self._journal, stage, self._pipeline.name_of(stage))

    async def _see_to_what_is_left(self, stage: Stage[Any], about: str, *, again: bool) -> Any:
        """What came of the same effect in a run that was killed; None when it did not take place, or is taken back now."""
        left = self._left(stage)
        if stage.can_undo():
            await self._settle_all(stage, left, about, again=again)
            return None
        same = next((one for one in left if one.about == about), None)
        if same is None:
            return None
        if again:
            self._write("effect.unknown", stage, of=same.run, about=about)
            return None
        return await self._recover(stage, self._work_then(stage, same.run))

    async def _settle_all(self, stage: Stage[Any], left: tuple[Leftover, ...], about: str, *, again: bool) -> None:
        """Take back what is left, the last first. Where nobody can, `again` is the answer, and so is to repeat what may be."""
        self._repeated.discard(stage)
        for one in reversed(left):
            try:
                await self._settle(stage, one)  # of what cannot be taken back, people are told in the journal
            except BaseException as error:
                if not is_own(error):
                    raise
                if again:
                    self._write("effect.unknown", stage, of=one.run, about=one.about)
                elif stage.effect is Effect.RETRYABLE and one.about == about:
                    self._repeated.add(stage)
                else:
                    raise
        self._open.pop(stage, None)  # of an earlier attempt
        self._in_doubt.pop(stage, None)

    async def _settle(self, stage: Stage[Any], left: Leftover) -> str:
        """Take back what was left open of a stage that can; the lock is held. Empty, or why it could not be undone.

        Raises what `recover` raises where only that can tell, and StoreError where nothing can.
        """
        who = "an earlier attempt" if left.run == self._run else f"run {left.run}"
        why = f"{who} ended before anybody confirmed it"
        work = self._work_then(stage, left.run)
        result = await self._to_take_back(stage, left, work)
        if result is None:
            self._tell("effect.failed", stage, about=left.about, error=f"{why}; it did not take place, or was taken back")
            return ""
        if left.result is None:
            with contextlib.suppress(StoreError):  # a full disk keeps nothing from being taken back
                kept = records.keep(self._store, stage, self._pipeline.name_of(stage), result)
                self._store.flush()
                self._tell("effect.done", stage, about=left.about, result=kept.digest, of=left.run)  # should it have to stay
        return await self._undo(stage, work, Done(left.about, result), why)

    async def _to_take_back(self, stage: Stage[Any], left: Leftover, work: Work) -> Any:
        """What the effect gave; None when it did not take place, or the run that left it open had taken it back already."""
        if left.result is None:
            return await self._recover(stage, work)
        try:
            result = self._recorded(stage, left.result, left=stage, run=left.run)
        except StoreError:
            if not stage.can_recover() or left.refused:
                raise
            return await self._recover(stage, work)
        if stage.can_recover() and not left.refused:  # which would say now what came of others since
            with _no_matter():  # where the stage cannot tell, it is taken back (once more)
                return None if await self._recover(stage, work) is None else result
        return result

    async def _recover(self, stage: Stage[Any], work: Work) -> Any:
        """What the stage finds out, in the time it has. Raises StageTimeout, and whatever `recover` raises."""
        return await within(stage.timeout, f"finding out what came of {work.name}", stage.recover(work))

    async def settle_one(self, stage: Stage[Any]) -> list[str]:
        """Take back what others left open of the stage, the last first; the lock is held. What came of each.

        Raises what keeps it from being taken back.
        """
        came, failed = [], []
        for one in reversed(self._left_by_others(stage)):
            if error := await self._settle(stage, one):
                failed.append(error)
                continue
            last = self._undone(stage)
            stays = last.get("about") == one.about and last.get("stays")
            came.append(f"what run {one.run} left open {'stays: ' + last.get('said', '') if stays else 'was taken back'}")
        if failed:
            raise StageFailed("; ".join((*failed, *came)), next="python -m pipeline deployments")
        return came

    async def undo_standing(self, stage: Stage[Any], left: Leftover, why: str) -> str:
        """Take back what stands, because people say so; what came of it. Raises StageFailed when it cannot be taken back."""
        if left.result is None or not stage.can_undo():
            raise StageFailed(f"{self._pipeline.name_of(stage)} has no way back", right="a stage with `undo`")
        work = self._work(stage, results=partial(self._result_then, stage, left.run), interrupted=False)
        result = self._recorded(stage, left.result, left=stage, run=left.run)
        if error := await self._undo(stage, work, Done(left.about, result), why):
            raise StageFailed(error)
        said: str = self._undone(stage).get("said", "")
        return said or "taken back"

    def _undone(self, stage: Stage[Any]) -> Mapping[str, Any]:
        """What is told of the last effect of the stage that was taken back here; empty where none was."""
        last = self._journal.latest(self._pipeline.name_of(stage), ("undo.done",), run=self._run)
        return last.data if last else {}

    async def _undo(self, stage: Stage[Any], work: Work, done: Done, why: str) -> str:
        """Empty when the effect was taken back, in the time the stage has; else why not."""
        self._tell("undo.intended", stage, about=done.about, reason=why)
        try:
            came_of_it = await within(stage.timeout, f"taking {work.name} back", stage.undo(work, done.result))
        except BaseException as error:
            if not is_own(error):
                raise
            why_not = said(error)
            more = {name: True for name, kind in (("half", BrokenOff), ("later", NotNow)) if isinstance(error, kind)}
            self._tell("undo.failed", stage, about=done.about, error=why_not, trace=_trace(error), **more)
            return f"could not be undone: {why_not}"
        stays = {"stays": True} if isinstance(came_of_it, Stays) else {}
        self._tell("undo.done", stage, about=done.about, **({"said": came_of_it} if came_of_it else {}), **stays)
        return ""

    def _work_then(self, stage: Stage[Any], run: str) -> Work:
        """The stage's work with the inputs it had in that run."""
        results, cut = partial(self._result_then, stage, run), not self._found_wrong(stage, run)
        return self._work(stage, results=results, interrupted=cut, of=run)

    def _result_then(self, stage: Stage[Any], run: str, source: Stage[Any]) -> Any:
        """What an input of the stage returned in that run."""
        name = self._pipeline.name_of(source)
        found = self._journal.latest(name, ("stage.finished", "stage.cached"), run=run)
        if found is None:
            raise self._stuck(stage, run, f"it has no result of {name}", right="the inputs the stage had in that run")
        return self._recorded(source, found.data["result"], left=stage, run=run)

    def _found_wrong(self, stage: Stage[Any], run: str) -> bool:
        """Whether in that run the stage's result was refused or anything below it failed, as opposed to being cut off."""
        name = self._pipeline.name_of(stage)
        below: set[str] = set()
        for event in self._journal.events(run, kind=("run.started", "run.planned", "stage.expanded")):
            for step in event.data.get("stages", ()):  # in topological order
                if event.stage in below or not {name, *below}.isdisjoint(step["inputs"]):
                    below.add(step["name"])
        cleaning = set(map(self._pipeline.name_of, self._pipeline.always))  # which says nothing of what was there before
        failures = [event for event in self._journal.events(run, kind="stage.failed") if not event.data.get("unable")]
        failed = {event.stage for event in failures} - cleaning
        refused = name in failed and self._journal.latest(name, ("stage.finished",), run=run) is not None
        return refused or not failed.isdisjoint(below)

    def _recorded(self, stage: Stage[Any], digest: str, *, left: Stage[Any], run: str) -> Any:
        """What a stage returned in the run that left something open of `left`."""
        name = self._pipeline.name_of(stage)
        try:
            return records.result(self._store, stage, name, Blob(digest=digest, size=0))
        except StoreError as error:
            said = f"its result of {name} is lost: {error.what}"
            raise self._stuck(left, run, said, right=error.right) from error

    def _stuck(self, stage: Stage[Any], run: str, why: str, *, right: str) -> StoreError:
        name = self._pipeline.name_of(stage)
        return StoreError(
            f"what run {run} left open of {name} cannot be taken back: {why}",
            where=self._journal.where,
            right=right,
            next=f"look at what it acts on, then python -m pipeline run {name} --again {name}",
        )

    def _tell(self, kind: str, stage: Stage[Any], /, **data: Any) -> None:
        """Write to the journal if it can be written: what is taken back must not depend on a full disk."""
        with contextlib.suppress(JournalError):
            self._write(kind, stage, **data)

    def _write(self, kind: str, stage: Stage[Any], /, **data: Any) -> None:
        self._journal.append(self._event(kind, stage, **data))

    def _event(self, kind: str, stage: Stage[Any], /, **data: Any) -> Event:
        return Event(run=self._run, kind=kind, stage=self._pipeline.name_of(stage), data=data)


def _taken_back_by_others(events: Iterable[Event]) -> bool:
    """Whether other runs took back what stood before these events about one effect; their own attempts say nothing of it."""
    begun: set[str] = set()
    for event in events:
        if event.kind == "effect.intended":
            begun.add(event.run)
        undone = event.kind == "undo.done" and not event.data.get("stays")
        if undone or (event.kind == "effect.failed" and event.run not in begun):
            return True
    return False


def _done_since(events: Iterable[Event], mine: str) -> str:
    """The run that has done something else than `mine` last, and it was not taken back; empty where there is none."""
    found: dict[str, str] = {}
    for event in events:
        about = event.data.get("about", "")
        if event.kind in ("effect.done", "effect.stands") and about != mine:
            found[about] = event.run
        elif event.kind == "undo.done" and not event.data.get("stays"):
            found.pop(about, None)
    return list(found.values())[-1] if found else ""


def _is_kept(stage: Stage[Any]) -> bool:
    """Whether it is kept in mind what came of the stage's effect: it must not be repeated, or can be taken back."""
    return stage.effect is Effect.ONCE or stage.can_undo()


def is_own(error: BaseException) -> bool:
    """Whether an exception is the stage's own doing: neither an interrupt, nor a cancellation that somebody asked for."""
    if isinstance(error, KeyboardInterrupt):
        return False
    return isinstance(error, Exception | SystemExit) or anyio.current_effective_deadline() > -math.inf


@contextlib.contextmanager
def _no_matter() -> Iterator[None]:
    """For a question to a stage that may stay without an answer: what it raises by its own doing is none."""
    try:
        yield
    except BaseException as error:
        if not is_own(error):
            raise


def _trace(error: BaseException) -> str:
    return "" if isinstance(error, LockgateError) else "".join(traceback.format_exception(error))
