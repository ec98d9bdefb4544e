"""The executor of steps: what it journals, and how it goes back; with real processes and a real HAProxy."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from typing import Any

import anyio
import anyio.abc
import pytest

from pipeline import BrokenOff, StageFailed
from pipeline.engines.local import free_port
from pipeline.order import Order
from stages.delivery import process
from stages.delivery.control import Control
from stages.delivery.model import State
from stages.delivery.probe import HttpProbe
from stages.delivery.rollout import STARTS
from stages.delivery.step import Drain, Split, Start, WaitReady
from stages.delivery.strategy import BlueGreen, Recreate
from stages.image import Image
from tests.stages.delivery.bench import Bench
from tests.stages.delivery.conftest import release, up
from tests.stages.delivery.load import Load
from tests.web import browser


def test_every_step_is_journalled_before_and_after(bench: Bench, image: Image) -> None:
    async def main() -> None:
        one, two = release(image), release(image, version="two")
        await bench.rollout(one).forward(BlueGreen())
        await bench.rollout(two).forward(BlueGreen())
        expected = [
            f"start {two.group}",
            f"wait until {two.group} is ready, at most 60 s",
            f"send 100 % to {two.group}",
            f"drain {one.group}, at most 30 s",
        ]
        assert bench.notes.steps("intended") == bench.notes.steps("done") == expected
        assert bench.notes.kinds() == ["started", *["intended", "done"] * 4, "finished"]
        numbers = [(data["number"], data["of"]) for kind, data in bench.notes.events if kind == "rollout.intended"]
        assert numbers == [(1, 4), (2, 4), (3, 4), (4, 4)]
        assert bench.notes.events[0] == (
            "rollout.started",
            {"group": two.group, "groups": [one.group], "weights": {one.group: 100}},
        )
        assert bench.answer() == "two"

    anyio.run(main)


def test_a_release_that_is_never_ready_is_taken_away_and_gets_no_request(bench: Bench, image: Image) -> None:
    async def main() -> None:
        one, bad = release(image), release(image, version="bad", UNREADY="1")
        await bench.rollout(one).forward(BlueGreen())
        with Load(bench.router.config.port, posts=False) as load:
            with pytest.raises(StageFailed, match=f"{bad.group} was not ready within 5 s: .* answers 503: ready?"):
                await bench.rollout(bad).forward(BlueGreen(ready=5))
            await anyio.to_thread.run_sync(load.more, 20)
        assert (set(load.answers), load.failures) == ({"one"}, [])
        assert list(await bench.target.groups()) == [one.group]
        assert bench.notes.steps("intended")[-3:] == [
            f"send 100 % to {one.group}",
            f"drain {bad.group}, at most 30 s",
            f"stop {bad.group}",
        ]
        assert bench.notes.kinds()[-1] == "finished"

    anyio.run(main)


def test_a_release_with_another_readiness_path_is_refused_before_anything_is_started(bench: Bench, image: Image) -> None:
    async def main() -> None:
        one = release(image)
        await bench.rollout(one).forward(BlueGreen())
        other = dataclasses.replace(release(image, version="two", READY="/ready"), ready="/ready")
        with pytest.raises(StageFailed, match=f"{one.group} serves and says that it can by /readyz, and this release by /ready"):
            await bench.rollout(other).forward(BlueGreen())
        assert (list(await bench.target.groups()), bench.answer()) == ([one.group], "one")

    anyio.run(main)


def test_what_rests_is_started_again_also_on_the_way_back_of_another_strategy(bench: Bench, image: Image) -> None:
    async def main() -> None:
        one, two = release(image), release(image, version="two")
        before = await bench.rollout(one).forward(BlueGreen())
        before = await bench.rollout(two).forward(Recreate())
        now = await bench.rollout(two).state()
        groups = {name: group for name, group in now.groups.items() if name != two.group}
        await bench.rollout(two).back(BlueGreen(), State(groups=groups, weights=before.weights), two.group)
        assert (list(await bench.target.groups()), bench.answer()) == ([one.group], "one")

    anyio.run(main)


def test_a_release_that_ends_again_and_again_fails_at_once_with_its_last_words(bench: Bench, image: Image) -> None:
    async def main() -> None:
        bad = release(image, instances=2, CRASHES="1")
        with anyio.fail_after(30), pytest.raises(StageFailed, match=r"[12] of 2 instances ended; last words: cannot go on"):
            await bench.rollout(bad).forward(BlueGreen(ready=600))
        assert await bench.target.groups() == {}
        assert list(process.running(str(bench.router.state))) == []

    anyio.run(main)


def test_an_instance_that_lost_its_port_gets_another(bench: Bench, image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """The port is chosen before the instance listens; here somebody else is always quicker, but for the last time."""

    async def main() -> None:
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as taken:
            port = taken.extra(anyio.abc.SocketAttribute.local_port)
            ports = iter([port] * (STARTS - 1) + [free_port()])
            monkeypatch.setattr("stages.delivery.local.free_port", lambda: next(ports))
            one = release(image)
            await bench.rollout(one).forward(BlueGreen())
            (address,) = (await bench.target.groups())[one.group].instances
            assert address.port != port
        assert bench.answer() == "one"

    anyio.run(main)


def test_a_rollout_that_is_cancelled_goes_back_first(bench: Bench, image: Image) -> None:
    async def main() -> None:
        one, slow = release(image), release(image, version="slow", UNREADY="1")
        await bench.rollout(one).forward(BlueGreen())
        with anyio.move_on_after(0.5) as scope:
            await bench.rollout(slow).forward(BlueGreen())
        assert scope.cancelled_caught
        assert list(await bench.target.groups()) == [one.group]
        assert bench.notes.kinds()[-1] == "finished"
        assert bench.answer() == "one"

    anyio.run(main)


def test_a_group_that_does_not_drain_in_time_is_noted(bench: Bench, image: Image) -> None:
    async def main() -> None:
        one, two = release(image), release(image, version="two")
        await bench.rollout(one).forward(BlueGreen())
        await up(bench.target, two)  # nobody is to wait for it while a request is under way
        answers: list[str] = []

        async def ask() -> None:
            async with browser() as client:
                answers.append((await client.get(f"{bench.router.address.url}/slow?2")).text)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            while await bench.router.in_flight(one.group) == 0:
                await anyio.sleep(0.01)
            await bench.rollout(two).forward(BlueGreen(drain=0.2))
        assert ("rollout.undrained", {"group": one.group, "requests": 1}) in bench.notes.events
        assert answers == ["one"]  # and it was answered all the same

    anyio.run(main)


def test_a_way_back_that_fails_too_tells_both_reasons(bench: Bench, image: Image) -> None:
    async def main() -> None:
        one, bad = release(image), release(image, version="bad", UNREADY="1")
        await bench.rollout(one).forward(BlueGreen())

        class LosesBlue(BlueGreen):
            """Between the way there and the way back, what served before ends."""

            def back(self, before: State, green: str) -> Any:
                for found in process.running(f"{bench.target.state}:{one.group}:"):
                    os.kill(found.pid, signal.SIGKILL)
                    while process.alive(found):
                        time.sleep(0.001)
                return super().back(before, green)

        with pytest.raises(
            BrokenOff, match=f"was not ready .*; then the way back from {bad.group} failed: {one.group} cannot get traffic"
        ):
            await bench.rollout(bad).forward(LosesBlue(ready=0.5))
        assert bench.notes.kinds()[-1] == "stuck"

    anyio.run(main)


def test_the_share_of_a_group_that_does_not_run_is_nobodys(bench: Bench, image: Image) -> None:
    async def main() -> None:
        one = release(image)
        await bench.rollout(one).forward(BlueGreen())
        await bench.target.stop(one.group)
        assert await bench.rollout(one).state() == State()
        await bench.rollout(one).forward(BlueGreen())
        assert bench.answer() == "one"

    anyio.run(main)


@pytest.mark.parametrize("moment", ["first", "last"])
def test_an_order_is_followed_that_was_given_as_soon_as_the_rollout_was_seen_or_at_the_last_moment(
    bench: Bench, image: Image, moment: str
) -> None:
    async def main() -> None:
        one, two = release(image), release(image, version="two")
        await bench.rollout(one).forward(BlueGreen())

        def orders(*, after: int) -> list[Order]:
            drained = any(step.startswith("drain") for step in bench.notes.steps("done"))
            given = "started" in bench.notes.kinds() if moment == "first" else drained
            return [Order(verb="abort", by="anna", why="enough", seq=1)] if given and not after else []

        rollout = dataclasses.replace(bench.rollout(two), control=Control(orders=orders))
        with pytest.raises(StageFailed, match=f"anna aborted the rollout of {two.group}: enough"):
            await rollout.forward(BlueGreen())
        assert bench.answer() == "one"

    anyio.run(main)


def test_who_may_take_long_to_answer_is_not_held_for_dead(bench: Bench, image: Image) -> None:
    async def main() -> None:
        patient = HttpProbe("/slow?6", within=20)
        one, two = dataclasses.replace(release(image), ready=patient), release(image, version="two")
        async with anyio.create_task_group() as tasks:
            for each in (one, two):
                tasks.start_soon(up, bench.target, each)
        now = State(groups=await bench.target.groups(), weights={two.group: 100})
        await bench.rollout(two).check_way_back(now, dataclasses.replace(now, weights={one.group: 100}), two.group)

    anyio.run(main)


def test_steps_are_run_by_themselves_too(bench: Bench, image: Image) -> None:
    async def main() -> None:
        one = release(image)
        steps = (Start(one.group), WaitReady(one.group, 30), Split(((one.group, 100),)), Drain(one.group, 1))
        await bench.rollout(one).run(steps)
        assert bench.answer() == "one"

    anyio.run(main)
