"""Contract: what only older releases needed is taken out of the database, once none of them can serve again."""

from __future__ import annotations

from pipeline import Stage, StageFailed, Work
from stages.delivery.clean_up import Cleaned
from stages.delivery.migration import Migrate
from stages.delivery.target import Target


class Contract(Migrate):
    """Runs the migration that takes something away, as `alembic upgrade contract@head`, after `cleaned`: it closes the way back.

    Refused as long as any other group than the one that was verified runs, or rests and could be started again.
    """

    cleaned: Stage[Cleaned]

    async def check(self, work: Work, target: Target) -> None:
        served = work[self.cleaned].served
        others = sorted({*await target.groups(), *await target.resting()} - {served})
        if others:
            raise StageFailed(
                f"{', '.join(others)} may still need what the migration takes away",
                right=f"{served} and no other release, run or kept warm",
                next="python -m pipeline deployments; the next rollout, or a CleanUp, ends what is older",
            )
