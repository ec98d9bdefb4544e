"""A rollout: the executor that runs any list of steps, journals each, and goes back when one fails."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import anyio

from gates.judge import Advice, Trial
from gates.window import Tick
from pipeline import BrokenOff, LockgateError, StageFailed
from pipeline.errors import JournalError
from stages.delivery.compare import compare
from stages.delivery.model import Release, State
from stages.delivery.router import Router
from stages.delivery.step import Again, Compare, Drain, Rest, Split, Start, Step, Stop, WaitReady, Weigh
from stages.delivery.strategy import Strategy
from stages.delivery.target import Target

if TYPE_CHECKING:
    from pipeline.journal import Event

Note = Callable[..., None]
"""Writes one event to the journal: `note(kind, **data)`."""

STARTS = 3
"""How often a rollout starts instances that end before they are ready: one may lose its port to somebody else."""


@dataclass(frozen=True)
class Rollout:
    """Target, router and journal of one rollout of `release`."""

    target: Target
    router: Router
    release: Release
    note: Note

    async def state(self) -> State:
        """What target and router say is true; the share of a group that does not run is nobody's."""
        groups, weights = await self.target.groups(), await self.router.current()
        served = {name: share for name, share in weights.items() if name in groups}
        return State(groups=groups, weights=served, resting=await self.target.resting())

    async def forward(self, strategy: Strategy) -> State:
        """Run the strategy; the state before it. On any failure, and when cancelled, the way back is run first.

        Raises BrokenOff when that fails too.
        """
        before = await self.state()
        await self._check_readiness(before)
        group = self.release.group
        self.note("rollout.started", group=group, groups=sorted(before.groups), weights=dict(before.weights))
        try:
            await self.run(strategy.forward(before, group))
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await self._back_after(error, strategy, before)
            raise
        self.note("rollout.finished", group=group)
        return before

    async def _check_readiness(self, before: State) -> None:
        """The router asks all groups by one path: one that answers by another would be taken for dead, on the way back too."""
        for group in before.serving:
            known = await self.target.readiness(group)
            if known is not None and known != self.release.ready:
                raise StageFailed(
                    f"{group} serves and says that it can by {known}, and this release by {self.release.ready}",
                    right=f"a release that answers both paths, deployed with ready={known!r} first; then one with the other",
                )

    async def back(self, strategy: Strategy, before: State, group: str) -> None:
        """Run the strategy's way back from `group` to `before`; where nothing runs then, the router ends too."""
        quiet = replace(self, note=partial(_if_it_can, self.note))  # going back must not depend on a full disk
        quiet.note("rollout.back", group=group, to=dict(before.weights))
        await quiet.run(strategy.back(before, group))
        if not await self.target.groups():
            await self.router.stop()
        quiet.note("rollout.finished", group=group, back=True)

    async def take_up(self, strategy: Strategy, started: Iterable[Event], finished: Iterable[Event]) -> None:
        """Take back a rollout that was cut off in the middle, or had just ended when its run was killed."""
        last = max(started, key=lambda event: event.seq, default=None)
        if last is None or any(event.seq > last.seq and event.data.get("back") for event in finished):
            return
        await self.back(strategy, recovered(await self.state(), last), last.data["group"])

    async def run(self, steps: tuple[Step, ...]) -> None:
        """Run steps in order, the intent and the outcome of each in the journal."""
        trial: Trial | None = None
        since: float | None = None
        for number, step in enumerate(steps, 1):
            self.note("rollout.intended", number=number, of=len(steps), step=str(step))
            started = time.monotonic()
            if isinstance(step, Weigh):
                trial = await self._weigh(step, trial.next_step() if trial else step.judge.begin())
            else:
                await self._step(step)
            now = time.monotonic()
            self.note("rollout.done", number=number, step=str(step), seconds=round(now - started, 3))
            if isinstance(step, Split) and not step.weights:
                since = started
            elif isinstance(step, Split) and since is not None:
                self.note("rollout.down", seconds=round(now - since, 3))
                since = None

    async def _back_after(self, error: BaseException, strategy: Strategy, before: State) -> None:
        """The way back; should it fail too, both reasons are told, and that the rollout is left half done."""
        try:
            await self.back(strategy, before, self.release.group)
        except Exception as second:
            self.note("rollout.stuck", error=str(second))
            first = error.what if isinstance(error, LockgateError) else f"{type(error).__name__}: {error}"
            if isinstance(error, Exception):
                raise BrokenOff(f"{first}; then the way back failed: {second}") from error

    async def _step(self, step: Step) -> None:
        match step:
            case Start():
                await self.target.start(self._own(step.group) or self.release)
            case WaitReady():
                await self._wait_ready(step)
            case Split():
                await self.router.split(dict(step.weights), await self.target.groups())
            case Drain():
                await self._drain(step)
            case Compare():
                await compare(step, self.router, await self.target.groups(), self.note)
            case Rest():
                await self.target.rest(step.group)
            case Again():
                await self.target.again(step.group)
            case Stop():
                await self.router.forget(step.group)
                await self.target.stop(step.group)

    async def _weigh(self, step: Weigh, trial: Trial) -> Trial:
        """Look each tick until the judge decides. Raises StageFailed with the evidence unless the group may go on."""
        async with self.router.watch() as watch:
            looked = anyio.current_time()
            while trial.advice is Advice.HOLD:
                await anyio.sleep_until(looked + step.tick)
                before, looked = looked, anyio.current_time()
                old, new = watch.windows(step.against, (step.group,))
                trial = trial.after(Tick(seconds=looked - before, old=old, new=new))
        said = trial.said()
        self.note("rollout.judged", group=step.group, advice=trial.advice.value, said=said, seconds=round(trial.seconds, 3))
        if trial.advice is not Advice.PROMOTE:
            raise StageFailed(f"{step.group} may not go on: {said}", right="a release that is no worse than the one before it")
        return trial

    async def _wait_ready(self, step: WaitReady) -> None:
        """Poll until ready; a group that is not ready in time, or ends again and again, fails the rollout with its reason."""
        reason: str | None = "never asked"
        own = self._own(step.group)
        starts = 1
        with anyio.move_on_after(step.within):
            while (reason := await self._unready(step.group)) is not None:
                ended = await self.target.ended(own) if own else None
                if own and ended is not None:
                    if starts == STARTS:
                        reason = ended
                        break
                    starts += 1
                    await self.target.start(own)
                await anyio.sleep(0.1)
        if reason is not None:
            raise StageFailed(
                f"{step.group} was not ready within {step.within:g} s: {reason}",
                right=f"every instance answers {self.release.ready} with 200",
            )

    async def _unready(self, group: str) -> str | None:
        """Why the group cannot serve, or None; of the release's own groups no instance may be missing."""
        reason = await self.target.unready(group, self.release.ready)
        own = self._own(group)
        return await self.target.ended(own) or reason if own else reason

    def _own(self, group: str) -> Release | None:
        """What the group runs, where that is this release, in shadow or not."""
        return next((one for one in (self.release, self.release.shadowed()) if one.group == group), None)

    async def _drain(self, step: Drain) -> None:
        """Poll until nothing is in flight; requests that take longer are left to the router's own limit."""
        left = -1
        with anyio.move_on_after(step.within):
            while (left := await self.router.in_flight(step.group)) > 0:
                await anyio.sleep(0.05)
        if left > 0:
            self.note("rollout.undrained", group=step.group, requests=left)


def unfinished(started: Iterable[Event], finished: Iterable[Event]) -> bool:
    """Whether nothing in the journal says how the last rollout that was started ended. Pure."""
    last = max((event.seq for event in started), default=0)
    return last > max((event.seq for event in finished), default=0)


def recovered(now: State, started: Event) -> State:
    """What was true before the rollout that `started` tells of, as far as it still runs; `now` when none of it does. Pure."""
    served: dict[str, int] = {name: share for name, share in started.data["weights"].items() if share > 0}
    weights = {name: share for name, share in served.items() if name in now.groups or name in now.resting}
    if served and not weights:
        return now
    return State(groups={name: now.groups[name] for name in started.data["groups"] if name in now.groups}, weights=weights)


def _if_it_can(note: Note, kind: str, **data: object) -> None:
    """Write to the journal unless that cannot be written."""
    with contextlib.suppress(JournalError):
        note(kind, **data)
