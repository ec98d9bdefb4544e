"""One step of a shadow: copies of requests are sent and compared until the judge decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import anyio

from gates.judge import Advice
from gates.window import Tick
from pipeline import StageFailed
from stages.delivery.comparer import comparing
from stages.delivery.model import Address, Group
from stages.delivery.router import Mirrors, Router
from stages.delivery.step import Compare


async def compare(step: Compare, router: Router, groups: Mapping[str, Group], note: Callable[..., None]) -> None:
    """Raises StageFailed with the evidence unless the group may go on."""
    if not isinstance(router, Mirrors):
        raise StageFailed(f"{type(router).__name__} cannot send copies of requests", right="a router that can: Envoy")
    old = [address for name in step.against for address in _instances(groups, name)]
    trial = step.judge.begin()
    async with (
        comparing(old, _instances(groups, step.group), step.ignored) as (place, comparison),
        router.mirror(place, step.share),
    ):
        looked = anyio.current_time()
        while trial.advice is Advice.HOLD:
            await anyio.sleep_until(looked + step.tick)
            before, looked = looked, anyio.current_time()
            then, now = comparison.windows()
            trial = trial.after(Tick(seconds=looked - before, old=then, new=now))
    said = f"{trial.said()}; {comparison.said()}"
    counts = {"compared": comparison.compared, "different": comparison.different, "skipped": comparison.skipped}
    noise = sorted(comparison.noise.found)
    note("rollout.compared", group=step.group, advice=trial.advice.value, said=said, noise=noise, **counts)
    if trial.advice is not Advice.PROMOTE:
        raise StageFailed(f"{step.group} may not go on: {said}", right="a release that answers as the one before it does")


def _instances(groups: Mapping[str, Group], name: str) -> tuple[Address, ...]:
    found = groups[name].instances if name in groups else ()
    if not found:
        raise StageFailed(f"{name} cannot be compared: none of its instances runs", right="a group that runs")
    return found
