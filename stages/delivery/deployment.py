"""A deployment: what came of a rollout that is complete, and how it is taken back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pipeline import StageFailed
from stages.delivery.model import Deployment, State
from stages.delivery.rollout import Rollout
from stages.delivery.strategy import Strategy


async def deployment(rollout: Rollout, group: str, groups: Iterable[str], weights: Mapping[str, int]) -> Deployment:
    """A complete rollout of `group`; `groups` ran before it, and traffic went by `weights`."""
    now = await rollout.state()
    warm = [name for name in (*State(weights=weights).serving, *now.groups, *sorted(now.resting)) if name != group]
    return Deployment(
        address=rollout.router.address,
        image=rollout.release.image.digest,
        group=group,
        previous=warm[0] if warm else "",
        before=dict(weights),
        started=group not in groups,
    )


async def take_back(rollout: Rollout, strategy: Strategy, result: Deployment, *, interrupted: bool) -> str | None:
    """Back to what served before, kept warm for this; what is told where there is nothing to do.

    That is when another rollout has replaced it meanwhile, or, if its run was only `interrupted`, when it served before too.
    """
    now = await rollout.state()
    if not now.weights.get(result.group):
        return f"{result.group} does not serve any more: there is nothing to go back from"
    groups = {name: group for name, group in now.groups.items() if name != result.group or not result.started}
    weights = result.before
    if weights.get(result.group):
        if interrupted:
            return f"{result.group} served before this run too, and nothing was found wrong with it: it stays"
        weights = await _warm(rollout, result)
    await rollout.back(strategy, State(groups=groups, weights=weights), result.group)
    return None


async def _warm(rollout: Rollout, result: Deployment) -> dict[str, int]:
    """All traffic to the group kept warm. Raises StageFailed when there is none that can serve."""
    if result.previous in await rollout.target.resting():
        return {result.previous: 100}  # it is started again on the way back
    reason = await rollout.target.unready(result.previous, rollout.release.ready) if result.previous else "there is none"
    if reason is not None:
        raise StageFailed(
            f"{result.group} goes on serving, as before this run; it has no release to go back to: {reason}",
            right="a release kept warm from an earlier deployment",
        )
    return {result.previous: 100}
