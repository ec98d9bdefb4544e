"""Probes: by HTTP, TCP, gRPC and a command."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Semaphore, Thread
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import Project, StageFailed, WiringError
from pipeline.engines.local import free_port
from stages.delivery.balance import LeastConnections
from stages.delivery.envoy_xds import health_check
from stages.delivery.haproxy import checks
from stages.delivery.limits import Limits
from stages.delivery.local import LocalTarget
from stages.delivery.model import Address, Group, Release
from stages.delivery.probe import CommandProbe, GrpcProbe, HttpProbe, Probe, TcpProbe, is_asked_alike, probe, read, written
from stages.delivery.probing import failure
from stages.delivery.strategy import BlueGreen
from stages.image import Image
from tests.stages.delivery.answering import instances
from tests.stages.delivery.bench import Bench, Make
from tests.stages.delivery.conftest import release, up
from tests.stages.delivery.load import Load
from tests.stages.delivery.small import deployment
from tests.web import browser

NINE = Limits(pids=9)
often = st.fixed_dictionaries({"every": st.floats(0.01, 100), "within": st.floats(0.01, 100), "failures": st.integers(1, 9)})
probes = st.one_of(
    st.builds(lambda path, last, how: HttpProbe(f"/{path}", (200, last), **how), st.from_regex("[a-z/]*", fullmatch=True),
              st.integers(200, 599), often),
    st.builds(lambda how: TcpProbe(**how), often),
    st.builds(lambda service, how: GrpcProbe(service, **how), st.text(), often),
    st.builds(lambda command, how: CommandProbe(tuple(command), **how), st.lists(st.text(), min_size=1), often),
)  # fmt: skip


@given(probes)
def test_a_probe_that_is_written_is_read_as_it_was(asked: Probe) -> None:
    assert read(json.loads(json.dumps(written(asked)))) == asked


@pytest.mark.parametrize("text", [{"kind": "smoke"}, {"kind": "http", "path": "x"}, {"kind": "tcp", "often": 1}, 3, []])
def test_what_is_no_probe_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="it is no probe"):
        read(text)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: HttpProbe("readyz"),
        lambda: HttpProbe("/a b"),
        lambda: HttpProbe("/a\r\nHost: other"),
        lambda: HttpProbe("/", (299, 200)),
        lambda: CommandProbe(()),
        lambda: TcpProbe(every=0),
        lambda: TcpProbe(failures=0),
        lambda: Limits(memory=0),
    ],
)
def test_a_probe_that_could_never_tell_anything_is_refused(wrong: object) -> None:
    with pytest.raises(WiringError):
        wrong()  # type: ignore[operator]


def test_a_path_and_the_probe_that_says_no_more_make_the_same_release(image: Image) -> None:
    one = release(image)
    assert replace(one, ready=HttpProbe("/readyz")).group == one.group
    assert replace(one, ready=HttpProbe("/readyz", (200, 204))).group != one.group


def test_a_release_that_is_written_is_read_with_its_probes_and_limits(image: Image) -> None:
    wanted = replace(
        release(image),
        ready=TcpProbe(),
        startup=HttpProbe("/s"),
        liveness=GrpcProbe("x"),
        restart="always",
        limits=Limits(pids=9),
    )
    found = Release.read(wanted.written())
    assert (found.ready, found.startup, found.liveness) == (wanted.ready, wanted.startup, wanted.liveness)
    assert (found.restart, found.limits, found.group) == ("always", NINE, wanted.group)


@pytest.mark.parametrize(
    ("asked", "well"),
    [
        (HttpProbe("/livez"), True),
        (HttpProbe("/readyz"), False),
        (HttpProbe("/readyz", (200, 503)), True),
        (TcpProbe(), True),
        (
            CommandProbe(
                ("python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/livez')")
            ),
            True,
        ),
        (CommandProbe(("python", "-c", "import sys; sys.exit('it is not well')")), False),
        (CommandProbe(("python", "/app/serve.py", "in the image", "?"), within=0.2), False),
        (CommandProbe(("no-such-program",)), False),
    ],
    ids=str,
)
def test_an_instance_is_asked_as_its_probe_says(target: LocalTarget, image: Image, asked: Probe, *, well: bool) -> None:
    async def main() -> None:
        wanted = release(image, UNREADY="1")
        await target.start(wanted)
        with anyio.fail_after(10):
            while await target.unready(wanted.group, TcpProbe()) is not None:
                await anyio.sleep(0.02)
        reason = await target.unready(wanted.group, asked)
        assert (reason is None) == well, reason

    anyio.run(main)


class Endless(BaseHTTPRequestHandler):
    """Answers and never comes to an end."""

    def do_GET(self) -> None:
        self.send_response(int(self.path[1:]))
        self.end_headers()
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(b"x" * 65_536)

    def log_message(self, *values: object) -> None:
        pass


@pytest.mark.parametrize(("status", "well"), [(200, True), (503, False)])
def test_an_answer_that_has_no_end_is_not_waited_for(status: int, *, well: bool) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endless)
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        address = Address(host="127.0.0.1", port=server.server_port)
        said = anyio.run(failure, HttpProbe(f"/{status}", within=60), address, no_command)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert (said is None) == well
    assert said is None or (said.startswith(f"{address.url}/503 answers 503: xxx") and len(said) < 2100)


def test_a_command_that_says_why_is_quoted_without_secrets(
    target: LocalTarget, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "a-secret-of-some-length")
    tells = CommandProbe(("python", "-c", "import os, sys; sys.exit('no entry with ' + os.environ['TOKEN'])"))

    async def main() -> None:
        wanted = replace(release(image), secrets=("TOKEN",))
        await up(target, wanted)
        reason = await target.unready(wanted.group, tells) or ""
        assert "no entry with ***" in reason
        assert "a-secret" not in reason

    anyio.run(main)


@contextmanager
def health(serving: str) -> Iterator[Address]:
    """A real server of gRPC that tells of `camera` what is said here, and of itself that it serves."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_health.v1.health import HealthServicer

    servicer = HealthServicer()
    servicer.set("camera", health_pb2.HealthCheckResponse.ServingStatus.Value(serving))
    server = grpc.server(ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = free_port()
    assert server.add_insecure_port(f"127.0.0.1:{port}") == port
    server.start()
    try:
        yield Address(host="127.0.0.1", port=port)
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize(
    ("service", "serving", "said"),
    [
        ("camera", "SERVING", None),
        ("camera", "NOT_SERVING", "NOT_SERVING"),
        ("", "SERVING", None),
        ("other", "SERVING", "NOT_FOUND"),
    ],
)
def test_a_service_of_grpc_is_asked_by_its_standard_check(service: str, serving: str, said: str | None) -> None:
    with health(serving) as address:
        reason = anyio.run(failure, GrpcProbe(service), address, no_command)
    assert (reason is None) if said is None else (said in (reason or "")), reason


def test_a_service_of_grpc_that_is_not_there_is_not_well() -> None:
    reason = anyio.run(failure, GrpcProbe(within=2), Address(host="127.0.0.1", port=free_port()), no_command)
    assert "UNAVAILABLE" in (reason or "")


async def no_command(command: tuple[str, ...]) -> tuple[int, bytes]:
    raise AssertionError(command)


def test_routers_ask_by_http_what_is_told_by_http_and_else_for_a_connection() -> None:
    assert "option httpchk GET /ok\n    http-check expect status 200-204\n" in checks(HttpProbe("/ok", (200, 204)))
    assert "inter 2500ms fastinter 200ms downinter 200ms fall 5" in checks(TcpProbe(every=2.5, failures=5))
    for slow in (HttpProbe(every=0.3, within=2), CommandProbe(("true",))):  # which limits how long it may take to connect
        assert "inter 2000ms" in checks(slow)
    assert "httpchk" not in checks(GrpcProbe())
    assert (
        health_check("/ok")["http_health_check"].items()
        >= {"path": "/ok", "expected_statuses": [{"start": 200, "end": 201}]}.items()
    )
    assert health_check(CommandProbe(("true",)))["tcp_health_check"] == {}
    assert probe("/ok") == HttpProbe("/ok")


def test_an_instance_has_as_long_to_say_that_it_is_well_as_its_probe_allows_whoever_asks(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes more than a second, and more than the time from one question to the next."""
    monkeypatch.setattr("stages.delivery.envoy.PATIENCE", 1.0)
    asked = Semaphore(0)

    def ready() -> None:
        time.sleep(1.2)
        asked.release()

    async def main(group: Group, allowed: float) -> int:
        router = make(port=free_port(), name=f"app{allowed:g}")
        router.ready = HttpProbe(every=0.2, within=allowed, failures=1)
        with contextlib.suppress(StageFailed):  # Envoy asks before it gives traffic
            await router.split({group.name: 100}, {group.name: group})
        for _ in range(2):
            assert await anyio.to_thread.run_sync(asked.acquire, True, 30)
        async with browser() as client:
            return (await client.get(router.address.url)).status_code

    with instances("one", ready=ready) as group:
        assert anyio.run(main, group, 10) == 200
        assert anyio.run(main, group, 0.7) == 503


@pytest.mark.parametrize("ready", ["readyz", "   ", ""])
def test_a_text_that_is_no_path_is_refused_before_anything_runs(ready: str) -> None:
    with pytest.raises(WiringError, match=f"HttpProbe: '{ready}' with \\(200, 200\\)"):
        replace(deployment(1, "one"), ready=ready)


class Once:
    """Says of everybody that he is in it, once when it is told to."""

    armed = False

    def __contains__(self, name: object) -> bool:
        armed, self.armed = self.armed, False
        return armed


def test_one_bad_answer_makes_nobody_ill_of_whom_it_takes_several(make: Make) -> None:
    ill, asked = Once(), Semaphore(0)

    async def main(blue: Group) -> None:
        router = make(port=free_port())
        router.ready = HttpProbe(every=0.5)
        await router.split({"blue": 100}, {"blue": blue})
        with Load(router.config.port, posts=False) as load:
            await anyio.to_thread.run_sync(load.more, 20)
            for _ in range(3):
                assert await anyio.to_thread.run_sync(asked.acquire, True, 30)
            ill.armed = True
            with anyio.fail_after(20):
                while ill.armed:
                    await anyio.sleep(0.001)
            assert await anyio.to_thread.run_sync(asked.acquire, True, 30)
            await anyio.to_thread.run_sync(load.more, 40)
        assert load.failures == []

    with instances("blue", ill=ill, ready=asked.release) as blue:
        anyio.run(main, blue)


@pytest.mark.parametrize("make", ["envoy"], indirect=True)
def test_users_who_come_while_other_settings_are_taken_over_find_who_is_slow_to_say_that_it_is_well(make: Make) -> None:
    """Nobody asked before: how often Envoy looks then is another setting."""
    asked = Semaphore(0)

    async def main(blue: Group, warm: Group) -> None:
        both = {"blue": blue, "warm": warm}
        router = make(port=free_port())
        router.ready = HttpProbe(within=5)
        await router.split({"blue": 100, "warm": 0}, both)
        other = make(port=router.config.port, balance=LeastConnections())
        other.ready = router.ready
        while asked.acquire(blocking=False):
            pass
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other.split, {"blue": 100, "warm": 0}, both)
            for _ in range(2):
                assert await anyio.to_thread.run_sync(asked.acquire, True, 30)
            with Load(router.config.port, posts=False) as load:
                await anyio.to_thread.run_sync(load.more, 200)
        assert (load.failures, set(load.answers)) == ([], {"blue"})

    with instances("blue", ready=partial(time.sleep, 1.5)) as blue, instances("warm", "warm", ready=asked.release) as warm:
        anyio.run(main, blue, warm)


@pytest.mark.parametrize("ill", [set[str](), {"warm"}], ids=["all are well", "some are ill"])
def test_users_of_an_instance_that_is_slow_to_say_that_it_is_well_keep_it_while_other_settings_are_taken_over(
    make: Make, ill: set[str]
) -> None:
    """Those that are quick to say what they are, and are asked again at once, do not stand for it."""

    async def main(blue: Group, warm: Group) -> None:
        both = {"blue": blue, "warm": warm}
        router = make(port=free_port())
        router.ready = HttpProbe(within=5)
        await router.split({"blue": 100, "warm": 0}, both)
        with Load(router.config.port, posts=False) as load:
            await anyio.to_thread.run_sync(load.more, 10)
            other = make(port=router.config.port, balance=LeastConnections())
            other.ready = router.ready
            await other.split({"blue": 100, "warm": 0}, both)
            await anyio.to_thread.run_sync(load.more, 200)
        assert (load.failures, set(load.answers)) == ([], {"blue"})

    with instances("blue", ready=partial(time.sleep, 1.5)) as blue, instances("warm", "warm", ill=ill) as warm:
        anyio.run(main, blue, warm)


@pytest.mark.parametrize("make", ["envoy"], indirect=True)
def test_all_instances_are_asked_before_a_group_gets_traffic(make: Make) -> None:
    asked: list[float] = []

    def ready() -> None:  # only the first is quick
        asked.append(0)
        if len(asked) > 1:
            time.sleep(1.5)
            asked.append(1.5)

    async def main(blue: Group, green: Group) -> None:
        router = make(port=free_port())
        router.ready = HttpProbe(every=60, within=5)
        await router.split({"blue": 100}, {"blue": blue})
        await router.split({"green": 100}, {"blue": blue, "green": green})

    with instances("blue") as blue, instances("green", "green", ready=ready) as green:
        anyio.run(main, blue, green)
        assert asked == [0, 0, 1.5]


def test_a_group_that_hangs_is_found_ill_before_a_router_gives_up_whatever_time_its_probe_has(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for router in ("haproxy", "envoy"):
        monkeypatch.setattr(f"stages.delivery.{router}.PATIENCE", 0.5)
    hangs, end, asked = Event(), Event(), Semaphore(0)

    async def main(blue: Group, green: Group) -> None:
        router = make(port=free_port())
        router.ready = HttpProbe(every=0.2, within=1, failures=3)
        await router.split({"green": 100, "blue": 0}, {"blue": blue, "green": green})
        for _ in range(4):  # after three failures it is ill
            assert await anyio.to_thread.run_sync(asked.acquire, True, 30)
        hangs.set()
        await router.split({"blue": 100}, {"blue": blue, "green": green})  # which is ill, and nobody is worse off there
        assert await router.current() == {"blue": 100, "green": 0}

    def ready() -> None:
        if hangs.is_set():
            end.wait(60)

    with instances("blue", ill={"blue"}, ready=asked.release) as blue, instances("green", ready=ready) as green:
        try:
            anyio.run(main, blue, green)
        finally:
            end.set()


def test_a_release_may_be_asked_more_often_than_the_one_that_serves_but_for_nothing_else(bench: Bench, image: Image) -> None:
    async def main() -> None:
        async def forward(version: str, ready: Probe) -> str:
            wanted = replace(release(image, version=version), ready=ready)
            bench.router.ready = ready
            await bench.rollout(wanted).forward(BlueGreen(ready=30))
            return wanted.group

        one = await forward("one", TcpProbe(every=2, within=5, failures=9))
        await forward("two", TcpProbe(failures=4))
        assert bench.router.in_place().ready == TcpProbe(within=5, failures=9)  # as one may have to serve again
        for step in (bench.router.forget, bench.target.stop):
            await step(one)
        await bench.rollout(replace(release(image, version="two"), ready=TcpProbe(failures=4))).forward(BlueGreen(ready=30))
        assert bench.router.in_place().ready == TcpProbe(failures=4)
        bench.router.ready = probe("/readyz")
        with pytest.raises(StageFailed, match="serves and says that it can by a TCP connection, and this release by /readyz"):
            await bench.rollout(release(image, version="three")).forward(BlueGreen(ready=30))

    anyio.run(main)
    assert bench.answer() == "two"


@given(st.sampled_from([HttpProbe(), HttpProbe("/a"), TcpProbe(), GrpcProbe(), GrpcProbe("a"), CommandProbe(("a",))]), often)
def test_probes_ask_alike_that_differ_only_in_how_often(one: Probe, other: dict[str, Any]) -> None:
    assert is_asked_alike(one, replace(one, **other))
    assert not is_asked_alike(one, HttpProbe("/other"))
    assert not is_asked_alike(HttpProbe("/a", (200, 299)), HttpProbe("/a"))


@pytest.mark.parametrize("ready", [TcpProbe(), HttpProbe("/readyz", (500, 599))], ids=str)
def test_a_release_is_rolled_out_that_says_so_otherwise_than_by_a_path(
    target: LocalTarget, make: Make, image: Image, ready: Probe, project: Project, tmp_path: Path
) -> None:
    """It answers its readiness path with 503 all the time: a router that asked for 200 would send it nothing."""

    async def main() -> None:
        router = make(port=free_port())
        router.ready = ready
        bench = Bench(target, router)
        await bench.rollout(replace(release(image, UNREADY="1"), ready=ready)).forward(BlueGreen(ready=30))
        assert bench.answer() == "one"

    anyio.run(main)


def test_without_the_library_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "grpc", None)
    with pytest.raises(StageFailed, match="library for it is not here"):
        anyio.run(failure, GrpcProbe(), Address(host="127.0.0.1", port=1), no_command)
