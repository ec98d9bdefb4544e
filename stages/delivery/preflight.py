"""Preflight: what would stop a deployment is found before anything is migrated for it."""

from __future__ import annotations

from typing import ClassVar

from pipeline import Effect, Result, Stage, Work
from stages.delivery.deploy import OpensRouter
from stages.delivery.freeze import check_not_frozen
from stages.delivery.probe import Ready


class Clear(Result):
    """Nothing stands in the way of a deployment."""

    said: str

    def summary(self) -> str:
        return self.said


class Preflight(Stage[Clear]):
    """Asks `router` whether users can be served where they are told to go. Name it in the `after` of a migration.

    Asked in every run, as ports are taken without anybody telling. Fails when the router could not listen, and while
    operators have frozen deployments.
    """

    effect: ClassVar[Effect] = Effect.RETRYABLE

    router: OpensRouter
    ready: Ready = "/readyz"

    async def run(self, work: Work) -> Clear:
        check_not_frozen(work)
        return Clear(said=await self.router.open(work, self.ready).check())
