"""Rolling: the plan for every fleet, and rollouts on real processes under load."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import StageFailed, WiringError
from pipeline.engines.local import free_port
from stages.delivery.local import LocalTarget
from stages.delivery.model import Address, Group, State, spread
from stages.delivery.rolling import Rolling, number
from stages.delivery.step import Retire, Start
from stages.delivery.strategy import BlueGreen
from stages.image import Image
from tests.stages.delivery.bench import Bench, Make
from tests.stages.delivery.conftest import release
from tests.stages.delivery.load import Load
from tests.stages.delivery.test_control import Desk, Going, until
from tests.stages.delivery.test_strategy import GREEN, simulated


@st.composite
def fleets(draw: st.DrawFn) -> State:
    """One group that serves, over up to three zones, and how many of green are wanted."""
    zones = draw(st.sampled_from([("",), ("a", "b"), ("a", "b", "c")]))
    have = draw(st.integers(1, 7))
    instances = tuple(
        Address(host=f"blue{zone}", port=one + 1, zone=zone) for zone, n in spread(have, zones).items() for one in range(n)
    )
    groups = {"blue": Group("blue", instances)}
    return State(groups=groups, weights={"blue": 100}, wanted=draw(st.integers(1, 7)), zones=zones)


LIMITS = st.one_of(st.integers(0, 4), st.sampled_from(["0%", "25%", "50%", "100%"]))


@st.composite
def rollings(draw: st.DrawFn) -> Rolling:
    surge, missing = draw(st.tuples(LIMITS, LIMITS).filter(lambda pair: not {*pair} <= {0, "0%"}))
    return Rolling(max_surge=surge, max_unavailable=missing, by_zone=draw(st.booleans()))


def running(state: State) -> int:
    return sum(len(group.instances) for group in state.groups.values())


@given(fleets(), rollings())
def test_it_ends_with_as_many_of_green_as_are_wanted_evenly_over_the_zones(now: State, rolling: Rolling) -> None:
    end = simulated(now, rolling.forward(now, GREEN))[-1]
    zones = Counter(one.zone for one in end.groups[GREEN].instances)
    assert zones == Counter({zone: count for zone, count in spread(now.wanted, now.zones).items() if count})
    assert {name: share for name, share in end.weights.items() if share} == {GREEN: 100}
    assert (list(end.groups), end.resting) == ([GREEN], frozenset({"blue"}))


@given(fleets(), rollings())
def test_never_more_run_than_the_surge_nor_fewer_than_may_be_missing(now: State, rolling: Rolling) -> None:
    surge = number(rolling.max_surge, now.wanted, up=True)
    missing = number(rolling.max_unavailable, now.wanted, up=False)
    missing = min(missing, now.wanted - 1)
    surge = surge or int(missing == 0)
    most, least = max(now.wanted + surge, running(now)), min(now.wanted - missing, running(now))
    for state in simulated(now, rolling.forward(now, GREEN)):
        assert least <= running(state) <= most


@given(fleets(), rollings())
def test_each_instance_gets_as_much_traffic(now: State, rolling: Rolling) -> None:
    for step in rolling.forward(now, GREEN):
        assert not isinstance(step, Retire) or sum(share for _, share in step.weights) == 100


@given(fleets().filter(lambda state: len(state.zones) > 1), LIMITS.filter(lambda limit: limit not in (0, "0%")))
def test_a_zone_is_replaced_as_a_whole_before_the_next_one(now: State, surge: int | str) -> None:
    order = []
    have: Counter[str] = Counter()
    for step in Rolling(max_surge=surge, by_zone=True).forward(now, GREEN):
        if isinstance(step, Start):
            (zone,) = (Counter(dict(step.counts)) - have).keys()
            order.append(zone)
            have = Counter(dict(step.counts))
    assert order == sorted(order)


@pytest.mark.parametrize(("surge", "missing"), [(0, 0), ("0%", 0), (-1, 1), ("101%", 0), ("many", 1)])
def test_limits_that_are_none_or_replace_nothing_are_refused(surge: int | str, missing: int | str) -> None:
    with pytest.raises(WiringError, match="Rolling"):
        Rolling(max_surge=surge, max_unavailable=missing)


def test_instances_are_replaced_one_by_one_and_nobody_loses_a_request(
    target: LocalTarget, make: Make, image: Image, posts: Path
) -> None:
    bench = Bench(target, make(port=free_port()))

    async def main() -> None:
        one, two = release(image, posts, instances=3), release(image, posts, instances=3, version="two")
        await bench.rollout(one).forward(BlueGreen())
        with Load(bench.router.config.port, posts=True) as load:
            await bench.rollout(two).forward(Rolling())
            await anyio.to_thread.run_sync(load.more, 20)
        assert load.failures == []
        assert bench.notes.steps("done") == [
            f"start {two.group}, up to 1",
            f"wait until {two.group} is ready, at most 60 s",
            f"send 25 % to {two.group}, 75 % to {one.group}",
            f"retire 1 of {one.group}, drained for at most 30 s, and send 33 % to {two.group}, 67 % to {one.group}",
            f"start {two.group}, up to 2",
            f"wait until {two.group} is ready, at most 60 s",
            f"send 50 % to {two.group}, 50 % to {one.group}",
            f"retire 1 of {one.group}, drained for at most 30 s, and send 67 % to {two.group}, 33 % to {one.group}",
            f"start {two.group}, up to 3",
            f"wait until {two.group} is ready, at most 60 s",
            f"send 75 % to {two.group}, 25 % to {one.group}",
            f"send 100 % to {two.group}",
            f"drain {one.group}, at most 30 s",
            f"let {one.group} rest",
        ]
        groups = await bench.target.groups()
        assert {name: len(group.instances) for name, group in groups.items()} == {two.group: 3}
        assert await bench.target.resting() == {one.group}

    anyio.run(main)


def test_requests_at_an_instance_that_retires_are_answered_first(target: LocalTarget, make: Make, image: Image) -> None:
    bench = Bench(target, make(port=free_port()))

    async def main() -> None:
        one, two = release(image, instances=2, WAITS="0.5"), release(image, instances=2, version="two")
        await bench.rollout(one).forward(BlueGreen())
        with Load(bench.router.config.port, posts=False) as load:
            await anyio.to_thread.run_sync(load.more, 3)
            await bench.rollout(two).forward(Rolling(max_surge="100%"))
        assert load.failures == []
        assert {"one", "two"} <= set(load.answers)

    anyio.run(main)


def test_a_batch_that_does_not_get_ready_pauses_the_rollout_and_is_taken_back_when_aborted(bench: Bench, image: Image) -> None:
    async def main() -> None:
        desk = Desk()
        one, bad = release(image, instances=2), release(image, version="bad", instances=2, UNREADY="1")
        await bench.rollout(one).forward(BlueGreen())
        going = Going(bench, bench.rollout(bad, desk.control()), Rolling(ready=3))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(going.run)
            await until(lambda: "paused" in bench.notes.kinds())
            assert len((await bench.target.groups())[one.group].instances) == 2
            desk.give("abort")
        assert any("was not ready within 3 s" in said for said in desk.said)
        assert going.error is not None
        groups = await bench.target.groups()
        assert {name: len(group.instances) for name, group in groups.items()} == {one.group: 2}
        assert bench.answer() == "one"

    anyio.run(main)


def test_the_way_back_starts_what_was_ended_again_before_green_is_ended(bench: Bench, image: Image, tmp_path: Path) -> None:
    """The last batch does not get ready: two of three are replaced by then."""

    async def main() -> None:
        one, two = release(image, instances=3), release(image, version="two", instances=3, SEATS=str(tmp_path / "seats"))
        for seat in ("1", "2"):
            (tmp_path / "seats" / seat).mkdir(parents=True)
        await bench.rollout(one).forward(BlueGreen())
        with Load(bench.router.config.port, posts=False) as load:
            with pytest.raises(StageFailed, match="was not ready within 5 s"):
                await bench.rollout(two).forward(Rolling(ready=5, pauses=False))
            await anyio.to_thread.run_sync(load.more, 20)
        assert load.failures == []
        groups = await bench.target.groups()
        assert {name: len(group.instances) for name, group in groups.items()} == {one.group: 3}
        assert set(load.answers) == {"one", "two"}
        assert bench.answer() == "one"

    anyio.run(main)


def test_zones_are_spread_over_the_instances_which_find_theirs(bench: Bench, image: Image) -> None:
    async def main() -> None:
        zoned = Bench(replace(bench.target, zones=("north", "south")), bench.router)
        one, two = release(image, instances=3), release(image, instances=4, version="two")
        await zoned.rollout(one).forward(BlueGreen())
        (group,) = (await zoned.target.groups()).values()
        assert Counter(address.zone for address in group.instances) == {"north": 2, "south": 1}
        with Load(zoned.router.config.port, posts=False) as load:
            await zoned.rollout(two).forward(Rolling(max_surge=2, by_zone=True))
        assert load.failures == []
        assert zoned.notes.steps("done")[0] == f"start {two.group}, up to 2 in north"
        (group,) = (await zoned.target.groups()).values()
        assert Counter(address.zone for address in group.instances) == {"north": 2, "south": 2}

    anyio.run(main)
