"""A rollout: the executor that runs any list of steps, journals each, and goes back when one fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import anyio

from pipeline import StageFailed
from stages.delivery.model import Release, State
from stages.delivery.router import Router
from stages.delivery.step import Drain, Split, Start, Step, Stop, WaitReady
from stages.delivery.strategy import Strategy
from stages.delivery.target import Target

Note = Callable[..., None]
"""Writes one event to the journal: `note(kind, **data)`."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """Target, router and journal of one rollout of `release`."""

    target: Target
    router: Router
    release: Release
    note: Note

    async def state(self) -> State:
        """What target and router say is true."""
        return State(groups=await self.target.groups(), weights=await self.router.current())

    async def forward(self, strategy: Strategy) -> State:
        """Run the strategy; the state before it. On any failure, and when cancelled, the way back is run first."""
        before = await self.state()
        try:
            await self.run(strategy.forward(before, self.release.group))
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.back(strategy, before)
            raise
        return before

    async def back(self, strategy: Strategy, before: State) -> None:
        """Run the strategy's way back to `before`."""
        self.note("rollout.back", to=dict(before.weights))
        await self.run(strategy.back(before, self.release.group))

    async def run(self, steps: tuple[Step, ...]) -> None:
        """Run steps in order, the intent and the outcome of each in the journal."""
        for number, step in enumerate(steps, 1):
            self.note("rollout.intended", number=number, of=len(steps), step=str(step))
            started = time.monotonic()
            await self._step(step)
            self.note("rollout.done", number=number, step=str(step), seconds=round(time.monotonic() - started, 3))

    async def _step(self, step: Step) -> None:
        match step:
            case Start():
                await self.target.start(self.release)
            case WaitReady():
                await self._wait_ready(step)
            case Split():
                await self.router.split(dict(step.weights), await self.target.groups())
            case Drain():
                await self._drain(step)
            case Stop():
                await self.router.forget(step.group)
                await self.target.stop(step.group)

    async def _wait_ready(self, step: WaitReady) -> None:
        """Poll until ready; a group that is not ready in time fails the rollout with its reason."""
        reason: str | None = "never asked"
        with anyio.move_on_after(step.within):
            while (reason := await self.target.unready(step.group, self.release.ready)) is not None:
                await anyio.sleep(0.1)
        if reason is not None:
            raise StageFailed(
                f"{step.group} was not ready within {step.within:g} s: {reason}",
                right=f"every instance answers {self.release.ready} with 200",
            )

    async def _drain(self, step: Drain) -> None:
        """Poll until nothing is in flight; requests that take longer are left to the router's own limit."""
        left = -1
        with anyio.move_on_after(step.within):
            while (left := await self.router.in_flight(step.group)) > 0:
                await anyio.sleep(0.05)
        if left > 0:
            self.note("rollout.undrained", group=step.group, requests=left)
