"""HAProxy as a router: pure planning of slots, and a real one under load."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from threading import Event

import anyio
import anyio.abc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import Project, StageFailed, StoreError
from pipeline.engines.local import free_port
from stages.delivery.audience import Chosen, Cohort, Cookie, HasHeader
from stages.delivery.haproxy import (
    BACKEND,
    BACKENDS,
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
from stages.delivery.haproxy_traffic import TriedAgain
from stages.delivery.local import LocalTarget
from stages.delivery.model import Address, Group
from stages.delivery.private import private
from stages.image import Image
from tests.stages.delivery.answering import instances
from tests.stages.delivery.conftest import haproxy, release, up
from tests.web import browser

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
    audience = draw(st.sampled_from([None, HasHeader(name="x"), Cohort(Cookie("uid"))]))
    chosen = Chosen(audience, tuple(draw(split(groups)).items())) if audience else None
    return before, assigned(before, weights, groups, chosen), weights, groups


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
def test_asking_for_the_same_again_changes_nothing_but_that_nobody_is_chosen_any_more(
    move: tuple[tuple[Slot, ...], tuple[Slot, ...], dict[str, int], dict[str, Group]],
) -> None:
    _, after, weights, groups = move
    again = assigned(after, weights, groups)
    assert again == tuple(Slot(slot.group, slot.address, slot.weight) for slot in after)
    assert assigned(again, weights, groups) == again
    assert commands(after, after) == ([], [])


COMMAND = re.compile(r"set server (\w+)/slot(\d+) (?:state (maint|ready)|weight (\d+)|addr (\S+) port (\d+))$")


@dataclass
class Server:
    """What HAProxy knows of a server."""

    address: str
    weight: int
    ready: bool


class Servers:
    """What HAProxy makes of commands, for each backend and slot."""

    def __init__(self, slots: tuple[Slot, ...]) -> None:
        self.all = {
            backend: [Server(slot.address, slot.weighs(backend), slot.address != FREE) for slot in slots] for backend in BACKENDS
        }

    def obey(self, command: str) -> None:
        found = COMMAND.match(command)
        assert found, command
        backend, number, state, weight, host, port = found.groups()
        server = self.all[backend][int(number) - 1]
        if state:
            server.ready = state == "ready"
        elif weight:
            server.weight = int(weight)
        else:
            assert not server.ready, f"{command}: a server that serves gets another address"
            server.address = f"{host}:{port}"

    def serving(self, backend: str = BACKEND) -> set[str]:
        return {server.address for server in self.all[backend] if server.ready and server.weight}


@given(moves())
def test_the_commands_lead_from_one_split_to_the_other_and_somebody_always_serves(
    move: tuple[tuple[Slot, ...], tuple[Slot, ...], dict[str, int], dict[str, Group]],
) -> None:
    before, after, _, groups = move
    alive = {f"{address.host}:{address.port}" for found in groups.values() for address in found.instances}
    wanted = {slot.address for slot in after if slot.weight}
    servers = Servers(before)
    served_before = servers.serving() & alive
    for command in chain(*commands(before, after)):
        servers.obey(command)
        assert servers.serving() & alive or not served_before
        assert servers.serving() <= {slot.address for slot in before if slot.weight} | wanted
    for backend, found in servers.all.items():
        assert [(one.address, one.weight) for one in found] == [(slot.address, slot.weighs(backend)) for slot in after]
        assert servers.serving(backend) == {slot.address for slot in after if slot.weighs(backend)}


@settings(max_examples=30)  # each is a crash after every command
@given(moves())
def test_a_crash_in_the_middle_of_a_change_leaves_no_serving_slot_without_its_group(
    move: tuple[tuple[Slot, ...], tuple[Slot, ...], dict[str, int], dict[str, Group]],
) -> None:
    before, after, _, groups = move
    kept, servers = named(before, after), Servers(before)
    for command in chain(*commands(before, after)):
        servers.obey(command)
        found = told(answer(servers), kept)
        assert all(slot.group for slot in found if slot.weight and slot.address in {s.address for s in after if s.group})
        again = assigned(found, dict.fromkeys(groups, 0), groups)  # and the next change begins from there
        other = deepcopy(servers)
        for more in chain(*commands(found, again)):
            other.obey(more)
        assert told(answer(other), again) == again


def test_where_haproxy_refuses_to_give_traffic_who_has_it_keeps_it(router: HAProxyRouter) -> None:
    async def main() -> None:
        await router.split({"one": 100}, {"one": one})
        now = (await router._look()).slots
        one_too_many = Slot("two", "127.0.0.1:1")
        after = (*(replace(slot, weight=0) for slot in now), replace(one_too_many, weight=256))
        with pytest.raises(StageFailed, match=r"HAProxy did not obey `set server service/slot17 weight 256`: No such server"):
            await router._change((*now, one_too_many), after, runs=True)

    with instances("one") as one:
        anyio.run(main)
        assert anyio.run(get, router) == "one"


@contextlib.asynccontextmanager
async def waiting(router: HAProxyRouter, group: str, answers: list[str]) -> AsyncIterator[None]:
    """Meanwhile a request is in flight; its answer is there in the end."""

    async def wait() -> None:
        async with browser() as client:
            answers.append((await client.get(router.address.url, timeout=60)).text)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        with anyio.fail_after(20):
            while await router.in_flight(group) == 0:
                await anyio.sleep(0.01)
        yield


def test_a_haproxy_that_died_is_started_again_while_an_older_one_still_answers(project: Project) -> None:
    port, go, answers = free_port(), Event(), list[str]()

    async def main(one: Group, two: Group) -> None:
        both = {"one": one, "two": two}
        await haproxy(project, port=port).split({"one": 100}, both)
        async with waiting(haproxy(project, port=port), "one", answers):
            router = haproxy(project, port=port, timeout=31.0)
            await router.split({"two": 100}, both)
            seen = await router._look()
            assert len(seen.found) == 2
            assert not await router.died()
            os.kill(seen.pid, signal.SIGKILL)
            with anyio.fail_after(20):
                while len(router._running()) == 2:
                    await anyio.sleep(0.01)
            assert await router.current() == {"one": 0, "two": 100}
            assert await router.died()
            assert "HAProxy has died, and its users find nobody" in await router.check()
            await router.in_place().start_again()
            async with browser() as client:
                assert (await client.get(router.address.url)).text == "two"
            go.set()

    with instances("one", held={"one": go}) as one, instances("two") as two:
        anyio.run(main, one, two)
    assert answers == ["one"]


def test_a_haproxy_that_hangs_is_not_taken_for_none_where_the_settings_have_another_port(project: Project) -> None:
    async def main(one: Group, two: Group) -> None:
        both = {"one": one, "two": two}
        router = haproxy(project, port=free_port())
        await router.split({"one": 100}, both)
        (first,) = router._running()
        os.kill(first.pid, signal.SIGSTOP)
        try:
            with pytest.raises(StageFailed, match="HAProxy does not answer: it takes more than"):
                await haproxy(project, port=free_port()).split({"two": 100}, both)
        finally:
            os.kill(first.pid, signal.SIGCONT)
        assert router._running() == [first]
        await router.split({"two": 100}, both)
        assert await get(router) == "two"

    with pytest.MonkeyPatch.context() as patch, instances("one") as one, instances("two") as two:
        patch.setattr("stages.delivery.haproxy.WITHIN", 0.5)
        anyio.run(main, one, two)


def test_requests_of_a_haproxy_that_gave_its_place_to_another_one_are_in_flight_until_they_are_answered(
    router: HAProxyRouter,
) -> None:
    go, answers = Event(), list[str]()

    async def main(one: Group, two: Group) -> None:
        both = {"one": one, "two": two}
        await router.split({"one": 100}, both)
        async with waiting(router, "one", answers):
            await router.split({"one": 100}, both, Chosen(HasHeader(name="x-try"), (("two", 100),)))
            await router.split({"two": 100}, both)
            assert [await router.in_flight(name) for name in ("one", "two")] == [1, 0]
            assert await router.in_flight("one", two.instances) == 0
            go.set()
            with anyio.fail_after(20):
                while await router.in_flight("one"):
                    await anyio.sleep(0.01)

    with instances("one", held={"one": go}) as one, instances("two") as two:
        anyio.run(main, one, two)
    assert answers == ["one"]


def test_a_server_that_somebody_left_elsewhere_keeps_no_other_settings_from_being_taken_over(project: Project) -> None:
    async def main(one: Group) -> None:
        router = haproxy(project, port=free_port())
        await router.split({"one": 100}, {"one": one})
        await router._ask(f"set server {BACKEND}/slot3 addr 127.0.0.1 port 12345")
        other = haproxy(project, port=router.config.port, timeout=31.0)
        await other.split({"one": 100}, {"one": one})
        assert await get(other) == "one"

    with instances("one") as one:
        anyio.run(main, one)


def answer(servers: Servers) -> str:
    """As HAProxy 2.8 answers `show servers state`."""
    header = "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_port"
    rows = [
        f"3 {backend} {number + 1} {slot_name(number)} {one.address.split(':')[0]} 2 {4 if one.ready else 5} {one.weight} 1 "
        + one.address.split(":")[1]
        for backend, found in servers.all.items()
        for number, one in enumerate(found)
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
    assert used(text) == {"service/slot1": 3, "service/slot2": 0}


def test_the_configuration_has_a_line_for_each_slot_and_turns_free_ones_off() -> None:
    text = configuration(
        HAProxy(name="x", port=8080), "/ok", Path("/run/s"), Path("/p.html"), (Slot("r-1", "127.0.0.1:4000", 256), Slot())
    )
    assert "    bind 127.0.0.1:8080\n" in text
    assert "    option httpchk GET /ok\n" in text
    assert "    server slot1 127.0.0.1:4000 weight 256  # r-1\n    server slot2 127.0.0.1:9 weight 0 disabled\n" in text
    assert text.endswith("    server slot2 127.0.0.1:9 weight 0 track service/slot2 disabled\n")


def test_the_reason_in_a_log_is_its_first_alert() -> None:
    assert alert("[NOTICE] a\n[ALERT] why\n[ALERT] so what\n") == "[ALERT] why"
    assert alert("only this\n") == "only this"
    assert alert("\n") == "it said nothing"


@pytest.mark.parametrize(
    ("same", "other", "failed"),
    [(0, 0, 0), (0, 7, 7), (5, 5, 5), (5, 7, 7), (6, 0, 3), (1, 0, 1)],
    ids=["none", "refused", "no answers", "both", "no answers of the only one", "refused by the only one"],
)
def test_what_was_tried_again_is_counted_once(same: int, other: int, failed: int) -> None:
    assert TriedAgain(10 + same, 20 + other).failed(TriedAgain(10, 20)) == failed


# A real HAProxy.


async def get(router: HAProxyRouter) -> str:
    async with browser() as client:
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
        async with browser() as client:
            assert (await client.get(f"http://127.0.0.1:{router.config.port}")).text == "one"

    anyio.run(main)


@pytest.mark.parametrize(("name", "what"), [("slots.json", "slots"), ("audience.json", "audience")])
@pytest.mark.parametrize("damaged", ["[{", "null", "[]x", '{"lines": 1}'])
def test_what_was_kept_and_cannot_be_read_is_said_with_its_place(
    router: HAProxyRouter, name: str, what: str, damaged: str
) -> None:
    (router.state / name).write_text(damaged)
    with pytest.raises(StageFailed, match=f"the {what} of HAProxy cannot be read") as caught:
        anyio.run(router.split, {}, {})
    assert caught.value.where == str(router.state / name)


@pytest.mark.parametrize("refuses", [True, False])
def test_a_try_that_a_group_refused_or_did_not_answer_counts_against_it_though_another_answered(
    router: HAProxyRouter, refuses: bool
) -> None:
    tries: list[str] = []

    def serving(name: str) -> Callable[[anyio.abc.SocketStream], Awaitable[None]]:
        async def serve(stream: anyio.abc.SocketStream) -> None:
            async with stream:
                ready = b"/readyz" in await stream.receive()
                tries.extend([] if ready else [name])
                if ready or name == "good":
                    await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")

        return serve

    async def listen(server: anyio.abc.Listener[anyio.abc.SocketStream], name: str) -> None:
        with contextlib.suppress(anyio.ClosedResourceError, BaseExceptionGroup):
            await server.serve(serving(name))

    async def main() -> None:
        servers = {name: await anyio.create_tcp_listener(local_host="127.0.0.1") for name in ("bad", "good")}
        async with servers["bad"], servers["good"], anyio.create_task_group() as tasks:
            for name, server in servers.items():
                tasks.start_soon(listen, server, name)
            ports = {name: server.extra(anyio.abc.SocketAttribute.local_port) for name, server in servers.items()}
            await router.split({"bad": 50, "good": 50}, {name: group(name, port) for name, port in ports.items()})
            async with router.watch() as watch:
                if refuses:
                    await servers["bad"].aclose()
                for _ in range(20):
                    assert await get(router) == "ok"
                requests = errors = 0
                with anyio.fail_after(10):
                    while requests < (1 if refuses else tries.count("bad")):
                        (seen,) = watch.windows({"bad"})
                        requests, errors = (requests + seen.requests, errors + seen.errors) if seen else (requests, errors)
                        await anyio.sleep(0.05)
                assert errors == requests
                assert refuses or requests == tries.count("bad") > 0
            tasks.cancel_scope.cancel()

    anyio.run(main)


def test_a_haproxy_that_ends_the_connection_is_told_so(router: HAProxyRouter) -> None:
    async def hang_up(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive(1)  # what it leaves unread is lost to who asked, who is told

    async def main() -> None:
        private(router._sockets, "HAProxy")
        async with await anyio.create_unix_listener(router._socket) as listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, hang_up)
            with pytest.raises(StageFailed, match="HAProxy does not answer: it ended the connection"):
                await router._ask("show info")
            tasks.cancel_scope.cancel()

    anyio.run(main)


def test_the_shares_are_what_haproxy_itself_tells(target: LocalTarget, router: HAProxyRouter, image: Image) -> None:
    async def main() -> None:
        blue = await up(target, release(image, version="blue"))
        green = await up(target, release(image, version="green"))
        await router.split({blue.name: 50, green.name: 50}, {blue.name: blue, green.name: green})
        first = (await router._look()).slots
        number = next(number for number, slot in enumerate(first) if slot.group == blue.name)
        await router._ask(f"set server {BACKEND}/{slot_name(number)} weight 0")
        assert await router.current() == {blue.name: 0, green.name: 100}

    anyio.run(main)
