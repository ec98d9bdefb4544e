"""Canaries on real processes behind real routers, under load: what is promoted, what goes back, and on what evidence."""

from __future__ import annotations

import os
import re
import signal
from dataclasses import replace
from functools import partial
from typing import Any

import anyio
import pytest

from gates.judge import ErrorRate, Judge, SlowAnswers
from gates.window import Window
from pipeline import StageFailed, WiringError
from pipeline.engines.local import free_port
from pipeline.errors import JournalError
from stages.delivery import process
from stages.delivery.rollout import Rollout
from stages.delivery.strategy import BlueGreen, Canary
from stages.delivery.visitors import Visitors
from stages.image import Image
from tests.stages.delivery.bench import AnyRouter, Bench, Make
from tests.stages.delivery.conftest import release
from tests.stages.delivery.load import Load

QUICK = Judge(measures=(ErrorRate(budget=0.05),), warm_up=0, floor=20, at_least=0, at_most=30, blind=3)
"""Sure enough for a few hundred requests a second."""


@pytest.fixture
def router(make: Make) -> AnyRouter:
    return make(port=free_port())


def canary(*shares: int, judge: Judge = QUICK) -> Canary:
    return Canary(shares=(*shares, 100), judge=judge, tick=0.2)


def users(bench: Bench) -> Load:
    return Load(bench.router.config.port, posts=False, pause=0.002)


def test_a_release_that_is_no_worse_gets_all_the_traffic_step_by_step_and_nobody_loses_a_request(
    bench: Bench, image: Image
) -> None:
    async def main() -> None:
        one, two = release(image, instances=2), release(image, instances=2, version="two")
        await bench.rollout(one).forward(BlueGreen())
        with users(bench) as load:
            await bench.rollout(two).forward(canary(20, 50))
            await anyio.to_thread.run_sync(load.more, 20)
        assert load.failures == []
        assert set(load.answers) == {"one", "two"}
        assert bench.notes.steps("done") == [
            f"start {two.group}",
            f"wait until {two.group} is ready, at most 60 s",
            f"send 20 % to {two.group}, 80 % to {one.group}",
            f"weigh {two.group} against {one.group}, at most 30 s",
            f"send 50 % to {two.group}, 50 % to {one.group}",
            f"weigh {two.group} against {one.group}, at most 30 s",
            f"send 100 % to {two.group}",
            f"drain {one.group}, at most 30 s",
        ]
        judged = [data for kind, data in bench.notes.events if kind == "rollout.judged"]
        assert [data["advice"] for data in judged] == ["promote", "promote"]
        assert re.search(r"errors: 0 of [\d,]+ \(0\.00%\), before 0 of", judged[0]["said"])
        assert await bench.router.current() == {one.group: 0, two.group: 100}
        assert sorted(await bench.target.groups()) == sorted([one.group, two.group])

    anyio.run(main)


def test_a_journal_that_cannot_be_written_while_a_release_is_weighed_is_what_is_told(bench: Bench, image: Image) -> None:
    def note(kind: str, **data: Any) -> None:
        if kind == "rollout.looked":
            raise JournalError("the journal is locked")

    async def main() -> None:
        await bench.rollout(release(image)).forward(BlueGreen())
        two = release(image, version="two")
        with pytest.raises(JournalError, match="the journal is locked"):
            await Rollout(bench.target, bench.router, two, note).forward(canary(50))
        assert bench.answer() == "one"

    anyio.run(main)


def test_a_release_that_fails_one_in_fifty_requests_goes_back_with_the_evidence(bench: Bench, image: Image) -> None:
    """It is the only one that fails: what users see of it are its own answers, and nobody is without one."""

    async def main() -> None:
        one, bad = release(image, instances=2), release(image, version="bad", FAILS="50")
        await bench.rollout(one).forward(BlueGreen())
        with users(bench) as load:
            with pytest.raises(StageFailed, match=rf"{bad.group} may not go on: abort after \d+ s: errors: .* before 0 of"):
                await bench.rollout(bad).forward(canary(30, judge=Judge(measures=(ErrorRate(budget=0),), warm_up=0, at_most=60)))
            await anyio.to_thread.run_sync(load.more, 20)
        assert {failure.partition(" after")[0] for failure in load.failures} == {"GET: 500 'bad'"}
        assert await bench.router.current() == {one.group: 100}
        assert list(await bench.target.groups()) == [one.group]
        assert bench.notes.steps("intended")[-3:] == [
            f"send 100 % to {one.group}",
            f"drain {bad.group}, at most 30 s",
            f"stop {bad.group}",
        ]

    anyio.run(main)


def test_requests_that_another_release_answered_in_the_end_count_against_the_one_that_failed_them(
    bench: Bench, image: Image
) -> None:
    """The router tries them again, and users notice nothing; with all of the traffic they would."""

    async def main() -> None:
        one, bad = release(image, instances=2), release(image, version="bad", DROPS="4")
        await bench.rollout(one).forward(BlueGreen())
        judge = Judge(measures=(ErrorRate(budget=0),), warm_up=0, at_most=60)
        said = rf"{bad.group} may not go on: abort after \d+ s: errors: [1-9]"
        with users(bench) as load, pytest.raises(StageFailed, match=said):
            await bench.rollout(bad).forward(canary(50, judge=judge))
        assert not [failure for failure in load.failures if "'one'" in failure]

    anyio.run(main)


def test_a_release_that_answers_slowly_goes_back(bench: Bench, image: Image) -> None:
    async def main() -> None:
        one, slow = release(image), release(image, version="slow", WAITS="0.05")
        await bench.rollout(one).forward(BlueGreen())
        judge = Judge(measures=(SlowAnswers(),), warm_up=0, floor=20, at_most=60, blind=10)
        with users(bench) as load, pytest.raises(StageFailed, match=r"abort after .*answers slower than p95"):
            await bench.rollout(slow).forward(canary(50, judge=judge))
        assert load.failures == []

    anyio.run(main)


def test_without_a_request_nothing_is_promoted(bench: Bench, image: Image) -> None:
    async def main() -> None:
        one, two = release(image), release(image, version="two")
        await bench.rollout(one).forward(BlueGreen())
        judge = Judge(measures=(ErrorRate(),), warm_up=0, at_least=0, at_most=1)
        with pytest.raises(StageFailed, match="inconclusive after 1 s: missing: 100 requests more to the new release"):
            await bench.rollout(two).forward(canary(50, judge=judge))
        assert await bench.router.current() == {one.group: 100}

    anyio.run(main)


def test_where_users_are_few_visitors_ask_until_the_judge_can_tell_and_no_longer(bench: Bench, image: Image) -> None:
    async def main() -> None:
        one, two = release(image), release(image, version="two")
        await bench.rollout(one).forward(BlueGreen())
        strategy = replace(canary(50), visitors=Visitors(paths=("/",), rate=200))
        await bench.rollout(two).forward(strategy)
        assert bench.answer() == "two"
        async with bench.router.watch() as watch:
            await anyio.sleep(0.5)
            (seen,) = watch.windows((two.group,))
        assert seen is not None
        assert seen.requests == 0

    anyio.run(main)


def test_visitors_find_a_release_that_fails(bench: Bench, image: Image) -> None:
    async def main() -> None:
        one, bad = release(image), release(image, version="bad", FAILS="3")
        await bench.rollout(one).forward(BlueGreen())
        strategy = replace(canary(50), visitors=Visitors(paths=("/", "/"), rate=200))
        with pytest.raises(StageFailed, match="may not go on: abort"):
            await bench.rollout(bad).forward(strategy)
        assert bench.answer() == "one"

    anyio.run(main)


@pytest.mark.parametrize("about", [{"paths": ()}, {"paths": ("/",), "rate": 0}])
def test_visitors_who_never_come_are_refused(about: dict[str, Any]) -> None:
    with pytest.raises(WiringError, match="Visitors: paths are"):
        Visitors(**about)


async def kill_the_router(bench: Bench, *, again: bool) -> None:
    """As soon as green is weighed, and, where it is to stay dead, whenever it comes back."""
    while not any(step.startswith("weigh") for step in bench.notes.steps("intended")):
        await anyio.sleep(0.01)
    while "judged" not in bench.notes.kinds():
        for found in list(process.running(f"{bench.router.state}:")):
            os.kill(found.pid, signal.SIGKILL)
        if not again:
            return
        await anyio.sleep(0.01)


@pytest.mark.parametrize("nobody_well", [False, True])
def test_a_router_that_dies_under_a_canary_is_started_again_with_its_shares_and_the_canary_goes_on(
    bench: Bench, image: Image, monkeypatch: pytest.MonkeyPatch, *, nobody_well: bool
) -> None:
    split: Any = type(bench.router).split
    late = [nobody_well]

    async def found_late(router: AnyRouter, *words: Any) -> None:
        """Once, those who are well are not found to be when the router is started again."""
        died = await router.died()
        await split(router, *words)
        if died and late[0]:
            late[0] = False
            raise StageFailed("nobody is well")

    monkeypatch.setattr(type(bench.router), "split", found_late)

    async def main() -> None:
        one, two = release(image), release(image, version="two")
        await bench.rollout(one).forward(BlueGreen())
        patient = replace(QUICK, blind=30)
        async with anyio.create_task_group() as tasks:
            rollout = bench.rollout(two)
            tasks.start_soon(partial(kill_the_router, bench, again=False))
            with users(bench) as load:
                await rollout.forward(canary(50, judge=patient))
        assert {*load.answers} == {"one", "two"}
        assert bench.answer() == "two"
        told = [data for kind, data in bench.notes.events if kind == "router.restarted"]
        assert told == [{"weights": {one.group: 50, two.group: 50}}]

    anyio.run(main)


def test_a_release_of_which_nothing_runs_any_more_goes_back_though_nobody_is_sent_to_it(
    bench: Bench, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.delivery.rollout.DEAD", 0.5)

    async def main() -> None:
        one, two = release(image), release(image, version="two")
        await bench.rollout(one).forward(BlueGreen())

        async def kill() -> None:
            while "weigh" not in "".join(bench.notes.steps("intended")[-1:]):
                await anyio.sleep(0.05)
            for found in process.running(f"{bench.target.state}:{two.group}:"):
                os.kill(found.pid, signal.SIGKILL)

        judge = Judge(measures=(ErrorRate(),), warm_up=0, floor=10**6, at_most=600)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(kill)
            with pytest.raises(StageFailed, match=rf"no instance of {two.group} has run for 0.5 s"):
                await bench.rollout(two).forward(canary(50, judge=judge))
        assert bench.answer() == "one"

    anyio.run(main)


def test_a_router_that_stays_dead_under_a_canary_is_no_good_news(bench: Bench, image: Image) -> None:
    async def main() -> None:
        one, two = release(image), release(image, version="two")
        await bench.rollout(one).forward(BlueGreen())
        judge = Judge(measures=(ErrorRate(),), warm_up=0, floor=10**6, blind=1)
        async with anyio.create_task_group() as tasks:
            rollout = bench.rollout(two)
            tasks.start_soon(partial(kill_the_router, bench, again=True))
            with pytest.raises(
                StageFailed,
                match=r"inconclusive after \d+ s: missing: (metrics, for|requests: nobody asked either release for) \d+ s",
            ):
                await rollout.forward(canary(50, judge=judge))
        assert bench.answer() == "one"

    anyio.run(main)


def test_what_each_group_does_is_seen_from_one_look_to_the_next(bench: Bench, image: Image) -> None:
    async def main() -> None:
        one, two = release(image), release(image, version="two", BROKEN="1")
        await bench.rollout(one).forward(BlueGreen())
        await bench.target.start(two)
        while await bench.target.unready(two.group, two.ready) is not None:
            await anyio.sleep(0.02)
        groups = await bench.target.groups()
        await bench.router.split({one.group: 50, two.group: 50}, groups)
        async with bench.router.watch() as watch:
            assert watch.windows([one.group], ["nobody"]) == [counted(0, 0), counted(0, 0)]
            with Load(bench.router.config.port, posts=False) as load:
                await anyio.to_thread.run_sync(load.more, 40)
            good = bad = None
            with anyio.fail_after(5):
                seen = [0, 0]
                while sum(seen) < load.sent:
                    await anyio.sleep(0.02)
                    good, bad = watch.windows([one.group], [two.group])
                    assert good is not None
                    assert bad is not None
                    assert (good.errors, bad.errors) == (0, bad.requests)
                    seen = [seen[0] + good.requests, seen[1] + bad.requests]
            assert (seen[0], seen[1]) == (load.answers["one"], len(load.failures))

    anyio.run(main)


def counted(requests: int, errors: int) -> Window:
    from stages.delivery.haproxy_traffic import Tally, window

    return window([Tally(requests, errors)])
