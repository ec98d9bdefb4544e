"""One step of a shadow: copies of requests are sent and compared until the judge decides."""

from __future__ import annotations

from collections.abc import Mapping

from gates.judge import Trial
from gates.window import Window
from pipeline import StageFailed
from stages.delivery.comparer import comparing
from stages.delivery.evidence import looked
from stages.delivery.hearing import Hearing
from stages.delivery.model import Address, Group
from stages.delivery.router import Mirrors
from stages.delivery.step import Compare
from stages.delivery.visitors import visiting


async def compare(step: Compare, router: Mirrors, groups: Mapping[str, Group], hearing: Hearing) -> None:
    """Raises StageFailed with the evidence unless the group may go on."""
    old = [address for name in step.against for address in _instances(groups, name)]
    async with (
        comparing(old, _instances(groups, step.group), step.ignored) as (place, comparison),
        router.mirror(place, step.share),
        visiting(step.visitors, router.address.url),
    ):

        async def look() -> tuple[Window | None, Window | None]:
            then, now = comparison.windows()
            return then, now

        def noted(now: Trial) -> None:
            hearing.note("rollout.looked", group=step.group, share=step.share, **looked(now))

        trial, promoted, pause = await hearing.hold(step.judge.begin(), look, noted)
    said = f"{trial.said()}; {comparison.said()}"
    counts = {"compared": comparison.compared, "different": comparison.different, "skipped": comparison.skipped}
    noise = sorted(comparison.noise.found)
    hearing.note("rollout.compared", group=step.group, advice=trial.advice.value, said=said, noise=noise, **counts)
    hearing.decide(trial, promoted, pause, said, str(step))


def _instances(groups: Mapping[str, Group], name: str) -> tuple[Address, ...]:
    found = groups[name].instances if name in groups else ()
    if not found:
        raise StageFailed(f"{name} cannot be compared: none of its instances runs", right="a group that runs")
    return found
