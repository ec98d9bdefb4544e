"""Recreate on real processes behind real routers: what users see meanwhile, how long, and the way back."""

from __future__ import annotations

import anyio
import pytest

from pipeline import StageFailed
from pipeline.engines.local import free_port
from stages.delivery.strategy import BlueGreen, Recreate
from stages.image import Image
from tests.stages.delivery.bench import AnyRouter, Bench, Make
from tests.stages.delivery.conftest import release
from tests.stages.delivery.load import Load
from tests.web import browser


@pytest.fixture
def router(make: Make) -> AnyRouter:
    return make(port=free_port())


def test_one_release_ends_before_the_next_one_starts_and_users_are_told_to_wait(bench: Bench, image: Image) -> None:
    async def main() -> None:
        one, two = release(image, instances=2), release(image, instances=2, version="two")
        await bench.rollout(one).forward(BlueGreen())
        with Load(bench.router.config.port, posts=False) as load:
            await anyio.to_thread.run_sync(load.more, 5)
            await bench.rollout(two).forward(Recreate())
            await anyio.to_thread.run_sync(load.more, 20)
        assert set(load.answers) == {"one", "two"}
        assert {failure[:24] for failure in load.failures} <= {"GET: 503 '<!doctype html"}
        assert bench.notes.steps("done") == [
            "send none to anybody",
            f"drain {one.group}, at most 30 s",
            f"let {one.group} rest",
            f"start {two.group}",
            f"wait until {two.group} is ready, at most 60 s",
            f"send 100 % to {two.group}",
        ]
        (down,) = [data["seconds"] for kind, data in bench.notes.events if kind == "rollout.down"]
        assert 0 < down < 30
        assert list(await bench.target.groups()) == [two.group]
        assert await bench.target.resting() == frozenset({one.group})

    anyio.run(main)


def test_the_page_of_the_router_says_when_to_come_back(bench: Bench, image: Image) -> None:
    async def main() -> None:
        one = release(image)
        await bench.rollout(one).forward(BlueGreen())
        await bench.router.split({}, await bench.target.groups())
        async with browser() as client:
            answer = await client.get(bench.router.address.url)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "Back in a moment" in answer.text

    anyio.run(main)


def test_a_release_that_is_never_ready_gives_way_to_the_one_before_it_which_is_started_again(bench: Bench, image: Image) -> None:
    async def main() -> None:
        one, bad = release(image, instances=2), release(image, version="bad", UNREADY="1")
        await bench.rollout(one).forward(BlueGreen())
        with pytest.raises(StageFailed, match="was not ready within 1 s"):
            await bench.rollout(bad).forward(Recreate(ready=1))
        assert bench.answer() == "one"
        groups = await bench.target.groups()
        assert (list(groups), len(groups[one.group].instances)) == ([one.group], 2)
        assert await bench.target.resting() == frozenset()

    anyio.run(main)


def test_what_rests_can_be_gone_back_to_and_goes_with_the_next_release(bench: Bench, image: Image) -> None:
    async def main() -> None:
        one, two, three = (release(image, version=name) for name in ("one", "two", "three"))
        await bench.rollout(one).forward(BlueGreen())
        before = await bench.rollout(two).forward(Recreate())
        await bench.rollout(two).back(Recreate(), before, two.group)
        assert bench.answer() == "one"
        await bench.rollout(two).forward(Recreate())
        await bench.rollout(three).forward(BlueGreen())
        assert bench.answer() == "three"
        assert sorted(await bench.target.groups()) == sorted([two.group, three.group])
        assert await bench.target.resting() == frozenset()
        assert not (bench.target.state / one.group).exists()

    anyio.run(main)


def test_a_group_of_which_nothing_is_known_is_not_ended_to_rest(bench: Bench, image: Image) -> None:
    async def main() -> None:
        one, two = release(image), release(image, version="two")
        await bench.rollout(one).forward(BlueGreen())
        (bench.target.state / one.group / "release.json").unlink()
        with pytest.raises(StageFailed, match=f"nothing is known by which {one.group} could be started again"):
            await bench.rollout(two).forward(Recreate())
        assert bench.answer() == "one"

    anyio.run(main)
