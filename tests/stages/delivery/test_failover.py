"""Where users go when nobody is left who should serve them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import Project
from pipeline.engines.local import free_port
from stages.delivery import process
from stages.delivery.audience import Chosen, Cohort, Cookie
from stages.delivery.envoy import Envoy
from stages.delivery.envoy_xds import Part, assigned_parts, assignment, routes, widened
from stages.delivery.envoy_xds import warmed as warmed_parts
from stages.delivery.failover import Failover
from stages.delivery.haproxy import BACKEND, ELSEWHERE, HAProxy, Slot, commands, configuration, warmed
from stages.delivery.haproxy_audience import CONTROL
from stages.delivery.local import LocalTarget
from stages.delivery.model import Address, Group
from stages.delivery.strategy import BlueGreen
from stages.image import Image
from tests.stages.delivery.bench import AnyRouter, Bench, Make
from tests.stages.delivery.conftest import blue_and_green, release, up
from tests.stages.delivery.load import Load
from tests.stages.delivery.test_haproxy import moves
from tests.web import browser


def kill(target: LocalTarget, group: str) -> None:
    """End all instances of a group at once."""
    found = list(process.running(f"{target.state}:{group}:"))
    assert found
    for one in found:
        os.kill(one.pid, signal.SIGKILL)


async def said(router: AnyRouter, **cookies: str) -> str:
    async with browser(cookies=cookies) as client:
        return (await client.get(router.address.url)).text


async def until(router: AnyRouter, wanted: Callable[[str], bool]) -> None:
    with anyio.fail_after(30):
        while not wanted(await said(router)):
            await anyio.sleep(0.02)


def test_what_served_before_serves_again_when_all_instances_die_and_no_request_that_may_be_repeated_is_lost(
    target: LocalTarget, make: Make, image: Image
) -> None:
    router = make(port=free_port(), failover=Failover.WARM)

    async def main() -> Load:
        blue, green, groups = await blue_and_green(target, image, instances=2)
        await router.split({blue.name: 100}, groups)
        await router.split({green.name: 100}, groups)
        with Load(router.config.port, posts=False) as load:
            await anyio.to_thread.run_sync(load.more, 40)
            assert set(load.answers) == {"green"}
            kill(target, green.name)
            await until(router, lambda answer: answer == "blue")
            await anyio.to_thread.run_sync(load.more, 60)
        assert load.failures == []
        assert await router.current() == {blue.name: 0, green.name: 100}  # what was told stands
        assert await router.in_flight(blue.name) == 0
        again = await up(target, release(image, version="newer"))
        await router.split({again.name: 100}, {blue.name: blue, again.name: again})
        assert await said(router) == "newer"
        return load

    load = anyio.run(main)
    assert load.answers["blue"] >= 10


def test_users_come_back_when_an_instance_that_should_serve_them_does_again(
    target: LocalTarget, make: Make, image: Image
) -> None:
    router = make(port=free_port(), failover=Failover.WARM, timeout=1.0)

    async def main() -> None:
        blue, green, groups = await blue_and_green(target, image)
        await router.split({blue.name: 100}, groups)
        await router.split({green.name: 100}, groups)
        (found,) = process.running(f"{target.state}:{green.name}:")
        os.kill(found.pid, signal.SIGSTOP)
        await until(router, lambda answer: answer == "blue")
        os.kill(found.pid, signal.SIGCONT)
        await until(router, lambda answer: answer == "green")

    anyio.run(main)


async def only_the_page(router: AnyRouter) -> None:
    """Also once the router knows who is ill: the first requests find that they are refused, and prove nothing."""
    answers = {await said(router) for _ in range(100)}
    assert len(answers) == 1
    assert "Back in a moment" in answers.pop()


def test_a_release_that_never_served_is_no_fallback_and_users_get_the_page(target: LocalTarget, make: Make, image: Image) -> None:
    router = make(port=free_port(), failover=Failover.WARM)

    async def main() -> None:
        blue = await up(target, release(image, version="blue"))
        green = await up(target, release(image, version="green"))
        await router.split({blue.name: 100}, {blue.name: blue, green.name: green})
        kill(target, blue.name)
        await until(router, lambda answer: answer != "blue")
        await only_the_page(router)

    anyio.run(main)


def test_nobody_serves_while_nobody_is_to(target: LocalTarget, make: Make, image: Image) -> None:
    router = make(port=free_port(), failover=Failover.WARM)

    async def main() -> None:
        blue, green, groups = await blue_and_green(target, image)
        await router.split({blue.name: 100}, groups)
        await router.split({green.name: 100}, groups)
        await router.split({}, groups)
        assert "Back in a moment" in await said(router)
        await router.split({green.name: 100}, groups)
        assert await said(router) == "green"

    anyio.run(main)


def test_users_get_the_page_where_no_failover_is_asked_for(target: LocalTarget, make: Make, image: Image) -> None:
    router = make(port=free_port())

    async def main() -> None:
        blue, green, groups = await blue_and_green(target, image)
        await router.split({blue.name: 100}, groups)
        await router.split({green.name: 100}, groups)
        kill(target, green.name)
        await until(router, lambda answer: answer != "green")
        async with browser() as client:
            answer = await client.get(router.address.url)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert "Back in a moment" in answer.text
        await only_the_page(router)

    anyio.run(main)


def test_of_two_that_share_the_traffic_the_other_one_serves_all_and_not_what_is_warm(
    target: LocalTarget, make: Make, image: Image
) -> None:
    router = make(port=free_port(), failover=Failover.WARM)

    async def main() -> None:
        old = await up(target, release(image, version="old"))
        blue = await up(target, release(image, version="blue"))
        green = await up(target, release(image, version="green", instances=2))
        groups = {old.name: old, blue.name: blue, green.name: green}
        await router.split({old.name: 100}, groups)
        await router.split({blue.name: 30, green.name: 70}, groups)
        kill(target, blue.name)
        answers = {await said(router) for _ in range(60)}
        assert "green" in answers
        with anyio.fail_after(30):
            while {await said(router) for _ in range(20)} != {"green"}:
                await anyio.sleep(0.02)
        first = next(process.running(f"{target.state}:{green.name}:"))
        os.kill(first.pid, signal.SIGKILL)  # half of those that are left
        with anyio.fail_after(30):
            while {await said(router) for _ in range(20)} != {"green"}:
                await anyio.sleep(0.02)

    anyio.run(main)


def test_the_rest_of_a_cohort_goes_to_what_is_warm_too(target: LocalTarget, make: Make, image: Image) -> None:
    router = make(port=free_port(), failover=Failover.WARM)

    async def main() -> None:
        old = await up(target, release(image, version="old"))
        blue = await up(target, release(image, version="blue"))
        green = await up(target, release(image, version="green"))
        groups = {old.name: old, blue.name: blue, green.name: green}
        await router.split({old.name: 100}, groups)
        await router.split({blue.name: 100}, groups, Chosen(Cohort(Cookie("uid")), ((green.name, 50), (blue.name, 50))))
        kill(target, blue.name)
        with anyio.fail_after(30):
            while {await said(router, uid=str(number)) for number in range(20)} != {"old", "green"}:
                await anyio.sleep(0.02)
        await until(router, lambda answer: answer == "old")

    anyio.run(main)


def test_switches_lose_no_request_with_what_is_warm_behind_them(target: LocalTarget, make: Make, image: Image) -> None:
    router = make(port=free_port(), failover=Failover.WARM)

    async def main() -> Load:
        blue, green, groups = await blue_and_green(target, image, instances=2)
        await router.split({blue.name: 100}, groups)
        with Load(router.config.port, posts=False) as load:
            for number in range(60):
                share = (0, 100, 50, 95, 10)[number % 5]
                await router.split({blue.name: share, green.name: 100 - share}, groups)
                await anyio.to_thread.run_sync(load.more, 2)
        return load

    load = anyio.run(main)
    print(f"{load.sent} requests, {len(load.failures)} lost in 60 switches")
    assert load.failures == []
    assert min(load.answers["blue"], load.answers["green"]) > 15


def test_failover_is_turned_on_and_off_without_losing_a_request_and_a_group_that_is_forgotten_is_no_fallback(
    target: LocalTarget, make: Make, image: Image, project: Project
) -> None:
    port = free_port()

    async def main() -> Load:
        blue, green, groups = await blue_and_green(target, image)
        await make(port=port).split({blue.name: 100}, groups)
        with Load(port, posts=False) as load:
            for failover in (Failover.WARM, Failover.PAGE, Failover.WARM):
                router = make(port=port, failover=failover)
                for one in (green, blue, green):
                    await router.split({one.name: 100}, groups)
                    await anyio.to_thread.run_sync(load.more, 5)
        await router.forget(blue.name)
        kill(target, green.name)
        await until(router, lambda answer: answer != "green")
        await only_the_page(router)
        return load

    assert anyio.run(main).failures == []


# Pure.


def parts() -> st.SearchStrategy[tuple[Part, ...]]:
    part = st.builds(
        lambda group, count, share, leaves: Part(
            group,
            tuple(f"127.0.0.1:{1000 + 10 * ord(group) + number}" for number in range(count)),
            share,
            (f"127.0.0.1:{1009 + 10 * ord(group)}",) if leaves else (),
        ),
        st.sampled_from("abcd"),
        st.integers(1, 3),
        st.sampled_from([0, 0, 30, 100]),
        st.booleans(),
    )
    return st.lists(part, max_size=4, unique_by=lambda one: one.group).map(
        lambda found: tuple(sorted(found, key=lambda one: one.group))
    )


@given(parts(), parts())
def test_what_envoy_is_told_of_spares_is_what_it_tells(before: tuple[Part, ...], after: tuple[Part, ...]) -> None:
    wanted = warmed_parts(before, after)
    had = {old.group for old in before if old.share} if any(part.share for part in after) else set[str]()
    assert {part.group for part in wanted if part.spare} == {part.group for part in after if not part.share} & had
    assert assigned_parts(assignment(wanted)) == wanted
    assert warmed_parts(wanted, after) == wanted
    assert {part.group for part in widened(wanted, after) if part.spare} == {part.group for part in wanted if part.spare}


@given(moves())
def test_the_commands_tell_haproxy_of_spares_wherever_they_were_before(
    move: tuple[tuple[Slot, ...], tuple[Slot, ...], dict[str, int], dict[str, Group]],
) -> None:
    """Also where it broke off in the middle, and a spare one is where its slot was before."""
    before, plain, _, groups = move
    after = warmed(before, plain, groups)
    assert {slot.group for slot in after if slot.spare} <= {slot.group for slot in before if slot.weight}
    assert all(not (slot.spare and slot.weight) for slot in after)
    said = [*chain(*commands(before, after))]
    for number, (old, new) in enumerate(zip(before, after, strict=True), 1):
        for backend in (BACKEND, CONTROL):
            mine = [one.partition(f"server {backend}/spare{number} ")[2] for one in said if f"{backend}/spare{number} " in one]
            if new.spare and new.address == old.address:
                assert mine == [f"weight {new.spare}"]
            elif not new.spare:
                assert mine == []  # it was none before either
    lost = tuple(replace(slot, spare=ELSEWHERE) for slot in before)
    again = [one for one in chain(*commands(lost, after)) if "/spare" in one]
    for number, slot in enumerate(after, 1):
        host, _, port = slot.address.rpartition(":")
        assert again.count(f"set server {BACKEND}/spare{number} addr {host} port {port}") == 1
        assert again.count(f"set server {BACKEND}/spare{number} weight {slot.spare}") == 1
    assert not [one for one in chain(*commands(after, after)) if "/spare" in one]


def test_instances_that_are_about_to_end_are_no_spares() -> None:
    stays, leaves = Address(host="a", port=1), Address(host="a", port=2)
    group = Group("old", (stays, leaves), frozenset({leaves}))
    before = (Slot("old", "a:1", 256), Slot("old", "a:2", 256), Slot("new", "a:3"))
    after = (Slot("old", "a:1"), Slot("old", "a:2"), Slot("new", "a:3", 256))
    found = warmed(before, after, {"old": group})
    assert [slot.spare for slot in found] == [256, 0, 0]
    assert [slot.spare for slot in warmed(found, after, {"old": group})] == [256, 0, 0]
    assert [slot.spare for slot in warmed(found, before, {"old": group})] == [0, 0, 0]


@pytest.mark.parametrize("failover", list(Failover))
def test_routers_are_told_of_spares_only_where_they_are_wanted(failover: Failover) -> None:
    haproxy = HAProxy(name="app", port=8080, failover=failover)
    text = configuration(haproxy, "/ok", Path("/s"), Path("/p"), (Slot("old", "a:1", spare=256),))
    routed = json.dumps(routes(Envoy(name="app", port=8080, failover=failover), timeout=30, serves=True))
    found = {"backup" in text, "observe" in text, "previous_priorities" in routed}
    assert found == {failover is Failover.WARM}


def test_release_follows_release_with_the_one_before_warm_and_goes_back_to_it(
    target: LocalTarget, make: Make, image: Image
) -> None:
    bench = Bench(target, make(port=free_port(), failover=Failover.WARM))

    async def main() -> None:
        versions = [release(image, version=name, instances=number) for name, number in (("a", 3), ("b", 2), ("c", 3), ("d", 2))]
        await bench.rollout(versions[0]).forward(BlueGreen())
        with Load(bench.router.config.port, posts=False) as load:
            for wanted in versions[1:]:
                await bench.rollout(wanted).forward(BlueGreen())
            assert bench.answer() == "d"
            await bench.router.split({versions[2].group: 100}, await target.groups())
            assert bench.answer() == "c"
            await anyio.to_thread.run_sync(load.more, 10)
        assert load.failures == []

    anyio.run(main)
