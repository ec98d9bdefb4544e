"""HAProxy as a router: pure planning of slots, and a real one under load."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.abc
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import Project, StageFailed, StoreError
from pipeline.engines.local import free_port
from stages.delivery import process
from stages.delivery.haproxy import (
    BACKEND,
    FREE,
    SLOTS,
    HAProxy,
    HAProxyRouter,
    Slot,
    alert,
    assigned,
    commands,
    configuration,
    named,
    shares,
    slot_name,
    told,
    used,
)
from stages.delivery.local import LocalTarget
from stages.delivery.model import Address, Group
from stages.image import Image
from tests.stages.delivery.conftest import haproxy, release, up
from tests.stages.delivery.load import Load

# Pure: the slots.


def group(name: str, *ports: int) -> Group:
    return Group(name, tuple(Address(host="127.0.0.1", port=port) for port in ports))


@st.composite
def running(draw: st.DrawFn) -> dict[str, Group]:
    """Up to four groups of one to four instances; no port twice."""
    ports = iter(draw(st.lists(st.integers(1024, 65535), min_size=16, max_size=16, unique=True)))
    names = draw(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4, unique=True))
    return {name: group(name, *(next(ports) for _ in range(draw(st.integers(1, 4))))) for name in names}


@st.composite
def split(draw: st.DrawFn, groups: dict[str, Group]) -> dict[str, int]:
    """Shares that make a hundred, of some of the groups."""
    names = draw(st.lists(st.sampled_from(sorted(groups)), min_size=1, unique=True))
    cuts = sorted(draw(st.lists(st.integers(0, 100), min_size=len(names) - 1, max_size=len(names) - 1)))
    edges = [0, *cuts, 100]
    return {name: high - low for name, low, high in zip(names, edges, edges[1:], strict=False)}


@st.composite
def moves(draw: st.DrawFn) -> tuple[tuple[Slot, ...], tuple[Slot, ...], dict[str, int], dict[str, Group]]:
    """Slots as one split left them, and as another one wants them."""
    one = draw(running())
    before = assigned((Slot(),) * SLOTS, draw(split(one)), one)
    used_ports = {address.port for found in one.values() for address in found.instances}
    kept = {name: found for name, found in one.items() if draw(st.booleans())}
    more = draw(running())
    fresh = {
        name: found
        for name, found in more.items()
        if name not in one and not {address.port for address in found.instances} & used_ports
    }
    groups = {**kept, **fresh} or one
    while sum(len(found.instances) for found in groups.values()) > SLOTS:
        groups.pop(sorted(groups)[0])
    weights = draw(split(groups))
    return before, assigned(before, weights, groups), weights, groups


@given(moves())
def test_every_instance_of_a_group_with_a_share_has_a_slot_and_no_two_have_one(
    move: tuple[tuple[Slot, ...], tuple[Slot, ...], dict[str, int], dict[str, Group]],
) -> None:
    before, after, weights, groups = move
    assert len(after) == len(before) == SLOTS
    for name in weights:
        mine = sorted(slot.address for slot in after if slot.group == name)
        assert mine == sorted(f"{address.host}:{address.port}" for address in groups[name].instances)
    taken = [slot.address for slot in after if slot.group]
    assert len(taken) == len(set(taken))
    assert all(slot == Slot() for slot in after if slot.group not in groups)
    assert all(0 <= slot.weight <= 256 for slot in after)
    assert all((slot.weight > 0) == (weights.get(slot.group, 0) > 0) for slot in after)


@given(moves())
def test_the_shares_told_are_those_wanted(
    move: tuple[tuple[Slot, ...], tuple[Slot, ...], dict[str, int], dict[str, Group]],
) -> None:
    _, after, weights, _ = move
    found = shares(after)
    assert all(abs(found[name] - share) <= 3 for name, share in weights.items())
    assert all(share == 0 for name, share in found.items() if name not in weights)


@given(moves())
def test_asking_for_the_same_again_changes_nothing(
    move: tuple[tuple[Slot, ...], tuple[Slot, ...], dict[str, int], dict[str, Group]],
) -> None:
    _, after, weights, groups = move
    assert assigned(after, weights, groups) == after
    assert commands(after, after) == []


COMMAND = re.compile(rf"set server {BACKEND}/slot(\d+) (?:state (maint|ready)|weight (\d+)|addr (\S+) port (\d+))$")


class Servers:
    """What HAProxy makes of commands: for each slot whether it is ready, its address and its weight."""

    def __init__(self, slots: tuple[Slot, ...]) -> None:
        self.ready = [slot.address != FREE for slot in slots]
        self.slots = list(slots)

    def obey(self, command: str) -> None:
        found = COMMAND.match(command)
        assert found, command
        number, state, weight, host, port = int(found[1]) - 1, *found.groups()[1:]
        old = self.slots[number]
        if state:
            self.ready[number] = state == "ready"
        elif weight:
            self.slots[number] = Slot(old.group, old.address, int(weight))
        else:
            assert not self.ready[number], f"{command}: a server that serves gets another address"
            self.slots[number] = Slot(old.group, f"{host}:{port}", old.weight)

    def serving(self) -> set[str]:
        return {slot.address for slot, ready in zip(self.slots, self.ready, strict=True) if ready and slot.weight}


@given(moves())
def test_the_commands_lead_from_one_split_to_the_other_and_somebody_always_serves(
    move: tuple[tuple[Slot, ...], tuple[Slot, ...], dict[str, int], dict[str, Group]],
) -> None:
    before, after, _, groups = move
    alive = {f"{address.host}:{address.port}" for found in groups.values() for address in found.instances}
    wanted = {slot.address for slot in after if slot.weight}
    servers = Servers(before)
    served_before = servers.serving() & alive
    for command in commands(before, after):
        servers.obey(command)
        assert servers.serving() & alive or not served_before
        assert servers.serving() <= {slot.address for slot in before if slot.weight} | wanted
    assert [(slot.address, slot.weight) for slot in servers.slots] == [(slot.address, slot.weight) for slot in after]
    assert servers.serving() == wanted


@given(moves())
def test_a_crash_in_the_middle_of_a_change_leaves_no_serving_slot_without_its_group(
    move: tuple[tuple[Slot, ...], tuple[Slot, ...], dict[str, int], dict[str, Group]],
) -> None:
    before, after, _, groups = move
    kept, servers = named(before, after), Servers(before)
    for command in commands(before, after):
        servers.obey(command)
        found = told(answer(servers), kept)
        assert all(slot.group for slot in found if slot.weight and slot.address in {s.address for s in after if s.group})
        assert assigned(found, dict.fromkeys(groups, 0), groups)  # and the next change begins from there


def answer(servers: Servers) -> str:
    """As HAProxy 2.8 answers `show servers state`."""
    header = "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_port"
    rows = [
        f"3 {BACKEND} {number + 1} {slot_name(number)} {slot.address.split(':')[0]} 2 {4 if ready else 5} {slot.weight} 1 "
        + slot.address.split(":")[1]
        for number, (slot, ready) in enumerate(zip(servers.slots, servers.ready, strict=True))
    ]
    return "\n".join(["1", header, *rows, "", ""])


def test_a_group_whose_instances_do_not_fit_is_refused() -> None:
    many = group("many", *range(2000, 2000 + SLOTS + 1))
    with pytest.raises(
        StageFailed, match=f"many has more instances than HAProxy has free slots\n  expected: at most {SLOTS} in all"
    ):
        assigned((Slot(),) * SLOTS, {"many": 100}, {"many": many})


def test_an_answer_without_a_server_is_an_error() -> None:
    with pytest.raises(StageFailed, match="HAProxy has no server slot2"):
        told(answer(Servers((Slot(),))), (Slot(), Slot()))


def test_requests_in_flight_are_counted_for_each_server() -> None:
    text = "# pxname,svname,qcur,scur\npublic,FRONTEND,,5\nservice,slot1,1,2\nservice,slot2,0,0\nservice,BACKEND,0,3\n\n"
    assert used(text) == {"slot1": 3, "slot2": 0}


def test_the_configuration_has_a_line_for_each_slot_and_turns_free_ones_off() -> None:
    text = configuration(
        HAProxy(name="x", port=8080), "/ok", Path("/run/s"), Path("/p.html"), (Slot("r-1", "127.0.0.1:4000", 256), Slot())
    )
    assert "    bind 127.0.0.1:8080\n" in text
    assert "    option httpchk GET /ok\n" in text
    assert text.endswith("    server slot1 127.0.0.1:4000 weight 256  # r-1\n    server slot2 127.0.0.1:9 weight 0 disabled\n")


def test_the_reason_in_a_log_is_its_first_alert() -> None:
    assert alert("[NOTICE] a\n[ALERT] why\n[ALERT] so what\n") == "[ALERT] why"
    assert alert("only this\n") == "only this"
    assert alert("\n") == "it said nothing"


# A real HAProxy.


async def get(router: HAProxyRouter) -> str:
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(router.address.url)).text


@contextmanager
def full_disk() -> Iterator[None]:
    """Nothing can be written to files of this process: Linux says EFBIG where a full disk says ENOSPC."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_traffic_goes_back_also_where_nothing_can_be_written(target: LocalTarget, router: HAProxyRouter, image: Image) -> None:
    async def main() -> None:
        one, two = release(image, version="one"), release(image, version="two")
        for wanted in (one, two):
            await up(target, wanted)
        groups = await target.groups()
        await router.split({one.group: 100}, groups)
        await router.split({two.group: 100}, groups)
        with full_disk(), pytest.raises(StoreError):
            await router.split({one.group: 100}, groups)
        assert await router.current() == {one.group: 100, two.group: 0}
        assert not list(router.state.glob("*.unfinished")) + list(router.state.glob(".*.unfinished"))
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.get(f"http://127.0.0.1:{router.config.port}")).text == "one"

    anyio.run(main)


def test_slots_that_cannot_be_read_are_said_with_their_place(router: HAProxyRouter) -> None:
    (router.state / "slots.json").write_text("[{")
    with pytest.raises(StageFailed, match="the slots of HAProxy cannot be read") as caught:
        anyio.run(router.current)
    assert caught.value.where == str(router.state / "slots.json")


def test_two_hundred_switches_under_load_lose_no_request(
    target: LocalTarget, router: HAProxyRouter, image: Image, posts: Path
) -> None:
    async def main() -> Load:
        blue = await up(target, release(image, posts, version="blue", instances=2))
        green = await up(target, release(image, posts, version="green", instances=2))
        groups = {blue.name: blue, green.name: green}
        await router.split({blue.name: 100}, groups)
        with Load(router.config.port) as load:
            for number in range(200):
                share = (0, 100, 50, 95, 10)[number % 5]
                await router.split({blue.name: share, green.name: 100 - share}, groups)
                await anyio.to_thread.run_sync(load.more, 5)
        return load

    load = anyio.run(main)
    print(f"{load.sent} requests, {len(load.failures)} lost in 200 switches")
    assert load.failures == []
    assert min(load.answers["blue"], load.answers["green"]) > 100
    assert sorted(posts.read_text().splitlines()) == sorted(load.posted)


def test_an_instance_that_is_killed_loses_no_request_that_may_be_repeated(
    target: LocalTarget, router: HAProxyRouter, image: Image, posts: Path
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


def test_a_post_that_an_instance_died_of_is_not_sent_again(router: HAProxyRouter) -> None:
    """Two servers that read a request and hang up: HAProxy asks the other one for a GET, and nobody for a POST."""
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
            async with httpx.AsyncClient(base_url=router.address.url, trust_env=False) as client:
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


def test_a_killed_haproxy_tells_the_same_split_and_comes_back_with_it(
    target: LocalTarget, router: HAProxyRouter, image: Image, project: Project
) -> None:
    async def main() -> None:
        blue = await up(target, release(image, version="blue"))
        green = await up(target, release(image, version="green"))
        groups = {blue.name: blue, green.name: green}
        wanted = {blue.name: 75, green.name: 25}
        await router.split(wanted, groups)
        (running,) = process.running(str(router.state))
        os.kill(running.pid, signal.SIGKILL)
        with anyio.fail_after(10):
            while process.alive(running):
                await anyio.sleep(0.01)
        other = haproxy(project, port=router.config.port)
        assert await other.current() == wanted
        await other.split(wanted, groups)
        assert await other.current() == wanted
        with Load(router.config.port, posts=False) as load:
            await anyio.to_thread.run_sync(load.more, 200)
        assert load.failures == []
        assert abs(load.answers["blue"] / load.sent - 0.75) < 0.05

    anyio.run(main)


def test_the_shares_are_what_haproxy_itself_tells(target: LocalTarget, router: HAProxyRouter, image: Image) -> None:
    async def main() -> None:
        blue = await up(target, release(image, version="blue"))
        green = await up(target, release(image, version="green"))
        await router.split({blue.name: 50, green.name: 50}, {blue.name: blue, green.name: green})
        first = await router._now()
        number = next(number for number, slot in enumerate(first) if slot.group == blue.name)
        await router._ask(f"set server {BACKEND}/{slot_name(number)} weight 0")
        assert await router.current() == {blue.name: 0, green.name: 100}

    anyio.run(main)


def test_requests_that_are_not_answered_yet_are_in_flight(target: LocalTarget, router: HAProxyRouter, image: Image) -> None:
    async def main() -> None:
        blue = await up(target, release(image, version="blue"))
        await router.split({blue.name: 100}, {blue.name: blue})
        answers: list[int] = []

        async def ask() -> None:
            async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
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
    target: LocalTarget, router: HAProxyRouter, image: Image, project: Project, posts: Path
) -> None:
    async def main() -> Load:
        blue = await up(target, release(image, posts, version="blue"))
        await router.split({blue.name: 100}, {blue.name: blue})
        with Load(router.config.port) as load:
            await anyio.to_thread.run_sync(load.more, 50)
            patient = haproxy(project, port=router.config.port, timeout=60.0)
            await patient.split({blue.name: 100}, {blue.name: blue})
            await anyio.to_thread.run_sync(load.more, 200)
        assert await patient.current() == {blue.name: 100}
        assert "timeout server 60s" in (router.state / "haproxy.cfg").read_text()
        moved = haproxy(project, port=free_port())
        await moved.split({blue.name: 100}, {blue.name: blue})
        assert await get(moved) == "blue"
        return load

    load = anyio.run(main)
    print(f"{load.sent} requests, {len(load.failures)} lost in a takeover")
    assert load.failures == []


def test_settings_that_come_back_while_their_old_process_finishes_a_request_are_taken_over_again(
    router: HAProxyRouter, project: Project
) -> None:
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
        moved = haproxy(project, port=free_port())
        slow: list[str] = []

        async def wait() -> None:
            async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
                slow.append((await client.get(f"{router.address.url}/slow")).text)

        with anyio.fail_after(60):
            async with server, anyio.create_task_group() as tasks:
                tasks.start_soon(server.serve, serve)
                await router.split({"g": 100}, groups)
                async with anyio.create_task_group() as users:
                    users.start_soon(wait)
                    await asked.wait()
                    await moved.split({"g": 100}, groups)
                    assert len(router._running()) == 2
                    assert await moved.check() == f"HAProxy listens on {moved.address.summary()}"
                    assert await router.check() == f"{router.address.summary()} is free for HAProxy"
                    await router.split({"g": 100}, groups)
                    assert await get(router) == "ok"
                    assert await router.check() == f"HAProxy listens on {router.address.summary()}"
                    go.set()
                tasks.cancel_scope.cancel()
        assert slow == ["ok"]

    anyio.run(main)


def test_haproxy_is_found_again_when_the_directory_for_temporary_files_is_another(
    target: LocalTarget, router: HAProxyRouter, image: Image, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        blue = await up(target, release(image, version="blue"))
        await router.split({blue.name: 100}, {blue.name: blue})
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        monkeypatch.setattr("tempfile.tempdir", None)  # as in another run: nobody has asked for the place yet
        again = haproxy(project, port=router.config.port)
        await again.split({blue.name: 75}, {blue.name: blue})
        assert await again.current() == {blue.name: 100}

    anyio.run(main)


@pytest.mark.parametrize("planted", ["open", "link"])
def test_a_place_for_the_socket_that_is_not_private_is_refused(
    router: HAProxyRouter, target: LocalTarget, image: Image, tmp_path: Path, planted: str
) -> None:
    async def main() -> None:
        blue = await up(target, release(image))
        place = router._sockets
        if planted == "link":
            place.symlink_to(tmp_path)
        else:
            place.mkdir()
            place.chmod(0o770)
        with pytest.raises(StageFailed, match="something else is where the socket of HAProxy has to be"):
            await router.split({blue.name: 100}, {blue.name: blue})
        place.unlink() if planted == "link" else place.rmdir()

    anyio.run(main)


def test_a_port_that_is_in_use_is_an_error_that_says_so(target: LocalTarget, router: HAProxyRouter, image: Image) -> None:
    async def main() -> None:
        blue = await up(target, release(image))
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", router.config.port))
            taken.listen()
            with pytest.raises(StageFailed, match=r"(?s)127.0.0.1:\d+: HAProxy does not start: .*Address already in use"):
                await router.split({blue.name: 100}, {blue.name: blue})
        assert list(process.running(str(router.state))) == []
        await router.split({blue.name: 100}, {blue.name: blue})  # and it starts once the port is free

    anyio.run(main)


def test_two_routers_never_share_a_port(target: LocalTarget, router: HAProxyRouter, image: Image, project: Project) -> None:
    async def main() -> None:
        blue = await up(target, release(image))
        await router.split({blue.name: 100}, {blue.name: blue})
        second = haproxy(project, port=router.config.port, name="app-2")
        with pytest.raises(StageFailed, match="Address already in use"):
            await second.split({blue.name: 100}, {blue.name: blue})
        assert await router.current() == {blue.name: 100}

    anyio.run(main)


def test_a_router_whose_name_begins_another_ones_is_another(
    target: LocalTarget, router: HAProxyRouter, image: Image, project: Project
) -> None:
    async def main() -> None:
        blue = await up(target, release(image))
        longer = haproxy(project, port=free_port(), name="app-2")
        await longer.split({blue.name: 100}, {blue.name: blue})
        assert await router.current() == {}
        await router.split({blue.name: 100}, {blue.name: blue})
        assert await get(router) == "one"
        await router.stop()
        assert await get(longer) == "one"

    anyio.run(main)


def test_a_group_that_does_not_run_gets_no_traffic(router: HAProxyRouter) -> None:
    async def main() -> None:
        with pytest.raises(StageFailed, match="ghost cannot get traffic: no such group runs"):
            await router.split({"ghost": 100}, {})
        with pytest.raises(StageFailed, match="ghost cannot get traffic: no such group runs"):
            await router.split({"ghost": 100}, {"ghost": Group("ghost", ())})

    anyio.run(main)


def test_a_router_that_knows_no_group_any_more_tells_users_to_wait_until_it_is_stopped(
    target: LocalTarget, router: HAProxyRouter, image: Image
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
