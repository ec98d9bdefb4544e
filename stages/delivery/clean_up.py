"""Clean-up: what a deployment kept warm is ended when its time is over, with its files and logs."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import ClassVar

import anyio

from gates import Verified
from gates.words import counted
from pipeline import Effect, Result, Stage, Work
from stages.delivery.deploy import Opens, OpensRouter
from stages.delivery.lock import alone
from stages.delivery.model import Deployment, State
from stages.delivery.probe import Ready
from stages.delivery.rollout import state


class Cleaned(Result):
    """Groups that were ended, and the one that was verified."""

    groups: tuple[str, ...]
    served: str

    def summary(self) -> str:
        return f"ended {', '.join(self.groups)}" if self.groups else "nothing was left to end"


class CleanUp(Stage[Cleaned]):
    """Ends every group that serves nobody, `warm` seconds after the deployment was verified, and removes what it leaves.

    Until then the way back takes no longer than a switch; afterwards `undo` has nothing to go back to. The run goes on
    meanwhile. A run that is cut off leaves them warm, and so does a rollout that goes on by then: the next rollout ends what is
    older.
    """

    effect: ClassVar[Effect] = Effect.RETRYABLE

    verified: Stage[Verified[Deployment]]
    target: Opens
    router: OpensRouter
    warm: float = 3600.0
    ready: Ready = "/readyz"
    timeout: float = 7 * 86_400.0

    async def run(self, work: Work) -> Cleaned:
        served = work[self.verified].deployment.group
        target, router = self.target.open(work), self.router.open(work, self.ready)
        old = others(await state(target, router), served)  # whoever shares the traffic may leave it meanwhile
        if self.warm and old:
            until = time.strftime("%H:%M:%S", time.localtime(time.time() + self.warm))
            work.say(f"what served before {served} is kept warm until {until}")
            await anyio.sleep(self.warm)
        async with alone(work.state("deploy"), work.say):
            gone = idle(await state(target, router), served, old)  # what has come since is somebody else's
            for group in gone:
                await router.forget(group)
                await target.stop(group)
        work.say(f"{counted(len(gone), 'group')} ended")
        return Cleaned(groups=gone, served=served)


def others(now: State, served: str) -> tuple[str, ...]:
    """The groups besides it. Pure."""
    return tuple(sorted({*now.groups, *now.resting} - {served}))


def idle(now: State, served: str, old: Collection[str]) -> tuple[str, ...]:
    """Which of the old ones there are and serve nobody; none unless what was verified serves all by itself. Pure."""
    return tuple(name for name in others(now, served) if name in old) if now.serving == (served,) else ()
