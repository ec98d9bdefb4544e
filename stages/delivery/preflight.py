"""Preflight: what would stop a deployment is found before anything is migrated for it."""

from __future__ import annotations

from typing import ClassVar

from gates.words import counted
from pipeline import Effect, Result, Stage, Work
from stages.delivery.deploy import Opens, OpensRouter
from stages.delivery.freeze import check_not_frozen
from stages.delivery.probe import Ready


class Clear(Result):
    """Nothing stands in the way of a deployment."""

    said: str

    def summary(self) -> str:
        return self.said


class Preflight(Stage[Clear]):
    """Asks `router` whether users can be served where they are told to go, and `target` what runs. Name it in the `after`
    of a migration.

    Asked in every run, as ports are taken without anybody telling. Fails when the router could not listen, when the
    target's daemon or machine does not answer, and while operators have frozen deployments.
    """

    effect: ClassVar[Effect] = Effect.RETRYABLE

    router: OpensRouter
    target: Opens | None = None
    ready: Ready = "/readyz"

    async def run(self, work: Work) -> Clear:
        check_not_frozen(work)
        said = await self.router.open(work, self.ready).check()
        if self.target is not None:
            said += f"; {counted(len(await self.target.open(work).groups()), 'release')} on the target"
        return Clear(said=said)
