"""A run: executes a plan, stage by stage, and writes what happens to the journal."""

from __future__ import annotations

import contextlib
import random
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from pipeline import key as keys
from pipeline import record as records
from pipeline.cleanup import Cleanup
from pipeline.data import Blob, Result
from pipeline.effects import Effects, is_own
from pipeline.engine import Engine
from pipeline.errors import BrokenOff, EngineError, Exit, JournalError, LockgateError, StageFailed, StoreError, said
from pipeline.events import expanded, run_finished, settled, shared
from pipeline.fan_out import FanOut, further
from pipeline.journal import Event, Journal
from pipeline.limit import Limit
from pipeline.plan import Decision, Plan, Step, decide, refusal
from pipeline.project import Project
from pipeline.schedule import Capacity, Schedule, priorities
from pipeline.stage import Effect, Stage
from pipeline.store import OF_THE_DISK, Store, unwritable
from pipeline.work import Surroundings, Work

if TYPE_CHECKING:
    from pipeline.remote.sharing import Sharing
    from pipeline.workers.workers import Workers

TOGETHER, LONGEST = 0.1, 0.3
"""Seconds for which, at least and at most, what happens is gathered before it is written; what must not be lost is written at
once."""

SHARE = 10
"""How many times as long as it takes to write it is gathered, so that slow disks and many quick stages do not wait for it. Work
that took as long, or `WORTH`, is written as soon as that may be."""

TURN = 0.02
"""Seconds of work after which others have their turn: signals, and what waits for something else."""

WORTH = 1.0
"""Seconds of work that are never done again because what came of them was still being gathered."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended: `failed` maps stage names to what went wrong."""

    run: str
    exit: Exit
    failed: dict[str, str]


class Begun(NamedTuple):
    """An attempt of a fan-out that waits for its parts: its number, when it began, and how many actions it had."""

    attempt: int
    started: float
    actions: int


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a plan is executed."""

    capacity: Capacity
    fail_fast: bool = False
    resumed: bool = False
    """Whether the run was cut off and goes on: what it has done is not done again."""


class Runner:
    """Executes one plan. What happened to each stage is kept as the step it turned into."""

    def __init__(
        self,
        plan: Plan,
        *,
        run: str,
        engine: Engine,
        store: Store,
        journal: Journal,
        project: Project,
        options: Options,
        listen: Callable[[str, bytes], None] = lambda _name, _piece: None,
        remote: Sharing | None = None,
        workers: Workers | None = None,
    ) -> None:
        self.id = run
        self._plan, self._pipeline, self._world = plan, plan.pipeline, plan.world
        self._engine, self._store, self._journal, self._project = engine, store, journal, project
        self._options, self._remote, self._workers = options, remote, workers
        self._around = Surroundings(run, store, journal, project, plan.world.facts, listen, self._name)
        self._seconds = journal.durations(step.name for step in plan.steps)
        self._done: dict[Stage[Any], Step] = {}
        self._failed: dict[Stage[Any], str] = {}
        self._unable: set[Stage[Any]] = set()
        """Those that failed for want of a disk, an engine or the journal: nothing was found wrong."""
        self._results: dict[Stage[Any], Result] = {}
        self._effects = Effects(
            plan.pipeline,
            run,
            journal=journal,
            store=store,
            lock=journal.effects_lock(),
            work=partial(self._work, attempt=0),
            resumed=options.resumed,
        )
        self._attempted = Counter(event.stage for event in journal.events(run, kind="stage.started")) if options.resumed else {}
        journal.follow(store.flush)
        self._working, self._taking_back, self._sending = anyio.CancelScope(), anyio.CancelScope(shield=True), anyio.CancelScope()
        self._parts: dict[Stage[Any], Mapping[str, Stage[Any]]] = {}
        """Of each fan-out whose parts are known, those, by label."""
        self._whole: dict[Stage[Any], Stage[Any]] = {}
        """Of each stage that became known while the run went on the fan-out that rests on it."""
        self._passing: set[Stage[Any]] = set()
        """Fan-outs that rest on a result which no later run may take."""
        self._begun: dict[Stage[Any], Begun] = {}
        self._unconfirmed: dict[Stage[Any], list[Stage[Any]]] = {}
        """Of each stage with an open effect, among those that confirm it, the ones that have not been seen to pass."""
        self._limits: set[Limit] = set()
        self._stops = 0
        self._let_in, self._written, self._pause = 0.0, 0.0, 0.0
        """When the event loop last had its turn, when the journal was last written, and how many seconds are to pass after it."""
        self._wanted = frozenset(step.stage for step in plan.steps)
        self._schedule = self._scheduled(self._wanted)
        self._cleanup = Cleanup(self._pipeline, self._wanted, self._effects.is_open)

    def _scheduled(self, wanted: frozenset[Stage[Any]]) -> Schedule:
        return Schedule(
            pipeline=self._pipeline,
            wanted=wanted,
            capacity=self._options.capacity,
            priority=priorities(self._pipeline, wanted, self._seconds),
            elsewhere=self._workers.processors if self._workers else lambda: 0,
            expected=lambda stage: self._seconds.get(self._name(stage), 1.0),
        )

    async def run(self) -> Outcome:
        """Execute the plan. Before this returns, side effects that nothing downstream confirmed are taken back, and what always
        runs has run."""
        finished, exit_code = False, Exit.INTERRUPTED
        try:
            with self._working:
                await self._effects.settle(stage for stage in self._pipeline if stage in self._wanted)
                await self._execute()
                finished = True
        except Exception:
            exit_code = Exit.UNUSABLE
            raise
        finally:
            with self._taking_back:
                await self._take_back(finished)
                await self._clean_up()
            if finished and not self._cleanup.left:
                exit_code = self._exit_code()
                with self._sending:
                    await self._share_the_rest()
            self._close(exit_code)
        failed = {self._name(stage): why for stage, why in self._failed.items()}
        return Outcome(run=self.id, exit=exit_code, failed=failed)

    async def _take_back(self, finished: bool) -> None:
        """Take back what is open, unless it is another process's to decide."""
        if not self._journal.taken_over:
            cut_off = partial(self._cut_off, finished=finished)
            self._failed |= await self._effects.take_back(self._missing, cut_off)

    async def _clean_up(self) -> None:
        """Run what always runs and had no turn yet: all else has ended. Nothing begins that the journal would not know of."""
        left = self._cleanup.last()
        if left and not self._journal.taken_over:
            self._schedule = self._scheduled(left)
            with contextlib.suppress(JournalError):  # whoever writes that the run has finished says so
                await self._execute()

    def _exit_code(self) -> Exit:
        if not self._failed:
            return Exit.PASSED
        return Exit.UNUSABLE if self._failed.keys() <= self._unable else Exit.FAILED

    def _close(self, exit_code: Exit) -> None:
        """Journal how the run ended. Raises JournalError where that cannot be, and says what failed before: nobody else will."""
        try:
            self._journal.check()
            self._journal.append(run_finished(self.id, int(exit_code), sorted(map(self._name, self._failed))))
        except JournalError as error:
            others = ((self._name(stage), why.partition("\n")[0]) for stage, why in self._failed.items() if why != str(error))
            before = "".join(f"; before that {name} failed: {why}" for name, why in others)
            raise JournalError(error.what + before, where=error.where, right=error.right, next=error.next) from error

    def stop(self) -> None:
        """Stop working, take back what is open, clean up. Asked a second time, say so; a third time, leave that."""
        self._stops += 1
        if self._stops == 1:
            self._working.cancel()
            self._sending.cancel()
        elif self._stops == 2:
            cleaning = f", then cleaning up: {self._cleanup.names()}" if self._cleanup.left else ""
            self._write(
                "run.stopping", said=f"taking back what is not confirmed{cleaning}; once more leaves that to the next run"
            )
        else:
            self._taking_back.cancel()
            self._cleanup.leave()
            if self._stops == 3 and self._cleanup.left:
                left = self._cleanup.names()
                self._write("run.stopping", said=f"not cleaned up: {left}; python -m pipeline resume goes on with it")

    def results(self) -> dict[str, Any]:
        """The results of all stages that have one, by name, read from the store where they were cached."""
        return {self._name(stage): self._result(stage) for stage, step in self._done.items() if step.record is not None}

    async def _execute(self) -> None:
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._keep_up)
                async with anyio.create_task_group() as workers:
                    self._start(workers, self._ready())
                group.cancel_scope.cancel()
            self._journal.flush()
        except ExceptionGroup as several:  # the journal, say, cannot be written: the first reason is the one to tell
            raise _first(several) from several

    async def _keep_up(self) -> None:
        """Write what was noted, many stages at once, as each time is a wait for the disk; see to limits of what takes long."""
        while True:
            await anyio.sleep(TOGETHER)
            if is_due(time.monotonic() - self._written, self._pause):
                self._flush()
            for limit in self._limits:
                limit.arm()

    def _flush(self) -> None:
        began = time.monotonic()
        self._journal.flush()
        self._written = time.monotonic()
        self._pause = SHARE * (self._written - began)

    def _start(self, workers: TaskGroup, ready: Iterable[tuple[Stage[Any], Step]]) -> None:
        for stage, step in ready:
            workers.start_soon(self._work_through, workers, stage, step)

    async def _work_through(self, workers: TaskGroup, stage: Stage[Any], step: Step) -> None:
        """Work on a stage, and then on what is ready next; what else is ready is started beside it."""
        ready: list[tuple[Stage[Any], Step]] = [(stage, step)]
        with self._limited() as limit:
            while ready:
                (stage, step), *others = ready
                self._start(workers, others)
                await self._settled(stage, step, limit)
                now = time.monotonic()
                if is_due(now - self._written, self._pause, self._took(stage)):
                    self._flush()
                if now - self._let_in > TURN:
                    await self._let_others_in()
                ready = self._ready()

    async def _settled(self, stage: Stage[Any], step: Step, limit: Limit) -> None:
        """Work on a stage to its end, or until its parts are to be worked on."""
        try:
            if stage.always:
                await self._uncut(stage, step)
            elif not await self._was_shared(stage, step):
                await self._attempts(stage, step, limit)
        finally:
            self._effects.end(stage)
            self._schedule.give_back(stage)
            if stage not in self._begun:
                self._schedule.settle(stage)

    @contextlib.contextmanager
    def _limited(self) -> Iterator[Limit]:
        """A limit that is seen to as long as the run goes on."""
        with Limit() as limit:
            self._limits.add(limit)
            try:
                yield limit
            finally:
                self._limits.discard(limit)

    def _took(self, stage: Stage[Any]) -> float:
        """Seconds that this run has worked for the stage's result."""
        record = self._done[stage].record if stage in self._done else None
        return record.seconds if record is not None and record.run == self.id else 0.0

    async def _uncut(self, stage: Stage[Any], step: Step) -> None:
        """Work on a stage that always runs: once it has begun, only who leaves that to the next run cuts it off."""
        await checkpoint_if_cancelled()
        with self._cleanup.uncut(), Limit(at_once=True) as limit:  # who sees to the others may be cut off
            if not await self._was_shared(stage, step):
                await self._attempts(stage, step, limit)
            self._cleanup.left.discard(stage)
        await checkpoint_if_cancelled()  # the run may have been asked to stop meanwhile

    async def _let_others_in(self) -> None:
        """Stages that wait for nothing would keep signals and the journal waiting."""
        await checkpoint()
        self._let_in = time.monotonic()

    def _ready(self) -> list[tuple[Stage[Any], Step]]:
        """What is to be executed now. What needs no work on the way there is settled, and told together."""
        ready: list[tuple[Stage[Any], Step]] = []
        idle: list[Step] = []
        others: list[Event] = []
        while (stage := self._schedule.take()) is not None:
            step = self._settle_without_work(stage, idle, others)
            if step is None:
                self._schedule.give_back(stage)
                self._schedule.settle(stage)
            else:
                ready.append((stage, step))
        if idle or others:
            self._effects.journal(self._confirmed, *settled(idle, self.id), *others)
        return ready

    def _settle_without_work(self, stage: Stage[Any], idle: list[Step], others: list[Event]) -> Step | None:
        """The step to execute, or None when the stage needs no work: cached or skipped, and joins `idle`, or out of reach."""
        if stage.always and self._cleanup.waits(stage):
            return None
        lost = [source for source in self._pipeline.needs(stage) if source not in self._done or self._in_the_way(stage, source)]
        if lost and stage.always:
            self._cleanup.left.discard(stage)
            why = f"there is nothing to clean up: {', '.join(map(self._name, lost))} did not pass"
            others.append(self._event("stage.skipped", stage, reason=why))
            return None
        if lost or (self._options.fail_fast and self._failed and not stage.always):
            why = f"{', '.join(map(self._name, lost))} did not pass" if lost else "another stage failed"
            others += [*self._kept_away(stage, lost), self._event("stage.blocked", stage, reason=why)]
            return None
        step = decide(self._pipeline, stage, self._done, self._plan.skipped, self._world)
        if step.decision is Decision.RUN:
            return step
        if step.record is not None and step.record.run == self.id:
            same = (
                "it was done before the run was cut off"
                if self._options.resumed
                else "another stage of this run had the same to do"
            )
            step = step._replace(reason=same)
        self._done[stage] = step
        self._cleanup.left.discard(stage)
        idle.append(step)
        if step.record is not None:
            others += self._weighed(stage, step.record)
        return None

    def _in_the_way(self, stage: Stage[Any], source: Stage[Any]) -> bool:
        """Whether `stage` only comes after `source`, and that has a result with which nobody should go on."""
        record = self._done[source].record
        return record is not None and bool(record.concern) and source not in self._pipeline.used(stage)

    def _kept_away(self, stage: Stage[Any], lost: list[Stage[Any]]) -> list[Event]:
        """Fail those whose concern keeps `stage` away: so who was to judge it may be kept away too."""
        found = []
        for source in lost:
            record = self._done[source].record if source in self._done else None
            if record is not None and source not in self._failed:
                found.append(self._failure(source, 0, record.seconds, StageFailed(record.concern)))
        return found

    async def _was_shared(self, stage: Stage[Any], step: Step) -> bool:
        """Whether the remote cache had the stage's result, with which it is settled now."""
        if self._remote is None or stage in self._parts or (record := await self._remote.fetch(stage, step)) is None:
            return False
        reason = f"made elsewhere in run {record.run}, from {self._remote.address}"
        self._done[stage] = step = step._replace(decision=Decision.CACHED, reason=reason, record=record)
        taken = shared(step, self.id, self._remote.address)
        self._effects.journal(self._confirmed, taken, *self._weighed(stage, record))
        return True

    async def _share_the_rest(self) -> None:
        if self._remote is not None:
            with contextlib.suppress(JournalError):  # whoever writes that the run has finished says so
                await self._remote.end()

    async def _attempts(self, stage: Stage[Any], step: Step, limit: Limit) -> None:
        """Run the stage, again where its policy says so, and keep its result."""
        before = self._attempted.get(self._name(stage), 0)
        last_one = before + (1 if stage.effect is Effect.ONCE else 1 + stage.retry.times)
        begun = self._begun.pop(stage, None)
        for attempt in range(begun.attempt if begun else before + 1, last_one + 1):
            if begun is None:
                about = {"attempt": attempt, "reason": step.reason, "effect": stage.effect.value}
                self._journal.note(Event(self.id, "stage.started", step.name, about))
            _, started, actions = begun or Begun(attempt, time.monotonic(), 0)
            begun = None
            try:
                if isinstance(stage, FanOut) and stage not in self._parts:
                    await self._fan_out(stage, attempt, started, limit)
                    return
                kept = await self._attempt(stage, attempt, actions, limit)
                self._finish(stage, step, kept, time.monotonic() - started)
                return
            except BaseException as error:
                if not is_own(error):
                    raise
                seconds = time.monotonic() - started
                last = attempt == last_one or not isinstance(error, stage.retry.on)
                self._journal.append(self._failure(stage, attempt, seconds, error, last=last))
                if last:
                    return
                await anyio.sleep(stage.retry.wait * 2 ** (attempt - before - 1) * random.uniform(0.5, 1.5))  # noqa: S311 - jitter

    async def _fan_out(self, stage: FanOut[Any, Any], attempt: int, started: float, limit: Limit) -> None:
        """Add the parts of a stage to the run, which comes to the stage again when they have ended."""
        name, work = self._name(stage), self._work(stage, attempt=attempt)
        parts = await limit.within(stage.timeout, name, stage.parts(work))
        names = further(self._pipeline, stage, parts)
        for new, why in ((new, refusal(new, self._world)) for new in names):
            if why:
                raise StageFailed(f"{names[new]} cannot take part: {why}", right=f"parts of {name} that can run here")
        grown = self._pipeline.grown(stage, parts.values(), names)
        seconds = self._journal.durations(names.values())
        urgent = priorities(grown, names, seconds, least=self._schedule.priority[stage])
        self._schedule.grow(stage, grown, urgent)
        self._seconds |= seconds
        self._plan = self._plan.grown(grown, stage, names)
        self._pipeline, self._world = grown, self._plan.world
        if self._remote is not None:
            self._remote.grow(self._plan, stage, names)
        self._journal.note(expanded(grown, stage, names, self.id))
        self._parts[stage], self._begun[stage] = dict(parts), Begun(attempt, started, work.actions)
        self._whole |= dict.fromkeys(names, stage)

    async def _attempt(self, stage: Stage[Any], attempt: int, actions: int, limit: Limit) -> records.Kept:
        work, name = self._work(stage, attempt=attempt, actions=actions), self._name(stage)
        about = self._about(stage)
        value = await self._effects.begin(stage, about, again=name in self._world.again, say=work.say)
        if value is None:
            value = await self._value(stage, work, about, limit)
        kept = records.keep(self._store, stage, name, value)
        if stage.effect is not Effect.PURE:
            self._effects.done(stage, about, kept.result, kept.digest)
        return kept

    async def _value(self, stage: Stage[Any], work: Work, about: str, limit: Limit) -> Any:
        """What the stage returns. Of an effect that nobody knows of when it raises, nothing is said."""
        try:
            if not stage.resources.locks:
                return await limit.within(stage.timeout, work.name, stage.run(work))
            with await self._alone(stage, work):
                return await limit.within(stage.timeout, work.name, stage.run(work))
        except BrokenOff:
            raise
        except StageFailed as error:
            self._effects.failed(stage, about, str(error))
            raise

    async def _alone(self, stage: Stage[Any], work: Work) -> contextlib.ExitStack:
        """Nobody else has the stage's locks until that is closed, in no other run either.

        They are taken in the order of their names, so that none waits for who waits for it.
        """
        with contextlib.ExitStack() as held:
            for name in sorted(stage.resources.locks):
                lock = self._journal.lock(name)
                await lock.take(partial(work.say, f"another run has the lock {name!r}; waiting for it"))
                held.callback(lock.give_back)
            return held.pop_all()

    def _about(self, stage: Stage[Any]) -> str:
        """What a side effect is about; nothing to say of a stage that has none."""
        if stage.effect is Effect.PURE:
            return ""
        inputs = {source: found.result for source in self._pipeline.needs(stage) if (found := self._done[source].record)}
        return keys.about(stage, inputs)

    def _finish(self, stage: Stage[Any], step: Step, kept: records.Kept, seconds: float) -> None:
        """Keep the result, and journal in one go what follows from it: nobody sees a verification without what it confirms."""
        self._results[stage] = kept.result
        key = step.key if kept.result.reusable() and stage not in self._passing else None
        if key is None and stage in self._whole:
            self._passing.add(self._whole[stage])  # whose key says nothing of this result
        record = records.of(kept, parts=step.parts or "{}", run=self.id, seconds=seconds)
        if key is not None:
            records.save(self._store, key, record)
            if self._remote is not None:
                self._remote.offer(stage, step, record)
        elif stage.judges:
            self._forget_evidence(stage)
        self._done[stage] = step._replace(record=record)
        about = {
            "key": key,
            "result": record.result,
            "seconds": round(seconds, 6),
            "summary": record.summary,
            "concern": record.concern,
        }
        finished = Event(self.id, "stage.finished", step.name, about)
        self._effects.journal(self._confirmed, finished, *self._weighed(stage, record))

    def _forget_evidence(self, stage: Stage[Any]) -> None:
        """Evidence that a judge said no to is made again by the next run: what was found may have been the machine's fault."""
        evidence = self._pipeline.used(stage)
        for source in (*evidence, *(part for whole in evidence for part in self._parts.get(whole, {}).values())):
            key = self._done[source].key
            if key is not None:
                self._store.forget(key)
            if self._remote is not None:
                self._remote.withdraw(self._done[source])

    def _weighed(self, stage: Stage[Any], record: records.Record) -> list[Event]:
        """Fail a stage whose result is a concern that nothing downstream in this run judges."""
        if not record.concern or self._plan.judged(stage):
            return []
        return [self._failure(stage, 0, record.seconds, StageFailed(record.concern))]

    def _missing(self, stage: Stage[Any]) -> list[str]:
        """What has yet to pass before the effect of `stage` stands."""
        return [self._name(other) for other in self._confirming(stage) if not self._passed(other)]

    def _confirming(self, stage: Stage[Any]) -> list[Stage[Any]]:
        """The stage itself, and those that confirm its effect, else all below it."""
        taking_part = self._wanted - self._plan.skipped.keys()
        below = [other for other in self._pipeline.downstream(stage) if other in taking_part and not other.always]
        confirming = [other for other in below if other.confirms]
        return [stage, *(confirming or below)]

    def _passed(self, stage: Stage[Any]) -> bool:
        return stage in self._done and stage not in self._failed

    def _confirmed(self, stage: Stage[Any]) -> bool:
        """Whether the effect of `stage` stands. What has passed is not looked at again, as this is asked after each stage."""
        if stage not in self._unconfirmed:
            self._unconfirmed[stage] = self._confirming(stage)
        left = self._unconfirmed[stage]
        while left and self._passed(left[-1]):
            left.pop()
        return not left

    def _cut_off(self, stage: Stage[Any], *, finished: bool) -> bool:
        """Whether nothing was found wrong with the stage: the run was stopped, or had no disk, engine or journal for what could.

        Wherever that is noticed first.
        """
        below, wrong = self._pipeline.downstream(stage), self._failed.keys() - self._unable
        refused = stage in self._done and stage in wrong
        if refused or any(not below.isdisjoint({other, self._whole.get(other)}) for other in wrong if not other.always):
            return False
        return not finished or bool(self._unable)

    def _failure(self, stage: Stage[Any], attempt: int, seconds: float, error: BaseException, *, last: bool = True) -> Event:
        """That an attempt failed; with the last one the stage has. A disk that fails a stage's own writes is no bug of it."""
        if isinstance(error, OSError) and error.errno in OF_THE_DISK:
            error = unwritable(self._project.home, error)
        what, own = said(error), error if isinstance(error, LockgateError) else None
        if last:
            self._failed[stage] = what
            if isinstance(error, StoreError | EngineError | JournalError):
                self._unable.add(stage)
        unable = {"unable": True} if last and stage in self._unable else {}
        return self._event(
            "stage.failed" if last else "stage.retried",
            stage,
            attempt=attempt,
            seconds=round(seconds, 6),
            error=what,
            type=type(error).__name__,
            tail=getattr(own, "tail", ""),
            details=getattr(own, "details", {}),
            trace="" if own else "".join(traceback.format_exception(error)),
            **unable,
        )

    def _work(
        self,
        stage: Stage[Any],
        /,
        *,
        attempt: int,
        results: Callable[[Stage[Any]], Any] | None = None,
        interrupted: bool = False,
        of: str = "",
        actions: int = 0,
    ) -> Work:
        return Work(
            self._around,
            self._name(stage),
            attempt=attempt,
            observed=self._world.observed.get(stage),
            inputs=self._pipeline.needs(stage),
            results=results or self._result,
            engine=self._engine_of(stage),
            interrupted=interrupted,
            of=of,
            parts=self._parts.get(stage, {}),
            actions=actions,
        )

    def _engine_of(self, stage: Stage[Any]) -> Engine:
        """What executes the stage's actions. Those of an effect never leave this process: on a worker that is lost, or out of
        reach for a while, one could take place twice.
        """
        if self._workers is None or stage.effect is not Effect.PURE:
            return self._engine
        name = self._name(stage)
        return self._workers.engine(name, self._seconds.get(name))

    def _result(self, stage: Stage[Any]) -> Any:
        """The result of a settled stage, read from the store the first time a cached one is asked for."""
        if stage not in self._results:
            found = self._done[stage].record
            if found is None:
                raise AssertionError(f"{self._name(stage)} has no result")  # it is settled, or nobody below it would run
            blob = Blob(digest=found.result, size=found.size)
            self._results[stage] = records.result(self._store, stage, self._name(stage), blob)
        return self._results[stage]

    def _name(self, stage: Stage[Any]) -> str:
        return self._pipeline.name_of(stage)

    def _write(self, kind: str, stage: Stage[Any] | None = None, /, **data: Any) -> None:
        self._journal.append(self._event(kind, stage, **data))

    def _event(self, kind: str, stage: Stage[Any] | None = None, /, **data: Any) -> Event:
        return Event(run=self.id, kind=kind, stage=self._name(stage) if stage else "", data=data)


def is_due(since: float, pause: float, took: float = 0.0) -> bool:
    """Whether to write what was noted, `since` it was done last, for which `pause` is to pass; the last stage `took` as long.

    What is quickly done again is gathered for longer.
    """
    return took >= WORTH or min(took, since) > pause or since > min(max(TOGETHER, pause), LONGEST)


def _first(several: ExceptionGroup[Exception]) -> Exception:
    """The first reason, however deep."""
    first = several.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first
