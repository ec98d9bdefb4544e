"""What routers have in common, each of them a real one under load."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.abc
import httpx
import pytest

from pipeline import Project, StageFailed
from pipeline.engines.local import free_port
from stages.delivery import process
from stages.delivery.audience import Chosen, Cohort, Cookie
from stages.delivery.down import down
from stages.delivery.local import LocalTarget
from stages.delivery.model import Address, Group
from stages.image import Image
from tests.stages.delivery.answering import instances
from tests.stages.delivery.bench import AnyRouter, Make, end_processes
from tests.stages.delivery.conftest import blue_and_green, release, up
from tests.stages.delivery.load import Load
from tests.web import browser


@pytest.fixture
def router(make: Make) -> AnyRouter:
    return make(port=free_port())


def group(name: str, *ports: int) -> Group:
    return Group(name, tuple(Address(host="127.0.0.1", port=port) for port in ports))


async def get(router: AnyRouter) -> str:
    async with browser() as client:
        return (await client.get(router.address.url)).text


def test_fifty_switches_under_load_lose_no_request(target: LocalTarget, router: AnyRouter, image: Image, posts: Path) -> None:
    async def main() -> Load:
        blue = await up(target, release(image, posts, version="blue", instances=2))
        green = await up(target, release(image, posts, version="green", instances=2))
        groups = {blue.name: blue, green.name: green}
        await router.split({blue.name: 100}, groups)
        with Load(router.config.port) as load:
            for number in range(50):
                share = (0, 100, 50, 95, 10)[number % 5]
                await router.split({blue.name: share, green.name: 100 - share}, groups)
                await anyio.to_thread.run_sync(load.more, 5)
        return load

    load = anyio.run(main)
    print(f"{load.sent} requests, {len(load.failures)} lost in 50 switches")
    assert load.failures == []
    assert min(load.answers["blue"], load.answers["green"]) > 50
    assert sorted(posts.read_text().splitlines()) == sorted(load.posted)


def test_a_group_that_is_new_to_the_router_gets_all_traffic_at_once_and_no_request_is_lost(
    target: LocalTarget, router: AnyRouter, image: Image
) -> None:
    async def main() -> Load:
        groups: dict[str, Group] = {}
        blue = await up(target, release(image, version="0"))
        await router.split({blue.name: 100}, {blue.name: blue})
        with Load(router.config.port, posts=False) as load:
            for number in range(1, 6):
                green = await up(target, release(image, version=str(number)))
                groups = {blue.name: blue, green.name: green}
                await router.split({green.name: 100}, groups)
                assert await get(router) == str(number)
                await anyio.to_thread.run_sync(load.more, 10)
                await router.forget(blue.name)
                blue = green
        return load

    load = anyio.run(main)
    assert load.failures == []
    assert set(load.answers) == set("012345")


def test_an_instance_that_is_killed_loses_no_request_that_may_be_repeated(
    target: LocalTarget, router: AnyRouter, image: Image, posts: Path
) -> None:
    async def main() -> Load:
        both = await up(target, release(image, posts, instances=2))
        await router.split({both.name: 100}, {both.name: both})
        first = next(process.running(str(target.state)))
        with Load(router.config.port) as load:
            await anyio.to_thread.run_sync(load.more, 100)
            os.kill(first.pid, signal.SIGKILL)
            await anyio.to_thread.run_sync(load.more, 300)
        return load

    load = anyio.run(main)
    print(f"{load.sent} requests, {len(load.failures)} lost when an instance was killed")
    assert [lost for lost in load.failures if not lost.startswith("POST")] == []
    assert len(load.failures) <= 1  # a POST that was being processed: to repeat it could mean to do it twice
    noted = posts.read_text().splitlines()
    assert len(noted) == len(set(noted))
    assert set(load.posted) <= set(noted)


def test_a_router_that_runs_is_not_taken_for_dead_where_nobody_can_read_where_it_is_and_a_split_writes_that_anew(
    router: AnyRouter,
) -> None:
    async def main() -> None:
        await router.split({"one": 100}, {"one": found})
        entrance = router.state / "entrance.json"
        entrance.write_text("{")
        assert not await router.died()
        assert f"listens on {router.address.summary()}" in await router.check()
        await router.split({"one": 100}, {"one": found})
        assert json.loads(entrance.read_text())["port"] == router.config.port
        await end_processes(router)
        entrance.write_text("{")
        assert await router.died()

    with instances("one") as found:
        anyio.run(main)


def test_an_instance_that_says_that_it_is_ill_gets_no_request_until_it_is_well_again(router: AnyRouter) -> None:
    ill = {"one"}

    async def answers() -> set[str]:
        return {await get(router) for _ in range(10)}

    async def main() -> None:
        await router.split({"both": 100}, {"both": Group("both", found.instances)})
        with anyio.fail_after(30), Load(router.config.port, posts=False) as load:
            while await answers() != {"two"}:
                await anyio.sleep(0.02)
            ill.clear()
            while await answers() != {"one", "two"}:
                await anyio.sleep(0.02)
        assert load.failures == []

    with instances("one", "two", ill=ill) as found:
        anyio.run(main)


def test_a_post_that_an_instance_died_of_is_not_sent_again(router: AnyRouter) -> None:
    """Two servers that read a request and hang up: the router asks the other one for a GET, and nobody for a POST."""
    met: list[str] = []

    async def hang_up(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            word = (await stream.receive()).split(b" ")
            if word[1] == b"/readyz":
                await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            else:
                met.append(word[0].decode())

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            servers = [await anyio.create_tcp_listener(local_host="127.0.0.1") for _ in range(2)]
            for server in servers:
                tasks.start_soon(server.serve, hang_up)
            ports = [server.extra(anyio.abc.SocketAttribute.local_port) for server in servers]
            await router.split({"g": 100}, {"g": group("g", *ports)})
            async with browser(base_url=router.address.url) as client:
                with pytest.raises(httpx.HTTPError):
                    (await client.post("/")).raise_for_status()
                assert met == ["POST"]
                with pytest.raises(httpx.HTTPError):
                    (await client.get("/")).raise_for_status()
                assert met == ["POST", "GET", "GET", "GET", "GET"]
            tasks.cancel_scope.cancel()
        for server in servers:
            await server.aclose()

    anyio.run(main)


def test_a_project_may_lie_in_a_directory_whose_name_has_a_space(target: LocalTarget, image: Image, make: Make) -> None:
    async def main() -> None:
        router = make(port=free_port(), name="the app")
        blue = await up(target, release(image, version="blue"))
        await router.split({blue.name: 100}, {blue.name: blue})
        with Load(router.config.port, posts=False) as load:
            await anyio.to_thread.run_sync(load.more, 5)
        assert load.failures == []

    anyio.run(main)


def test_a_killed_router_tells_the_same_split_and_comes_back_with_it(
    target: LocalTarget, router: AnyRouter, image: Image, make: Make
) -> None:
    async def main() -> None:
        blue, green, groups = await blue_and_green(target, image)
        wanted = {blue.name: 75, green.name: 25}
        await router.split(wanted, groups)
        (running,) = process.running(str(router.state))
        os.kill(running.pid, signal.SIGKILL)
        with anyio.fail_after(10):
            while process.alive(running):
                await anyio.sleep(0.01)
        other = make(port=router.config.port)
        assert await other.current() == wanted
        await other.split(wanted, groups)
        assert await other.current() == wanted
        with Load(router.config.port, posts=False) as load:
            await anyio.to_thread.run_sync(load.more, 200)
        assert load.failures == []
        assert abs(load.answers["blue"] / load.sent - 0.75) < 0.05

    anyio.run(main)


def test_requests_that_are_not_answered_yet_are_in_flight(target: LocalTarget, router: AnyRouter, image: Image) -> None:
    async def main() -> None:
        blue = await up(target, release(image, version="blue"))
        await router.split({blue.name: 100}, {blue.name: blue})
        answers: list[int] = []

        async def ask() -> None:
            async with browser() as client:
                answers.append((await client.get(f"{router.address.url}/slow?1")).status_code)

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                while await router.in_flight(blue.name) != 1:
                    await anyio.sleep(0.01)
            while await router.in_flight(blue.name) != 0:
                await anyio.sleep(0.01)
        assert answers == [200]
        assert await router.in_flight("nobody") == 0

    anyio.run(main)


def test_other_settings_are_taken_over_without_losing_a_request(
    target: LocalTarget, router: AnyRouter, image: Image, make: Make, posts: Path
) -> None:
    async def main() -> Load:
        blue = await up(target, release(image, posts, version="blue"))
        await router.split({blue.name: 100}, {blue.name: blue})
        with Load(router.config.port) as load:
            await anyio.to_thread.run_sync(load.more, 50)
            patient = make(port=router.config.port, timeout=60.0)
            await patient.split({blue.name: 100}, {blue.name: blue})
            await anyio.to_thread.run_sync(load.more, 200)
        assert await patient.current() == {blue.name: 100}
        moved = make(port=free_port())
        await moved.split({blue.name: 100}, {blue.name: blue})
        assert await get(moved) == "blue"
        return load

    load = anyio.run(main)
    print(f"{load.sent} requests, {len(load.failures)} lost in a takeover")
    assert load.failures == []


def test_settings_that_come_back_while_a_request_is_unanswered_are_taken_over_again(router: AnyRouter, make: Make) -> None:
    asked, go = anyio.Event(), anyio.Event()

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            if (await stream.receive()).startswith(b"GET /slow"):
                asked.set()
                await go.wait()
            await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")

    async def main() -> None:
        server = await anyio.create_tcp_listener(local_host="127.0.0.1")
        groups = {"g": group("g", server.extra(anyio.abc.SocketAttribute.local_port))}
        moved = make(port=free_port())
        slow: list[str] = []

        async def wait() -> None:
            async with browser() as client:
                slow.append((await client.get(f"{router.address.url}/slow")).text)

        with anyio.fail_after(60):
            async with server, anyio.create_task_group() as tasks:
                tasks.start_soon(server.serve, serve)
                await router.split({"g": 100}, groups)
                async with anyio.create_task_group() as users:
                    users.start_soon(wait)
                    await asked.wait()
                    await moved.split({"g": 100}, groups)
                    assert moved.address.summary() in await moved.check()
                    assert f"and not on {router.address.summary()}" in await router.check()
                    await router.split({"g": 100}, groups)
                    assert await get(router) == "ok"
                    assert "listens on" in await router.check()
                    go.set()
                tasks.cancel_scope.cancel()
        assert slow == ["ok"]

    anyio.run(main)


def test_a_router_is_found_again_when_the_directory_for_temporary_files_is_another(
    target: LocalTarget, router: AnyRouter, image: Image, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        blue = await up(target, release(image, version="blue"))
        await router.split({blue.name: 100}, {blue.name: blue})
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        monkeypatch.setattr("tempfile.tempdir", None)  # as in another run: nobody has asked for the place yet
        again = make(port=router.config.port)
        await again.split({blue.name: 75}, {blue.name: blue})
        assert await again.current() == {blue.name: 100}

    anyio.run(main)


@pytest.mark.parametrize("planted", ["open", "link"])
def test_a_place_for_the_socket_that_is_not_private_is_refused(
    router: AnyRouter, target: LocalTarget, image: Image, tmp_path: Path, planted: str
) -> None:
    async def main() -> None:
        blue = await up(target, release(image))
        place = router._sockets
        if planted == "link":
            place.symlink_to(tmp_path)
        else:
            place.mkdir()
            place.chmod(0o770)
        with pytest.raises(StageFailed, match=r"something else is where the socket of .* has to be"):
            await router.split({blue.name: 100}, {blue.name: blue})
        place.unlink() if planted == "link" else place.rmdir()

    anyio.run(main)


def test_a_port_that_is_in_use_is_an_error_that_says_so(target: LocalTarget, router: AnyRouter, image: Image) -> None:
    async def main() -> None:
        blue = await up(target, release(image))
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", router.config.port))
            taken.listen()
            with pytest.raises(StageFailed, match=rf"127\.0\.0\.1:{router.config.port}\b.*Address already in use"):
                await router.split({blue.name: 100}, {blue.name: blue})
        assert list(process.running(str(router.state))) == []
        await router.split({blue.name: 100}, {blue.name: blue})  # and it starts once the port is free

    anyio.run(main)


def test_two_routers_never_share_a_port(target: LocalTarget, router: AnyRouter, image: Image, make: Make) -> None:
    async def main() -> None:
        blue = await up(target, release(image))
        await router.split({blue.name: 100}, {blue.name: blue})
        second = make(port=router.config.port, name="app-2")
        with pytest.raises(StageFailed, match="Address already in use"):
            await second.split({blue.name: 100}, {blue.name: blue})
        assert await router.current() == {blue.name: 100}

    anyio.run(main)


def test_a_router_whose_name_begins_another_ones_is_another(
    target: LocalTarget, router: AnyRouter, image: Image, make: Make
) -> None:
    async def main() -> None:
        blue = await up(target, release(image))
        longer = make(port=free_port(), name="app-2")
        await longer.split({blue.name: 100}, {blue.name: blue})
        assert await router.current() == {}
        await router.split({blue.name: 100}, {blue.name: blue})
        assert await get(router) == "one"
        await router.stop()
        assert await get(longer) == "one"

    anyio.run(main)


def test_a_group_that_does_not_run_gets_no_traffic(router: AnyRouter) -> None:
    async def main() -> None:
        with pytest.raises(StageFailed, match="ghost cannot get traffic: no such group runs"):
            await router.split({"ghost": 100}, {})
        with pytest.raises(StageFailed, match="ghost cannot get traffic: no such group runs"):
            await router.split({"ghost": 100}, {"ghost": Group("ghost", ())})

    anyio.run(main)


def test_a_router_that_knows_no_group_any_more_tells_users_to_wait_until_it_is_stopped(
    target: LocalTarget, router: AnyRouter, image: Image
) -> None:
    async def main() -> None:
        blue = await up(target, release(image))
        await router.split({blue.name: 100}, {blue.name: blue})
        await router.split({}, {blue.name: blue})
        assert "Back in a moment" in await get(router)
        await router.forget(blue.name)
        assert "Back in a moment" in await get(router)
        await router.stop()
        assert list(process.running(str(router.state))) == []
        assert not router._sockets.exists()
        assert await router.current() == {}

    anyio.run(main)


def test_instances_that_leave_get_nothing_new_and_the_rest_of_their_group_has_its_share(
    router: AnyRouter, target: LocalTarget, image: Image
) -> None:
    """Also when the router is told of another split while they are leaving, and when they are gone."""

    async def main() -> None:
        one, two = release(image, instances=2), release(image, version="two")
        groups = {one.group: await up(target, one), two.group: await up(target, two)}
        first, second = groups[one.group].instances
        leaving = {**groups, one.group: replace(groups[one.group], leaving=frozenset({second}))}
        await router.split({one.group: 50, two.group: 50}, leaving)
        await target.retire(one.group, [second])  # who is sent there from now on is not answered by it
        with Load(router.config.port, posts=False) as load:
            await anyio.to_thread.run_sync(load.more, 40)
            await router.split({one.group: 25, two.group: 75}, await target.groups())
            await anyio.to_thread.run_sync(load.more, 40)
        assert load.failures == []
        assert await router.current() == {one.group: 25, two.group: 75}
        assert await router.in_flight(one.group, [first]) == 0

    anyio.run(main)


def test_a_router_is_taken_down_with_the_project(target: LocalTarget, router: AnyRouter, image: Image, project: Project) -> None:
    async def main() -> None:
        blue = await up(target, release(image))
        await router.split({blue.name: 100}, {blue.name: blue})
        assert router._mark in await down(project)
        assert list(process.running(str(router.state))) == []
        assert not router._sockets.exists()

    anyio.run(main)


ACCEPTED = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
"""The answer to the key of the example in RFC 6455, section 1.3."""


async def upgraded(router: AnyRouter, **headers: str) -> tuple[anyio.abc.SocketStream, bytes]:
    """A connection that has become a WebSocket's, and what the answer said (RFC 6455, section 1.3)."""
    stream = await anyio.connect_tcp("127.0.0.1", router.config.port)
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    await stream.send(
        f"GET /chat HTTP/1.1\r\nHost: app\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n".encode()
    )
    said = b""
    while b"\r\n\r\n" not in said:
        said += await stream.receive()
    return stream, said


async def heard(stream: anyio.abc.SocketStream, text: bytes) -> bytes:
    await stream.send(text)
    said = b""
    while not said.endswith(text):
        said += await stream.receive()
    return said


def chatting(name: bytes, asked: anyio.Event, go: anyio.Event) -> Callable[[anyio.abc.SocketStream], Awaitable[None]]:
    """Serves `/chat` over a WebSocket, and `/poll` when it may."""

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            head = await stream.receive()
            if head.startswith(b"GET /chat"):
                await stream.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + ACCEPTED)
                with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                    while True:
                        await stream.send(name + b" heard " + await stream.receive())
            if head.startswith(b"GET /poll"):
                asked.set()
                await go.wait()
            with contextlib.suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
                size = b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(name)
                await stream.send(b"HTTP/1.1 200 OK\r\n" + size + name)

    return serve


def test_a_websocket_and_a_request_that_waits_stay_with_their_instance_while_shares_and_audiences_change(
    router: AnyRouter,
) -> None:
    asked, go = anyio.Event(), anyio.Event()

    async def main() -> None:
        groups = {}
        polled: list[str] = []

        async def poll() -> None:
            async with browser(timeout=60) as client:
                polled.append((await client.get(f"{router.address.url}/poll")).text)

        async with contextlib.AsyncExitStack() as servers, anyio.create_task_group() as tasks:
            for name in ("blue", "green"):
                server = await servers.enter_async_context(await anyio.create_tcp_listener(local_host="127.0.0.1"))
                groups[name] = group(name, server.extra(anyio.abc.SocketAttribute.local_port))
                tasks.start_soon(server.serve, chatting(name.encode(), asked, go))
            with anyio.fail_after(60):
                await router.split({"blue": 100}, groups)
                chat, answer = await upgraded(router)
                assert b" 101 " in answer.splitlines()[0]
                assert await heard(chat, b"one") == b"blue heard one"
                async with anyio.create_task_group() as users:
                    users.start_soon(poll)
                    await asked.wait()
                    for chosen in (Chosen(Cohort(Cookie("uid")), (("green", 50), ("blue", 50))), None):
                        await router.split({"blue": 100}, groups, chosen)
                        assert await heard(chat, b"two") == b"blue heard two"
                    await router.split({"green": 100}, groups)
                    assert await heard(chat, b"three") == b"blue heard three"
                    other, _ = await upgraded(router)
                    assert await heard(other, b"four") == b"green heard four"
                    go.set()
                await chat.aclose()
                await other.aclose()
            tasks.cancel_scope.cancel()
        assert polled == ["blue"]

    anyio.run(main)


def test_a_router_that_does_not_react_is_said_and_nothing_waits_for_it_for_ever(
    target: LocalTarget, make: Make, image: Image
) -> None:
    router = make(port=free_port())

    async def main() -> None:
        blue, green, groups = await blue_and_green(target, image)
        await router.split({blue.name: 100}, groups)
        (found,) = process.running(f"{router.state}:")
        os.kill(found.pid, signal.SIGSTOP)
        try:
            with anyio.fail_after(30), pytest.raises(StageFailed, match="does not answer"):
                await router.split({green.name: 100}, groups)
        finally:
            os.kill(found.pid, signal.SIGCONT)
        await router.split({green.name: 100}, groups)
        async with browser() as client:
            assert (await client.get(router.address.url)).text == "green"

    anyio.run(main)
