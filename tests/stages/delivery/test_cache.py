"""Answers that a router keeps: which ones, and of which release."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Awaitable, Callable
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import anyio.abc
import pytest

from pipeline import Project, WiringError
from pipeline.engines.local import free_port
from stages.delivery import envoy_xds, process
from stages.delivery.audience import Chosen, HasHeader
from stages.delivery.cache import Cache
from stages.delivery.envoy import Envoy
from stages.delivery.envoy_admin import admin
from stages.delivery.failover import Failover
from stages.delivery.haproxy import HAProxyRouter, Slot, alone
from stages.delivery.local import LocalTarget
from stages.delivery.model import Address, Group
from stages.image import Image
from tests.stages.delivery.answering import instances
from tests.stages.delivery.conftest import blue_and_green, envoy, haproxy, need_envoy, release, up
from tests.stages.delivery.load import Load
from tests.web import browser


@pytest.fixture
def router(project: Project) -> HAProxyRouter:
    return haproxy(project, port=free_port(), cache=Cache())


def kept(**headers: str) -> str:
    """A path whose answer has these headers, and a number of its own."""
    return f"/kept?{quote(json.dumps(headers))}"


LONG = kept(Cache_Control="max-age=600")


async def asked(router: HAProxyRouter, path: str = LONG, **headers: str) -> str:
    async with browser() as client:
        return (await client.get(router.address.url + path, headers={k.replace("_", "-"): v for k, v in headers.items()})).text


@pytest.mark.parametrize(
    ("headers", "is_kept"),
    [
        ({"Cache_Control": "max-age=600"}, True),
        ({"Cache_Control": "public, s-maxage=600"}, True),
        ({"Expires": "Thu, 01 Jan 2099 00:00:00 GMT"}, True),
        ({"Cache_Control": "max-age=600", "Vary": "Accept-Encoding"}, True),
        ({"Cache_Control": "max-age=600, private"}, False),
        ({"Cache_Control": "no-store"}, False),
        ({"Cache_Control": "max-age=600", "Set_Cookie": "a=b"}, False),
        ({"Cache_Control": "max-age=600", "Vary": "X-Language"}, False),
        ({"Last_Modified": "Thu, 01 Jan 2015 00:00:00 GMT"}, False),
        ({}, False),
    ],
)
def test_only_what_an_answer_allows_is_kept(
    target: LocalTarget, router: HAProxyRouter, image: Image, headers: dict[str, str], *, is_kept: bool
) -> None:
    async def main() -> None:
        blue = await up(target, release(image))
        await router.split({blue.name: 100}, {blue.name: blue})
        first = await asked(router, kept(**headers))
        assert first.startswith("one ")
        assert (await asked(router, kept(**headers)) == first) == is_kept
        assert await asked(router, kept(**headers) + "&other") != first
        assert await asked(router, kept(**headers), host="other.example.org") != first

    anyio.run(main)


def test_answers_to_who_is_known_by_a_password_are_not_kept_and_other_methods_are_not_answered_from_them(
    target: LocalTarget, router: HAProxyRouter, image: Image, posts: Path
) -> None:
    async def main() -> None:
        blue = await up(target, release(image, posts))
        await router.split({blue.name: 100}, {blue.name: blue})
        first = await asked(router, authorization="Basic YTpi")
        assert await asked(router) != first
        async with browser() as client:
            assert (await client.post(router.address.url + LONG, content="noted")).text == "one"

    anyio.run(main)
    assert posts.read_text() == "noted\n"


def test_an_instance_is_asked_for_the_path_that_users_ask_for(router: HAProxyRouter) -> None:
    async def main() -> None:
        await router.split({"one": 100}, {"one": group})
        assert await asked(router, "/a%20b/?q=%2F&r=1") == "/a%20b/?q=%2F&r=1"

    with instances("one", says_path=True) as group:
        anyio.run(main)


def test_no_answer_of_an_old_release_is_given_after_a_switch_nor_of_a_release_that_came_back_any_of_the_other(
    target: LocalTarget, router: HAProxyRouter, image: Image
) -> None:
    async def main() -> Load:
        blue, green, groups = await blue_and_green(target, image)
        await router.split({blue.name: 100}, groups)
        with Load(router.config.port, path=LONG, posts=False, pause=0.002) as load:
            for number in range(30):
                now, name = (green, "green") if number % 2 == 0 else (blue, "blue")
                await router.split({now.name: 100}, groups)
                for _ in range(5):
                    assert (await asked(router)).startswith(name)
                await anyio.to_thread.run_sync(load.more, 3)
        return load

    load = anyio.run(main)
    assert load.failures == []
    assert len(load.answers) < load.sent / 3  # most of them were given from the cache


def test_nothing_is_kept_while_releases_share_the_traffic(target: LocalTarget, router: HAProxyRouter, image: Image) -> None:
    async def main() -> None:
        blue, green, groups = await blue_and_green(target, image)
        await router.split({blue.name: 100}, groups)
        first = await asked(router)
        await router.split({blue.name: 50, green.name: 50}, groups)
        found = [await asked(router) for _ in range(20)]
        assert len(set(found)) == 20
        assert first not in found
        await router.split({blue.name: 100}, groups)
        assert await asked(router) == first  # which is the same release's
        chosen = Chosen(HasHeader(name="x-beta"), ((green.name, 100),))
        await router.split({blue.name: 100}, groups, chosen)
        found = [await asked(router) for _ in range(4)] + [await asked(router, x_beta="1") for _ in range(4)]
        assert len(set(found)) == 8

    anyio.run(main)


def test_an_answer_that_another_release_gave_in_the_end_is_kept_for_nobody(router: HAProxyRouter) -> None:
    """It was asked of blue, which hangs up when green has the traffic."""
    asked_once, go = anyio.Event(), anyio.Event()

    def serving(name: bytes) -> Callable[[anyio.abc.SocketStream], Awaitable[None]]:
        async def serve(stream: anyio.abc.SocketStream) -> None:
            async with stream:
                said = await stream.receive()
                if name == b"blue" and b"/readyz" not in said and not asked_once.is_set():
                    asked_once.set()
                    await go.wait()
                    return
                head = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
                await stream.send(head % len(name) + name)

        return serve

    async def main() -> None:
        got: list[str] = []

        async def first() -> None:
            got.append(await asked(router, "/"))

        async with contextlib.AsyncExitStack() as servers, anyio.create_task_group() as tasks:
            groups = {}
            for name in ("blue", "green"):
                server = await servers.enter_async_context(await anyio.create_tcp_listener(local_host="127.0.0.1"))
                port = server.extra(anyio.abc.SocketAttribute.local_port)
                groups[name] = Group(name, (Address(host="127.0.0.1", port=port),))
                tasks.start_soon(server.serve, serving(name.encode()))
            with anyio.fail_after(60):
                await router.split({"blue": 100}, groups)
                async with anyio.create_task_group() as users:
                    users.start_soon(first)
                    await asked_once.wait()
                    await router.split({"green": 100}, groups)
                    go.set()
                assert got == ["green"]
                await router.split({"blue": 100}, groups)
                assert await asked(router, "/") == "blue"
            tasks.cancel_scope.cancel()

    anyio.run(main)


def test_nothing_is_kept_while_a_split_is_on_its_way(router: HAProxyRouter) -> None:
    before = (Slot("one", "127.0.0.1:1", 256), Slot("two", "127.0.0.1:2"))
    after = (Slot("one", "127.0.0.1:1"), Slot("two", "127.0.0.1:2", 256))
    first, *change, last = chain(*router._commands(before, after, None))
    assert (first, last) == ("set map cache.map version nobody", "set map cache.map version two")
    assert len(change) == 2


def test_what_is_given_from_the_cache_counts_for_no_release(target: LocalTarget, router: HAProxyRouter, image: Image) -> None:
    async def main() -> None:
        blue = await up(target, release(image, version="blue"))
        await router.split({blue.name: 100}, {blue.name: blue})
        async with router.watch() as watch:
            for _ in range(20):
                await asked(router)
            last = await asked(router, "/")
            assert last == "blue"
            seen = 0
            with anyio.fail_after(10):
                while seen < 2:  # the first, and the last
                    await anyio.sleep(0.05)
                    (window,) = watch.windows((blue.name,))
                    assert window is not None
                    seen += window.requests
            assert seen == 2

    anyio.run(main)


def test_other_settings_of_a_cache_are_taken_over_without_losing_a_request(
    target: LocalTarget, router: HAProxyRouter, image: Image, project: Project
) -> None:
    async def main() -> Load:
        blue = await up(target, release(image, version="blue"))
        await router.split({blue.name: 100}, {blue.name: blue})
        with Load(router.config.port, path=LONG, posts=False) as load:
            await anyio.to_thread.run_sync(load.more, 20)
            for cache in (Cache(size=8, largest=16), None, Cache()):
                other = haproxy(project, port=router.config.port, cache=cache)
                await other.split({blue.name: 100}, {blue.name: blue})
                await anyio.to_thread.run_sync(load.more, 20)
        assert await asked(router) == await asked(router)
        return load

    assert anyio.run(main).failures == []


def test_who_has_all_the_traffic_is_told_from_the_slots() -> None:
    one, two = Slot("one", "a:1", 256), Slot("two", "a:2")
    assert alone((one, two, Slot())) == "one"
    assert alone((two, Slot())) == "nobody"
    assert alone((one, Slot("two", "a:2", 1))) == "nobody"
    assert alone((one, Slot("two", "a:2", 0, 256))) == "nobody"


def test_a_cache_behind_envoy_is_refused_when_the_pipeline_is_built() -> None:
    with pytest.raises(WiringError, match=r"Envoy app cannot keep answers(?s:.*)expected: HAProxy\(cache=\.\.\.\)"):
        Envoy(name="app", port=8080, cache=Cache())


def test_the_reason_for_that_is_true(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """With Envoy's own cache, a request that an instance hung up on is lost, and nothing is counted."""
    need_envoy()
    kind = "type.googleapis.com/envoy.extensions"
    simple = {"@type": f"{kind}.http.cache.simple_http_cache.v3.SimpleHttpCacheConfig"}
    cache = {"@type": f"{kind}.filters.http.cache.v3.CacheConfig", "typed_config": simple}
    seen: list[int] = []

    def tried(*, with_cache: bool) -> tuple[int, dict[str, int]]:
        """What is answered to a request on which the first instance hangs up, and what is counted."""
        filters = [{"name": "envoy.filters.http.cache", "typed_config": cache}] if with_cache else []
        monkeypatch.setattr(envoy_xds, "filters", lambda entrance, upgraded=False: filters)
        router = envoy(project, port=free_port(), name=f"app-{with_cache}")
        seen.clear()

        async def serve(stream: anyio.abc.SocketStream) -> None:
            async with stream:
                said = await stream.receive()
                if b"/readyz" not in said:
                    seen.append(1)
                    if len(seen) == 1:
                        return
                await stream.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")

        async def main() -> tuple[int, dict[str, int]]:
            async with contextlib.AsyncExitStack() as servers, anyio.create_task_group() as tasks:
                places = []
                for _ in range(2):
                    server = await servers.enter_async_context(await anyio.create_tcp_listener(local_host="127.0.0.1"))
                    places.append(Address(host="127.0.0.1", port=server.extra(anyio.abc.SocketAttribute.local_port)))
                    tasks.start_soon(server.serve, serve)
                await router.split({"g": 100}, {"g": Group("g", tuple(places))})
                async with browser() as client, admin(router._socket) as told:
                    status = (await client.get(router.address.url)).status_code
                    counted = await told.figures(rf"^{envoy_xds.STATS}\.tries")
                tasks.cancel_scope.cancel()
            return status, counted

        return anyio.run(main)

    assert tried(with_cache=False)[0] == 200
    assert len(seen) == 2
    assert tried(with_cache=True) == (503, {})


@pytest.mark.parametrize("wrong", [{"size": 0}, {"size": 5000}, {"largest": 0}, {"size": 1, "largest": 600}, {"longest": 0}])
def test_a_cache_that_is_none_is_refused_when_the_pipeline_is_built(wrong: dict[str, Any]) -> None:
    with pytest.raises(WiringError, match="expected: 1 to 4095 MiB"):
        Cache(**wrong)


def test_what_a_warm_release_answers_in_the_place_of_another_is_kept_for_nobody(
    project: Project, target: LocalTarget, image: Image
) -> None:
    router = haproxy(project, port=free_port(), cache=Cache(), failover=Failover.WARM, timeout=1.0)

    async def until(wanted: str) -> None:
        with anyio.fail_after(30):
            while await asked(router, "/") != wanted:
                await anyio.sleep(0.05)

    async def main() -> None:
        blue, green, groups = await blue_and_green(target, image)
        await router.split({blue.name: 100}, groups)
        await router.split({green.name: 100}, groups)
        (running,) = process.running(f"{target.state}:{green.name}:")
        os.kill(running.pid, signal.SIGSTOP)
        await until("blue")
        assert (await asked(router)).startswith("blue")
        os.kill(running.pid, signal.SIGCONT)
        await until("green")
        assert (await asked(router)).startswith("green")

    anyio.run(main)
