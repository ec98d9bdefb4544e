"""What operators may do to a rollout while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import anyio
import pytest

from gates.judge import ErrorRate, Judge
from gates.window import Tick, Window
from pipeline import StageFailed
from pipeline.order import Order
from stages.delivery.control import Control
from stages.delivery.hearing import Telling
from stages.delivery.rollout import Rollout
from stages.delivery.strategy import BlueGreen, Canary, Strategy
from stages.image import Image
from tests.stages.delivery.bench import Bench
from tests.stages.delivery.conftest import release
from tests.stages.delivery.load import Load

PATIENT = Judge(measures=(ErrorRate(budget=0.05),), warm_up=0, floor=20, at_least=3600, at_most=7200, blind=3600)
"""A judge that promotes nothing before an hour is over."""

SOON = Judge(measures=(ErrorRate(budget=0),), warm_up=0, floor=20, at_least=3600, at_most=7200, blind=3600)


@dataclass
class Desk:
    """Where orders are given, and what is said."""

    given: list[Order] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def give(self, verb: str, **more: object) -> None:
        self.given.append(Order(verb=verb, by="anna", seq=len(self.given) + 1, **more))  # type: ignore[arg-type]

    def orders(self, *, after: int) -> list[Order]:
        return [order for order in self.given if order.seq > after]

    def control(self, longest: float = 60) -> Control:
        return Control(orders=self.orders, say=self.said.append, longest=longest)


def canary(*shares: int, judge: Judge = PATIENT) -> Canary:
    return Canary(shares=(*shares, 100), judge=judge, tick=0.1)


async def until(seen: Callable[[], bool]) -> None:
    with anyio.fail_after(30):
        while not seen():
            await anyio.sleep(0.02)


@dataclass
class Going:
    """A rollout that goes on beside the test."""

    bench: Bench
    rollout: Rollout
    strategy: Strategy
    error: StageFailed | None = None

    async def run(self) -> None:
        try:
            await self.rollout.forward(self.strategy)
        except StageFailed as error:
            self.error = error

    def intends(self, words: str) -> bool:
        return any(step.startswith(words) for step in self.bench.notes.steps("intended"))

    def number(self, words: str) -> int:
        """How many changes were still to come at the latest step that begins so."""
        steps = [data for kind, data in self.bench.notes.events if kind == "rollout.intended" and data["step"].startswith(words)]
        found: int = steps[-1]["left"]
        return found


async def begin(
    bench: Bench, image: Image, desk: Desk, strategy: Strategy, *, longest: float = 60, version: str = "two", **env: str
) -> Going:
    await bench.rollout(release(image)).forward(BlueGreen())
    wanted = release(image, None, version=version, instances=1, **env)
    rollout = bench.rollout(wanted, desk.control(longest))
    return Going(bench, rollout, strategy)


def test_a_promoted_rollout_goes_on_with_the_next_step_and_no_further(bench: Bench, image: Image) -> None:
    async def main() -> None:
        desk = Desk()
        going = await begin(bench, image, desk, canary(10, 50))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(going.run)
            await until(lambda: going.intends("weigh"))
            first = going.number("weigh")
            desk.give("promote", number=first)
            desk.give("promote", number=first)  # given twice, it is the same
            await until(lambda: going.number("weigh") < first)
            assert (await bench.router.current())[going.rollout.release.group] == 50
            desk.give("promote", number=going.number("weigh"))
        assert going.error is None
        promoted = [data["by"] for kind, data in bench.notes.events if kind == "rollout.promoted"]
        assert promoted == ["anna", "anna"]
        assert bench.answer() == "two"

    anyio.run(main)


def test_all_of_a_rollout_can_be_promoted_at_once(bench: Bench, image: Image) -> None:
    async def main() -> None:
        desk = Desk()
        going = await begin(bench, image, desk, canary(10, 20, 30, 40))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(going.run)
            await until(lambda: going.intends("weigh"))
            desk.give("promote", number=going.number("weigh"), of="all")
        assert going.error is None
        assert bench.answer() == "two"

    anyio.run(main)


def test_an_aborted_rollout_goes_back_and_nobody_loses_a_request(bench: Bench, image: Image) -> None:
    async def main() -> None:
        desk = Desk()
        going = await begin(bench, image, desk, canary(50))
        with Load(bench.router.config.port, posts=False, pause=0.002) as load:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(going.run)
                await until(lambda: going.intends("weigh"))
                desk.give("abort", why="wrong release")
            await anyio.to_thread.run_sync(load.more, 20)
        assert load.failures == []
        assert going.error is not None
        assert "anna aborted the rollout" in going.error.what
        assert "wrong release" in going.error.what
        assert list(await bench.target.groups()) == [release(image).group]
        assert bench.notes.kinds()[-1] == "finished"

    anyio.run(main)


def test_a_rollout_that_waits_until_its_release_is_ready_can_be_aborted(bench: Bench, image: Image) -> None:
    async def main() -> None:
        desk = Desk()
        going = await begin(bench, image, desk, BlueGreen(ready=3600), UNREADY="1")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(going.run)
            await until(lambda: going.intends("wait"))
            desk.give("abort")
        assert going.error is not None
        assert bench.answer() == "one"

    anyio.run(main)


def test_what_was_said_before_a_rollout_began_is_not_about_it(bench: Bench, image: Image) -> None:
    async def main() -> None:
        desk = Desk()
        desk.give("abort")
        desk.give("pause")
        going = await begin(bench, image, desk, BlueGreen())
        await going.run()
        assert going.error is None
        assert bench.answer() == "two"

    anyio.run(main)


def test_a_paused_rollout_stays_where_it_is_until_the_pause_is_over(bench: Bench, image: Image) -> None:
    async def main() -> None:
        desk = Desk()
        quick = Judge(measures=(ErrorRate(budget=0.5),), beta=0.4, warm_up=0, floor=5, at_least=0)
        going = await begin(bench, image, desk, canary(50, judge=quick))
        with Load(bench.router.config.port, posts=False, pause=0.002) as load:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(going.run)
                await until(lambda: going.intends("wait"))
                desk.give("pause", why="a look at the logs")
                await until(lambda: "paused" in bench.notes.kinds())
                await anyio.to_thread.run_sync(load.more, 50)
                assert not going.intends("send 100")
                desk.give("pause", end=True)
        assert going.error is None
        assert bench.notes.kinds().count("paused") == 1
        assert "resumed" in bench.notes.kinds()
        (paused,) = [said for said in desk.said if said.startswith("paused")]
        assert paused.startswith("paused by anna: a look at the logs; python -m pipeline promote goes on")
        steps = [said.split(":")[0] for said in desk.said if said.startswith("step")]
        assert steps == [f"step {number} of 6" for number in range(1, 7)]
        (judged,) = [said for said in desk.said if said.startswith("promote")]
        assert desk.said.index(judged) in range(desk.said.index(paused), len(desk.said))
        assert bench.answer() == "two"

    anyio.run(main)


def test_a_release_that_does_harm_during_a_pause_goes_back_all_the_same(bench: Bench, image: Image) -> None:
    async def main() -> None:
        desk = Desk()
        going = await begin(bench, image, desk, canary(50, judge=SOON), version="bad", FAILS="5")
        with Load(bench.router.config.port, posts=False, pause=0.002):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(going.run)
                await until(lambda: going.intends("send 50"))
                desk.give("pause")
        assert going.error is not None
        assert "may not go on: abort" in going.error.what
        assert await bench.router.current() == {release(image).group: 100}

    anyio.run(main)


def test_what_nobody_can_tell_pauses_and_says_what_is_missing_until_somebody_decides(bench: Bench, image: Image) -> None:
    async def main() -> None:
        desk = Desk()
        going = await begin(
            bench, image, desk, canary(50, judge=Judge(measures=(ErrorRate(),), warm_up=0, at_least=0, at_most=0.3))
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(going.run)
            await until(lambda: "paused" in bench.notes.kinds())
            assert "100 requests more to the new release" in desk.said[-1]
            desk.give("promote", number=going.number("weigh"))
        assert going.error is None
        assert bench.answer() == "two"

    anyio.run(main)


def test_what_a_trial_has_come_to_is_told_now_and_then_and_as_soon_as_it_may_go_on() -> None:
    said: list[str] = []
    telling = Telling(said.append, 0.0)
    trial = Judge(measures=(ErrorRate(budget=0.5),), beta=0.4, warm_up=0, floor=30, at_least=25).begin()
    told = []
    for second in range(1, 41):
        side = Window(requests=10, errors=0)
        trial = trial.after(Tick(seconds=1, old=side, new=side))
        before = len(said)
        telling.tell(trial, float(second))
        told += [second] * (len(said) - before)
    assert told == [10, 20, 25, 35]
    assert [one.split(" ")[0] for one in said] == ["hold", "hold", "promote", "promote"]


@pytest.mark.parametrize("where", ["by the judge", "by an operator"])
def test_a_pause_that_nobody_ends_in_time_goes_back(bench: Bench, image: Image, where: str) -> None:
    async def main() -> None:
        desk = Desk()
        at_most = 0.3 if where == "by the judge" else 3600
        judge = Judge(warm_up=0, at_least=0, at_most=at_most, blind=3600)
        going = await begin(bench, image, desk, canary(50, judge=judge), longest=0.5)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(going.run)
            if where == "by an operator":
                await until(lambda: going.intends("weigh"))
                desk.give("pause")
        assert going.error is not None
        assert "nobody decided within 0.5 s" in going.error.what
        assert bench.answer() == "one"

    anyio.run(main)
