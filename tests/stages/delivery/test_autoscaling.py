"""What a rollout tells a target with an autoscaler: here a simple one, of real processes, that takes away what nobody forbids."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import pytest

from pipeline import Project, StageFailed, Store
from stages.delivery.local import LocalTarget
from stages.delivery.rollout import Rollout
from stages.delivery.strategy import BlueGreen
from stages.image import Image
from tests.stages.delivery.bench import AnyRouter, Notes
from tests.stages.delivery.conftest import release
from tests.stages.delivery.place import local_target


@dataclass(frozen=True, kw_only=True)
class Scaled(LocalTarget):
    """One instance of each group is enough for it, as long as nobody says otherwise."""

    least: dict[str, int] = field(default_factory=dict)

    async def hold(self, least: Mapping[str, int]) -> None:
        self.least.clear()
        self.least.update(least)

    async def scale(self) -> None:
        while True:
            for name, group in (await self.groups()).items():
                keep = max(1, self.least.get(name, 1))
                await self.retire(name, group.instances[keep:])
            await anyio.sleep(0.02)


@pytest.fixture
def target(project: Project, store: Store) -> Scaled:
    return Scaled(**vars(local_target(project, store)))


@asynccontextmanager
async def scaling(target: Scaled) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(target.scale)
        yield
        tasks.cancel_scope.cancel()


async def sizes(target: Scaled) -> dict[str, int]:
    return {name: len(group.instances) for name, group in (await target.groups()).items()}


async def shrinks(target: Scaled, name: str) -> None:
    with anyio.fail_after(20):
        while (await sizes(target))[name] != 1:
            await anyio.sleep(0.02)


def test_nobody_is_scaled_down_during_a_rollout_and_who_served_before_not_after_it(
    target: Scaled, router: AnyRouter, image: Image
) -> None:
    async def main() -> None:
        one, two = release(image, instances=3), release(image, instances=2, version="two")
        notes = Notes()
        await Rollout(target, router, one, notes).forward(BlueGreen())
        assert target.least == {}
        async with scaling(target):
            await shrinks(target, one.group)  # it is free, which shows that somebody scales
        await target.start(one)
        await router.split({one.group: 100}, await target.groups())
        await target.hold({one.group: 3})
        async with scaling(target):
            await Rollout(target, router, two, notes).forward(BlueGreen())
            assert target.least == {one.group: 3}
            await shrinks(target, two.group)
            assert (await sizes(target))[one.group] == 3
        held = [data["least"] for kind, data in notes.events if kind == "rollout.held"]
        assert held[-2:] == [{one.group: 3, two.group: 2}, {one.group: 3}]

    anyio.run(main)


def test_after_the_way_back_nobody_is_held(target: Scaled, router: AnyRouter, image: Image) -> None:
    async def main() -> None:
        notes = Notes()
        await Rollout(target, router, release(image), notes).forward(BlueGreen())
        with pytest.raises(StageFailed):
            await Rollout(target, router, release(image, CRASHES="1"), notes).forward(BlueGreen(ready=10))
        assert target.least == {}
        assert [data["least"] for kind, data in notes.events if kind == "rollout.held"][-1] == {}

    anyio.run(main)
