"""Shadows: releases that get copies of requests, on real processes behind a real Envoy."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path

import anyio
import anyio.abc
import pytest

from gates.judge import Business, ErrorRate, Judge
from pipeline import Project, StageFailed, WiringError
from pipeline.engines.local import free_port
from stages.delivery import process
from stages.delivery.answer import Answer, Noise
from stages.delivery.comparer import AT_ONCE, DIFFER, Comparison, Copy, comparing
from stages.delivery.deploy import Deploy
from stages.delivery.envoy import Envoy, EnvoyRouter
from stages.delivery.haproxy import HAProxy
from stages.delivery.local import LocalProcesses, LocalTarget
from stages.delivery.model import SHADOW, Address, Release, in_shadow
from stages.delivery.shadow import Shadow
from stages.delivery.strategy import BlueGreen
from stages.delivery.visitors import Visitors
from stages.image import Image
from tests.stages.delivery.bench import AnyRouter, Bench
from tests.stages.delivery.conftest import envoy, haproxy, need_envoy, release
from tests.stages.delivery.load import Load
from tests.stages.delivery.small import gated, image_stage
from tests.web import browser

QUICK = Judge(
    measures=(ErrorRate(budget=0.2), Business(of=DIFFER, budget=0.2)),
    beta=0.2,
    warm_up=0,
    floor=20,
    at_least=0,
    at_most=30,
    blind=5,
)
"""Sure enough by a few dozen requests: how sure judges are is tested elsewhere."""


@pytest.fixture
def router(project: Project) -> AnyRouter:
    need_envoy()
    return envoy(project, port=free_port())


def shadow(bench: Bench, judge: Judge = QUICK, *, ignore: tuple[str, ...] = ()) -> Shadow:
    config = envoy_of(bench).config
    return Shadow(router=config, then=BlueGreen(), share=50, judge=judge, tick=0.2, ignore=ignore)


def users(bench: Bench, path: str = "/", *, posts: bool = False) -> Load:
    return Load(bench.router.config.port, path=path, posts=posts, pause=0.005)


def compared(bench: Bench) -> dict[str, object]:
    (found,) = [data for kind, data in bench.notes.events if kind == "rollout.compared"]
    return found


def test_a_release_that_answers_the_same_is_ended_in_shadow_and_started_to_serve(bench: Bench, image: Image, posts: Path) -> None:
    async def main() -> Load:
        one, two = release(image, posts, instances=2), release(image, posts, instances=2, OTHER="1")
        await bench.rollout(one).forward(BlueGreen())
        with users(bench, posts=True) as load:
            await bench.rollout(two).forward(shadow(bench))
            await anyio.to_thread.run_sync(load.more, 20)
        assert bench.notes.steps("done") == [
            f"start {two.group}-shadow",
            f"wait until {two.group}-shadow is ready, at most 60 s",
            f"compare {two.group}-shadow with {one.group} by copies of 50 % of the requests, at most 30 s",
            f"drain {two.group}-shadow, at most 30 s",
            f"stop {two.group}-shadow",
            f"start {two.group}",
            f"wait until {two.group} is ready, at most 60 s",
            f"send 100 % to {two.group}",
            f"drain {one.group}, at most 30 s",
        ]
        assert await bench.router.current() == {one.group: 0, two.group: 100}
        return load

    load = anyio.run(main)
    assert load.failures == []
    found = compared(bench)
    assert (found["advice"], found["different"], found["noise"]) == ("promote", 0, [])
    looks = [data for kind, data in bench.notes.events if kind == "rollout.looked"]
    assert {data["share"] for data in looks} == {50}
    assert all(data["group"].endswith("-shadow") for data in looks)
    assert looks[-1]["measures"]["errors"][3] >= 20
    assert int(str(found["compared"])) >= 20
    assert sorted(posts.read_text().splitlines()) == sorted(load.posted)  # no POST was copied


def test_users_never_see_the_answers_of_a_release_in_shadow(bench: Bench, image: Image) -> None:
    async def main() -> None:
        one, two = release(image), release(image, version="two")
        await bench.rollout(one).forward(BlueGreen())
        with users(bench) as load:
            with pytest.raises(StageFailed, match=r"abort .*answers that differ: .*answers differ in GET /: line 1"):
                await bench.rollout(two).forward(shadow(bench))
            await anyio.to_thread.run_sync(load.more, 20)
        assert (set(load.answers), load.failures) == ({"one"}, [])
        assert list(await bench.target.groups()) == [one.group]
        assert await bench.router.current() == {one.group: 100}

    anyio.run(main)


def test_a_release_that_fails_is_refused_and_no_user_notices(bench: Bench, image: Image) -> None:
    async def main() -> None:
        one, bad = release(image), release(image, BROKEN="1")
        await bench.rollout(one).forward(BlueGreen())
        with users(bench) as load, pytest.raises(StageFailed, match=r"abort .*errors: .*status \(200, then 500\)"):
            await bench.rollout(bad).forward(shadow(bench))
        assert (set(load.answers), load.failures) == ({"one"}, [])
        assert list(await bench.target.groups()) == [one.group]

    anyio.run(main)


def test_where_nobody_comes_visitors_ask_what_is_compared(bench: Bench, image: Image) -> None:
    async def main() -> None:
        one, two = release(image), release(image, OTHER="1")
        await bench.rollout(one).forward(BlueGreen())
        strategy = dataclasses.replace(shadow(bench), visitors=Visitors(paths=("/?from=visitors",), rate=200))
        await bench.rollout(two).forward(strategy)

    anyio.run(main)
    assert compared(bench)["advice"] == "promote"
    assert int(str(compared(bench)["compared"])) >= 20


def test_in_what_the_old_release_differs_from_itself_is_learned(bench: Bench, image: Image) -> None:
    async def main() -> None:
        one, same, other = release(image, TOTAL="7"), release(image, TOTAL="7", OTHER="1"), release(image, TOTAL="8")
        await bench.rollout(one).forward(BlueGreen())
        with users(bench, "/json?token=secret") as load:
            await bench.rollout(same).forward(shadow(bench))
            assert compared(bench)["noise"] == ["at[].nanosecond", "at[].request"]
            with pytest.raises(StageFailed, match=r"answers differ in GET /json: total\n") as caught:
                await bench.rollout(other).forward(shadow(bench))
        assert "secret" not in str(caught.value) + json.dumps(bench.notes.events)
        assert load.failures == []

    anyio.run(main)


def test_what_people_say_may_differ_is_not_held_against_a_release(bench: Bench, image: Image) -> None:
    async def main() -> None:
        one, other = release(image, TOTAL="7"), release(image, TOTAL="8")
        await bench.rollout(one).forward(BlueGreen())
        with users(bench, "/json"):
            await bench.rollout(other).forward(shadow(bench, ignore=("total",)))
        assert await bench.router.current() == {one.group: 0, other.group: 100}

    anyio.run(main)


def test_where_the_router_ends_nothing_more_is_compared_and_users_are_served_again(bench: Bench, image: Image) -> None:
    async def main() -> None:
        one, two = release(image), release(image, OTHER="1")
        await bench.rollout(one).forward(BlueGreen())
        judge = dataclasses.replace(QUICK, at_least=60, at_most=120)

        async def end_it() -> None:
            while not any(kind == "rollout.looked" for kind, _ in bench.notes.events):
                await anyio.sleep(0.05)
            (found,) = process.running(f"{bench.router.state}:")
            os.kill(found.pid, signal.SIGKILL)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(end_it)
            with pytest.raises(StageFailed, match="the router has ended while it sent copies of requests"):
                await bench.rollout(two).forward(shadow(bench, judge))
        assert await bench.router.current() == {one.group: 100}
        assert await asked(bench) == "one"
        assert list(await bench.target.groups()) == [one.group]

    anyio.run(main)


def test_without_a_request_nothing_is_promoted(bench: Bench, image: Image) -> None:
    async def main() -> None:
        one, two = release(image), release(image, OTHER="1")
        await bench.rollout(one).forward(BlueGreen())
        judge = Judge(measures=(ErrorRate(),), warm_up=0, at_least=0, at_most=1)
        with pytest.raises(
            StageFailed, match=r"inconclusive after 1 s: missing: 100 requests more .*; errors: nothing was compared yet"
        ):
            await bench.rollout(two).forward(shadow(bench, judge))
        assert await bench.router.current() == {one.group: 100}

    anyio.run(main)


def test_a_release_knows_that_it_is_in_shadow_and_not_when_it_serves(bench: Bench, image: Image) -> None:
    told: list[str] = []

    async def ask(place: Address) -> str:
        async with browser() as client:
            return (await client.get(f"{place.url}/env?{SHADOW}")).text

    async def main() -> None:
        one, two = release(image), release(image, OTHER="1")
        await bench.rollout(one).forward(BlueGreen())
        with users(bench):
            async with anyio.create_task_group() as tasks:
                rollout = bench.rollout(two)
                tasks.start_soon(rollout.forward, shadow(bench))
                while not any(step.startswith("compare") for step in bench.notes.steps("intended")):
                    await anyio.sleep(0.01)
                (place,) = (await bench.target.groups())[in_shadow(two.group)].instances
                told.append(await ask(place))
        (place,) = (await bench.target.groups())[two.group].instances
        told.append(await ask(place))

    anyio.run(main)
    assert told == ["1", ""]


def test_the_name_of_a_release_in_shadow_tells_of_which(image: Image) -> None:
    one = release(image)
    assert one.shadowed().group == in_shadow(one.group) == f"{one.group}-shadow"
    assert Release.read(one.shadowed().written()) == one.shadowed()


def test_a_router_that_cannot_send_copies_is_refused_before_anything_is_switched(
    target: LocalTarget, project: Project, image: Image
) -> None:
    async def main() -> None:
        bench = Bench(target, haproxy(project, port=free_port()))
        one, two = release(image), release(image, version="two")
        await bench.rollout(one).forward(BlueGreen())
        with pytest.raises(StageFailed, match="HAProxyRouter cannot send copies of requests"):
            await bench.rollout(two).forward(Shadow(router=Envoy(name="app", port=1)))
        assert (bench.answer(), list(await target.groups())) == ("one", [one.group])

    anyio.run(main)


def test_a_router_that_is_known_to_send_no_copies_is_refused_where_it_is_named() -> None:
    port = free_port()
    with pytest.raises(WiringError, match="Shadow: HAProxy app cannot send copies of requests"):
        Shadow(router=HAProxy(name="app", port=port))  # type: ignore[arg-type]  # as a type checker says, too


def test_a_deployment_whose_copies_are_sent_by_another_router_is_refused() -> None:
    with pytest.raises(WiringError, match="copies of requests by another router than the one that users come to"):
        Deploy(
            release=gated(image_stage()),
            target=LocalProcesses(name="app"),
            router=Envoy(name="app", port=8080),
            strategy=Shadow(router=Envoy(name="app", port=8081)),
        )


def test_copies_that_a_dead_run_left_to_be_sent_end_with_the_next_split(bench: Bench, image: Image) -> None:
    async def main() -> None:
        one = release(image)
        await bench.rollout(one).forward(BlueGreen())
        router = envoy_of(bench)
        copies = 0

        async def take(stream: anyio.abc.SocketStream) -> None:
            nonlocal copies
            async with stream:
                copies += (await stream.receive()).startswith(b"GET / HTTP/1.1")

        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as server, anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, take)
            to = Address(host="127.0.0.1", port=server.extra(anyio.abc.SocketAttribute.local_port))
            dead = router.mirror(to, 100)
            await dead.__aenter__()
            with anyio.fail_after(10):
                while copies < 3:
                    assert await asked(bench) == "one"
            await router.split({one.group: 100}, await bench.target.groups())
            seen = copies
            for _ in range(10):
                assert await asked(bench) == "one"
            assert copies == seen
            await dead.__aexit__(None, None, None)
            tasks.cancel_scope.cancel()

    anyio.run(main)


def envoy_of(bench: Bench) -> EnvoyRouter:
    assert isinstance(bench.router, EnvoyRouter)
    return bench.router


async def asked(bench: Bench) -> str:
    async with browser() as client:
        return (await client.get(bench.router.address.url)).text


# Who compares.


def test_answers_are_compared_only_where_the_old_release_answers() -> None:
    found, good, bad = Comparison(Noise()), Answer(200, "text/plain", b"a"), Answer(500)
    copy = Copy("GET", "/")
    found.add(copy, bad, bad, good)
    found.add(copy, good, good, bad)
    old, new = found.windows()
    assert (old.requests, old.errors, old.business[DIFFER].of) == (2, 1, 1)
    assert (new.requests, new.errors, new.business[DIFFER].part) == (2, 1, 1)
    assert found.windows()[0].requests == 0


def test_copies_are_marked_and_what_is_no_safe_request_or_too_much_is_thrown_away() -> None:
    heads: list[str] = []

    async def main() -> None:
        go = anyio.Event()

        async def serve(stream: anyio.abc.SocketStream) -> None:
            async with stream:
                heads.append((await stream.receive()).decode().lower())
                await go.wait()
                await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")

        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as server,
            browser() as client,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(server.serve, serve)
            place = Address(host="127.0.0.1", port=server.extra(anyio.abc.SocketAttribute.local_port))
            async with comparing([place], [place], ()) as (here, found):
                assert (await client.post(here.url, content=b"x")).status_code == 204
                for _ in range(AT_ONCE + 2):
                    assert (await client.get(f"{here.url}/a?b=c", headers={"Host": "users.example"})).status_code == 204
                with anyio.fail_after(10):
                    while found.skipped < 3:
                        await anyio.sleep(0.01)
                    go.set()
                    while found.compared < AT_ONCE:
                        await anyio.sleep(0.01)
                assert found.skipped == 3
            tasks.cancel_scope.cancel()

    anyio.run(main)
    assert len(heads) == 3 * AT_ONCE
    for head in heads:
        assert head.startswith("get /a?b=c http/1.1")
        assert "\r\nx-shadow: 1\r\n" in head
        assert "\r\nhost: users.example\r\n" in head
