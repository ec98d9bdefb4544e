"""Envoy as a router: pure planning of its files, and a real one."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import gc
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gates.window import Window
from pipeline import Project, StageFailed
from pipeline.engines.local import free_port
from pipeline.errors import StoreError
from stages.delivery import process
from stages.delivery.audience import Chosen, HasHeader
from stages.delivery.entrance import Entrance
from stages.delivery.envoy import EnvoyRouter
from stages.delivery.envoy_admin import Host, admin, hosts, ill, unwell
from stages.delivery.envoy_files import refusal
from stages.delivery.envoy_traffic import Sums, Traffic, sums
from stages.delivery.envoy_xds import (
    CHOSEN,
    SERVICE,
    SPLIT,
    Part,
    assignment,
    parts,
    routes,
    shares,
    version,
    wanted_parts,
    widened,
)
from stages.delivery.local import LocalTarget
from stages.delivery.model import Address, Group
from stages.delivery.probe import HttpProbe
from stages.delivery.router import BOUNDS
from stages.image import Image
from tests.stages.delivery.conftest import blue_and_green, envoy, need_envoy, release, up
from tests.stages.delivery.desk import hanging
from tests.web import browser

# Pure: the files.

NAMES = st.sampled_from("abcdef")
ADDRESSES = st.integers(1024, 65535).map("127.0.0.1:{}".format)
PART = st.builds(Part, NAMES, st.lists(ADDRESSES, min_size=1, max_size=3, unique=True).map(tuple), st.integers(0, 100))
SPLITS = st.lists(PART, max_size=5, unique_by=lambda part: part.group).map(tuple)


@given(SPLITS)
def test_a_split_is_read_as_it_was_written(split: tuple[Part, ...]) -> None:
    assert parts(SPLIT.content(assignment(split))) == split


@given(SPLITS, SPLITS)
def test_other_splits_are_other_versions(one: tuple[Part, ...], two: tuple[Part, ...]) -> None:
    first, second = (version(SPLIT.content(assignment(split))) for split in (one, two))
    assert (first == second) == (one == two)


@given(SPLITS, SPLITS)
def test_what_is_new_is_looked_at_before_it_gets_a_share(before: tuple[Part, ...], after: tuple[Part, ...]) -> None:
    wide = {part.group: part for part in widened(before, after)}
    for part in before:
        assert wide[part.group].share == part.share
        assert set(part.addresses) <= set(wide[part.group].addresses)
    for part in after:
        assert set(part.addresses) <= set(wide[part.group].addresses)
    assert sum(part.share for part in wide.values()) == sum(part.share for part in before)


def test_groups_that_run_without_a_share_are_kept_and_those_without_instances_are_not() -> None:
    here = (Address(host="127.0.0.1", port=2000),)
    groups = {"a": Group("a", here), "b": Group("b", ()), "c": Group("c", here)}
    found = wanted_parts({"c": 100}, groups)
    assert found == (Part("a", ("127.0.0.1:2000",), 0), Part("c", ("127.0.0.1:2000",), 100))
    assert shares(found) == {"a": 0, "c": 100}


def test_only_requests_that_may_be_repeated_are_and_only_those_that_change_nothing_are_copied() -> None:
    said = routes(Entrance(name="x", port=1), timeout=30, serves=True, copied=20)["virtual_hosts"][0]["routes"]
    tried = {_methods(route): route["route"]["retry_policy"]["retry_on"] for route in said}
    assert tried == {
        "GET|HEAD|OPTIONS": "connect-failure,refused-stream,reset",
        "TRACE|PUT|DELETE": "connect-failure,refused-stream,reset",
        "": "connect-failure,refused-stream,reset-before-request",
    }
    assert [_methods(route) for route in said if "request_mirror_policies" in route["route"]] == ["GET|HEAD|OPTIONS"]
    assert "mirror" not in json.dumps(routes(Entrance(name="x", port=1), timeout=30, serves=True))


def _methods(route: dict[str, object]) -> str:
    found = re.search(r'"regex": "([^"]*)"', json.dumps(route))
    return found[1] if found else ""


def test_the_reason_for_a_refusal_is_the_last_that_was_given() -> None:
    assert refusal("[x] rejected: first\n[y] update rejected: why\n[z] on\n") == "why"
    assert refusal("only this\n") == "only this"
    assert refusal("\n") == "it said nothing"


def test_a_group_may_get_traffic_when_all_of_it_was_asked_and_one_is_well() -> None:
    found = [
        Host("a", "h:1", True, True, 0),
        Host("a", "h:1", True, False, 0),
        Host("b", "h:1", False, False, 0),
        Host("c", "h:1", True, False, 0),
    ]
    assert unwell(found, ["a", "b", "c", "d"]) == ["b", "c", "d"]
    assert unwell([Host("a", "h:1", False, False, 0), Host("a", "h:1", True, True, 0)], ["a"]) == ["a"]


def test_groups_are_ill_when_all_that_there_is_of_them_was_asked_and_none_is_well() -> None:
    well, dead, new = Host("a", "h:1", True, True, 0), Host("b", "h:2", True, False, 0), Host("c", "h:3", False, False, 0)
    assert ill([well, dead, new], ["b", "d"])
    assert not any(ill([well, dead, new], groups) for groups in (["a", "b"], ["b", "c"], ["d"], []))


def test_a_cluster_that_is_not_there_has_no_instances() -> None:
    assert hosts({}) == []


# Pure: what was counted.


def test_a_try_without_an_answer_and_one_of_the_instances_fault_failed() -> None:
    counters = tries("out", {0: 1, 200: 5, 404: 7, 503: 3})
    assert sums(counters, took("out")) == {"r-1": Sums(16, 4, tuple(range(len(BOUNDS) + 1)))}


def test_of_a_group_that_is_compared_by_an_audience_only_what_that_asked_is_counted() -> None:
    counters = {**tries("out", {200: 5, 503: 3}), **tries("in", {200: 2, 500: 1})}
    both = {**took("out"), **took("in")}
    assert sums(counters, both) == {"r-1": Sums(11, 4, tuple(2 * number for number in range(len(BOUNDS) + 1)))}
    assert sums(counters, both, {"r-1"}) == {"r-1": Sums(3, 1, tuple(range(len(BOUNDS) + 1)))}
    assert sums(tries("out", {200: 5}), took("out"), {"r-1"}) == {"r-1": Sums()}


def tries(side: str, counts: dict[int, int]) -> dict[str, int]:
    return {f"lockgate.tries.group.r-1.audience.{side}.status.{status}": count for status, count in counts.items()}


def took(side: str) -> dict[str, list[dict[str, int]]]:
    return {f"lockgate.took.group.r-1.audience.{side}": [{"cumulative": number} for number in range(len(BOUNDS) + 1)]}


def test_what_was_not_seen_all_the_time_is_not_known() -> None:
    watch = Traffic()
    watch.see({"a": Sums(5, 1)})
    watch.windows()
    watch.see({"a": Sums(7, 1)})
    assert requests(watch.windows(["a"], ["b"])) == [2, 0]
    watch.see(None)
    watch.see({"a": Sums(9, 1)})
    assert watch.windows(["a"]) == [None]
    watch.see({"a": Sums(10, 1)})
    assert requests(watch.windows(["a"])) == [1]


def test_figures_that_are_less_than_before_are_another_envoys() -> None:
    watch = Traffic()
    watch.see({"a": Sums(5, 1)})
    watch.windows()
    watch.see({"a": Sums(3, 1)})
    assert watch.windows(["a"]) == [None]
    watch.see({"a": Sums(4, 1)})
    assert requests(watch.windows(["a"])) == [1]


def requests(windows: list[Window | None]) -> list[int]:
    return [one.requests if one is not None else -1 for one in windows]


# A real Envoy.


@pytest.fixture
def router(project: Project) -> EnvoyRouter:
    need_envoy()
    return envoy(project, port=free_port())


async def get(router: EnvoyRouter, path: str = "/", **headers: str) -> httpx.Response:
    async with browser() as client:
        return await client.get(router.address.url + path, headers=headers)


def test_shares_are_met_by_turns_not_by_chance(target: LocalTarget, router: EnvoyRouter, image: Image) -> None:
    async def main() -> tuple[int, int]:
        blue, green = await up(target, release(image)), await up(target, release(image, version="two"))
        await router.split({blue.name: 93, green.name: 7}, {blue.name: blue, green.name: green})
        async with browser() as client:
            answers = [(await client.get(router.address.url)).text for _ in range(400)]
        return answers.count("one"), answers.count("two")

    one, two = anyio.run(main)
    assert one + two == 400
    assert abs(two - 28) <= 2


HASTY = HttpProbe(every=0.2, within=0.5, failures=1)


def test_a_group_that_is_not_well_gets_no_traffic_and_leaves_it_where_it_is(
    target: LocalTarget, router: EnvoyRouter, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.delivery.envoy.PATIENCE", 1.0)

    async def main() -> None:
        blue, bad = await up(target, release(image)), await target.start(release(image, version="bad", UNREADY="1"))
        groups = {blue.name: blue, bad.name: bad}
        router.ready = HASTY
        await router.split({blue.name: 100}, groups)
        with pytest.raises(StageFailed, match=f"{bad.name} cannot get traffic: no instance answers Envoy on /readyz"):
            await router.split({bad.name: 100}, groups)
        assert await router.current() == {blue.name: 100, bad.name: 0}
        assert (await get(router)).text == "one"

    anyio.run(main)


@contextlib.asynccontextmanager
async def found_dead(router: EnvoyRouter, target: LocalTarget, group: Group) -> AsyncIterator[None]:
    """Meanwhile the group hangs, and Envoy knows."""
    with hanging(list(process.running(f"{target.state}:{group.name}:"))):
        async with admin(router._socket) as asked:
            while any(host.well for host in (await asked.hosts())[SERVICE] if host.group == group.name):
                await anyio.sleep(0.05)
        yield


def test_envoy_tells_at_once_whether_all_are_well_also_those_without_a_share(
    target: LocalTarget, router: EnvoyRouter, image: Image
) -> None:
    async def is_told() -> bool:
        async with router._telling() as (envoy, files):
            await files.look(envoy)
            return files.all_well((SERVICE, CHOSEN))

    async def main() -> None:
        router.ready = HASTY
        blue, green, both = await blue_and_green(target, image)
        await router.split({blue.name: 100}, {blue.name: blue})
        assert await is_told()
        await router.split({blue.name: 100, green.name: 0}, both)
        with anyio.fail_after(20):
            while not await is_told():  # nobody waits for who gets nothing
                await anyio.sleep(0.01)
        async with found_dead(router, target, green):
            assert not await is_told()

    anyio.run(main)


def test_where_nobody_serves_whoever_can_gets_users_without_waiting_for_the_others(
    target: LocalTarget, router: EnvoyRouter, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.delivery.envoy.PATIENCE", 3600.0)

    async def main() -> None:
        blue, green, both = await blue_and_green(target, image)
        router.ready = HASTY
        await router.split({blue.name: 100}, both)
        async with found_dead(router, target, blue):
            await router.split({green.name: 25, blue.name: 75}, both)
            async with browser() as client:
                assert {(await client.get(router.address.url)).text for _ in range(20)} == {"green"}

    anyio.run(main)


def test_an_audience_that_is_served_is_not_sent_to_those_that_cannot_serve_everybody_else(
    target: LocalTarget, router: EnvoyRouter, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.delivery.envoy.PATIENCE", 1.0)

    async def main() -> None:
        blue, green, both = await blue_and_green(target, image)
        router.ready = HASTY
        await router.split({blue.name: 100}, both, Chosen(HasHeader(name="x-try"), ((green.name, 100),)))
        async with found_dead(router, target, blue):
            with pytest.raises(StageFailed, match=f"{blue.name} cannot get traffic"):
                await router.split({blue.name: 100}, both)
            async with browser() as client:
                assert (await client.get(router.address.url, headers={"x-try": "1"})).text == "green"

    anyio.run(main)


def test_settings_that_envoy_refuses_leave_it_as_it_is_and_are_not_kept(
    target: LocalTarget, router: EnvoyRouter, image: Image, project: Project
) -> None:
    async def main() -> None:
        blue = await up(target, release(image))
        await router.split({blue.name: 100}, {blue.name: blue})
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as taken:
            port = taken.extra(anyio.abc.SocketAttribute.local_port)
            with pytest.raises(StageFailed, match=r"Envoy refuses listeners\.json: .*Address already in use"):
                await envoy(project, port=port).split({blue.name: 100}, {blue.name: blue})
            assert (await get(router)).text == "one"
            (running,) = process.running(f"{router.state}:")
            os.kill(running.pid, signal.SIGKILL)
            while process.alive(running):
                await anyio.sleep(0.01)
        await router.split({blue.name: 100}, {blue.name: blue})
        assert (await get(router)).text == "one"

    anyio.run(main)


def test_what_envoy_was_told_is_synced_at_the_end_of_each_switch_whatever_became_of_the_one_before(
    target: LocalTarget, router: EnvoyRouter, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def watched(number: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{number}")).name)
        fsync(number)

    async def main() -> None:
        blue, green = await up(target, release(image)), await up(target, release(image, version="two"))
        groups = {blue.name: blue, green.name: green}
        await router.split({blue.name: 100}, groups)
        with monkeypatch.context() as dying:
            dying.setattr("stages.delivery.envoy_files.Files.keep", lambda _files: anyio.sleep_forever())
            with anyio.move_on_after(5) as killed:
                await router.split({green.name: 100}, groups)
        assert killed.cancelled_caught
        assert (await get(router)).text == "two"
        with monkeypatch.context() as seen:
            seen.setattr(os, "fsync", watched)
            await router.split({green.name: 100}, groups)
        assert {"split.json", "routes.json", "listeners.json"} <= set(synced)

    anyio.run(main)


def test_a_disk_that_does_not_keep_what_envoy_was_told_is_said(
    target: LocalTarget, router: EnvoyRouter, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_number: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    async def main() -> None:
        blue = await up(target, release(image))
        await router.split({blue.name: 100}, {blue.name: blue})
        monkeypatch.setattr(os, "fsync", broken)
        with pytest.raises(StoreError, match="Input/output error"):
            await router.split({blue.name: 100}, {blue.name: blue})

    anyio.run(main)


def test_another_page_and_another_path_of_readiness_are_taken_over(
    target: LocalTarget, router: EnvoyRouter, image: Image, project: Project
) -> None:
    async def main() -> None:
        blue = await up(target, release(image))
        await router.split({blue.name: 100}, {blue.name: blue})
        (before,) = process.running(f"{router.state}:")
        other = envoy(project, port=router.config.port, maintenance="<p>100 % soon</p>")
        await other.split({blue.name: 100}, {blue.name: blue})
        await other.split({}, {blue.name: blue})
        answer = await get(other)
        assert (answer.status_code, answer.text, answer.headers["retry-after"]) == (503, "<p>100 % soon</p>", "5")
        assert list(process.running(f"{router.state}:")) == [before]

    anyio.run(main)


def test_nothing_a_user_says_is_an_order_to_envoy(router: EnvoyRouter) -> None:
    """Not even one of this machine: headers by which Envoy could be told to try again are taken away."""
    heads: list[str] = []

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            head = (await stream.receive()).decode()
            if not head.startswith("GET /readyz"):
                heads.append(head.lower())
            await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: own\r\nConnection: close\r\n\r\nok")

    async def main() -> None:
        server = await anyio.create_tcp_listener(local_host="127.0.0.1")
        here = Address(host="127.0.0.1", port=server.extra(anyio.abc.SocketAttribute.local_port))
        async with server, anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, serve)
            await router.split({"g": 100}, {"g": Group("g", (here,))})
            answer = await get(router, **{"x-envoy-retry-on": "5xx", "x-envoy-max-retries": "9", "x-forwarded-proto": "https"})
            tasks.cancel_scope.cancel()
        assert answer.headers["server"] == "own"

    anyio.run(main)
    (head,) = heads
    assert "x-envoy" not in head
    assert re.search(r"\r\nx-forwarded-for: [\d.]+\r\n", head)
    assert f"host: {router.address.summary()}" in head


def test_each_request_has_a_connection_of_its_own_to_the_instance(router: EnvoyRouter) -> None:
    served: list[int] = []

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            served.append(0)
            number = len(served) - 1
            with contextlib.suppress(anyio.EndOfStream):
                while True:
                    ready = (await stream.receive()).startswith(b"GET /readyz")
                    served[number] += not ready
                    await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async def main() -> None:
        server = await anyio.create_tcp_listener(local_host="127.0.0.1")
        async with server, anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, serve)
            await router.split({"g": 100}, {"g": Group("g", (_at(server),))})
            for _ in range(6):
                assert (await get(router)).text == "ok"
            tasks.cancel_scope.cancel()

    anyio.run(main)
    assert sum(served) == 6
    assert max(served) == 1


def test_a_group_that_is_forgotten_is_not_there_any_more_though_it_is_well(
    target: LocalTarget, router: EnvoyRouter, image: Image
) -> None:
    async def main() -> None:
        blue, green = await up(target, release(image)), await up(target, release(image, version="two"))
        await router.split({blue.name: 50, green.name: 50}, {blue.name: blue, green.name: green})
        await router.split({blue.name: 100}, {blue.name: blue, green.name: green})
        await router.forget(green.name)
        async with admin(router._socket) as asked:
            assert {host.group for found in (await asked.hosts()).values() for host in found} == {blue.name}
        assert await router.current() == {blue.name: 100}

    anyio.run(main)


def test_envoy_is_asked_over_a_new_connection_where_one_that_was_kept_has_ended(
    target: LocalTarget, router: EnvoyRouter, image: Image
) -> None:
    async def main() -> None:
        blue = await up(target, release(image))
        await router.split({blue.name: 100}, {blue.name: blue})
        async with admin(router._socket) as asked:
            before = await asked.parts()
            await router.stop()
            await router.split({blue.name: 100}, {blue.name: blue})
            assert await asked.parts() == before

    anyio.run(main)


def test_of_connections_over_which_envoy_is_asked_at_once_none_is_left_open(
    target: LocalTarget, router: EnvoyRouter, image: Image
) -> None:
    async def main() -> None:
        blue = await up(target, release(image))
        await router.split({blue.name: 100}, {blue.name: blue})
        async with admin(router._socket) as asked:
            for _ in range(2):
                async with anyio.create_task_group() as tasks:
                    for _ in range(10):
                        tasks.start_soon(asked.hosts)
        gc.collect()

    anyio.run(main)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "Envoy does not answer: it ended the connection"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", "Envoy does not answer: peer closed connection without sending"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwhat", "Envoy answers /clusters with what is no JSON: what"),
    ],
)
def test_what_is_no_answer_is_said_as_it_is(answer: bytes, why: str, tmp_path: Path) -> None:
    async def hang_up(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(answer)

    async def main() -> None:
        socket = tmp_path / "a"
        async with await anyio.create_unix_listener(socket) as listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, hang_up)
            async with admin(socket) as asked:
                with pytest.raises(StageFailed, match=why):
                    await asked.hosts()
            tasks.cancel_scope.cancel()

    anyio.run(main)


def test_only_its_user_may_ask_envoy(target: LocalTarget, router: EnvoyRouter, image: Image) -> None:
    async def main() -> None:
        blue = await up(target, release(image))
        await router.split({blue.name: 100}, {blue.name: blue})

    anyio.run(main)
    assert router._socket.stat().st_mode & 0o777 == 0o600
    assert router._sockets.stat().st_mode & 0o777 == 0o700


def test_a_try_that_failed_counts_against_its_group_and_the_one_that_answered_is_counted_too(router: EnvoyRouter) -> None:
    async def hang_up(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            ready = b"/readyz" in await stream.receive()
            await stream.send(OK if ready else b"")

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(OK)

    async def main() -> None:
        async with AsyncExitStack() as servers, anyio.create_task_group() as tasks:
            groups = {}
            for name, handler in (("bad", hang_up), ("good", serve)):
                server = await servers.enter_async_context(await anyio.create_tcp_listener(local_host="127.0.0.1"))
                tasks.start_soon(server.serve, handler)
                groups[name] = Group(name, (_at(server),))
            await router.split({"bad": 50, "good": 50}, groups)
            async with router.watch() as watch:
                answers = [(await get(router)).status_code for _ in range(20)]
                seen = {"bad": [0, 0, 0], "good": [0, 0, 0]}
                with anyio.fail_after(10):
                    while seen["good"][2] < 20:
                        await anyio.sleep(0.02)
                        for name, one in zip(seen, watch.windows(["bad"], ["good"]), strict=True):
                            assert one is not None
                            assert one.latency is not None
                            more = (one.requests, one.errors, one.latency.total)
                            seen[name] = [before + now for before, now in zip(seen[name], more, strict=True)]
            tasks.cancel_scope.cancel()
        assert answers == [200] * 20
        assert seen["good"] == [20, 0, 20]
        assert seen["bad"][0] == seen["bad"][1] > 5
        assert seen["bad"][2] == 0

    anyio.run(main)


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


def _at(server: anyio.abc.Listener[anyio.abc.SocketStream]) -> Address:
    return Address(host="127.0.0.1", port=server.extra(anyio.abc.SocketAttribute.local_port))


def test_what_users_ask_goes_on_when_an_answer_takes_longer_than_the_silence_that_is_allowed(router: EnvoyRouter) -> None:
    """The limit is for silence: what goes on saying something is not cut."""

    async def trickle(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            if b"/readyz" in await stream.receive():
                await stream.send(OK)
                return
            await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\n")
            for _ in range(6):
                await anyio.sleep(0.3)
                await stream.send(b"x")

    async def main() -> None:
        server = await anyio.create_tcp_listener(local_host="127.0.0.1")
        async with server, anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, trickle)
            quick = dataclasses.replace(router, config=dataclasses.replace(router.config, timeout=1))
            await quick.split({"g": 100}, {"g": Group("g", (_at(server),))})
            assert (await get(quick)).text == "xxxxxx"
            tasks.cancel_scope.cancel()

    anyio.run(main)
