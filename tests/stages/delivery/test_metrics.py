"""Canaries judged by more than what their router sees."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gates.judge import Business, ErrorRate, Judge
from gates.window import Share, Window
from pipeline import Journal, Project, StageFailed, Store, WiringError
from pipeline.engines.local import free_port
from pipeline.run import Outcome
from stages.delivery import evidence, process
from stages.delivery.kept import announced
from stages.delivery.local import LocalProcesses
from stages.delivery.metrics import Counted, measured, merged, need_sources
from stages.delivery.model import Address, Group, Release
from stages.delivery.router import Watch
from stages.delivery.sources.http import HttpShare
from stages.delivery.sources.logs import LogShare
from stages.delivery.sources.prometheus import Prometheus, PrometheusMetrics
from stages.delivery.strategy import BlueGreen, Canary
from stages.image import Image
from tests.running import run_pipeline
from tests.stages.delivery.bench import Bench
from tests.stages.delivery.conftest import release
from tests.stages.delivery.load import Load
from tests.stages.delivery.small import delivery, deployment
from tests.stages.delivery.sources import conftest
from tests.stages.delivery.sources.conftest import prometheus as prometheus  # noqa: PLC0414 - the fixture

GIVEN_UP = Business(of="orders given up")
LOST = {"of": 'orders_total{release_group="{group}"}', "bad": 'orders_given_up_total{release_group="{group}"}'}


def judged(bench: Bench, wanted: Release, url: str, said: list[str]) -> Any:
    config = Prometheus(name=GIVEN_UP.of, url=url, stale=2.0, every=0.05, timeout=2.0, **LOST)
    return dataclasses.replace(bench.rollout(wanted), metrics=(PrometheusMetrics(config, said.append),))


def strategy(**more: Any) -> Canary:
    judge = Judge(measures=(ErrorRate(budget=0.05), GIVEN_UP), warm_up=0, at_least=0, at_most=60, **more)
    return Canary(shares=(50, 100), judge=judge, tick=0.1)


def served(bench: Bench, prometheus: conftest.Prometheus) -> None:
    """Prometheus scrapes what the target says runs."""
    prometheus._targets = bench.target.state / "prometheus.json"
    prometheus.start()


def test_a_release_of_which_http_says_nothing_bad_goes_back_for_what_prometheus_counts(
    bench: Bench, image: Image, prometheus: conftest.Prometheus
) -> None:
    async def main() -> None:
        one, two = release(image, GIVES_UP="50"), release(image, version="two", GIVES_UP="4")
        await bench.rollout(one).forward(BlueGreen())
        served(bench, prometheus)
        with Load(bench.router.config.port, posts=False, pause=0.005) as load:
            with pytest.raises(StageFailed, match=rf"{two.group} may not go on: abort after .*orders given up: [1-9]"):
                await judged(bench, two, prometheus.url, []).forward(strategy(blind=20))
            await anyio.to_thread.run_sync(load.more, 10)
        assert load.failures == []
        assert await bench.router.current() == {one.group: 100}

    anyio.run(main)


def test_a_release_that_is_no_worse_by_what_prometheus_counts_is_promoted(
    bench: Bench, image: Image, prometheus: conftest.Prometheus
) -> None:
    async def main() -> None:
        one, two = release(image, GIVES_UP="3"), release(image, version="two", GIVES_UP="3")
        await bench.rollout(one).forward(BlueGreen())
        served(bench, prometheus)
        with Load(bench.router.config.port, posts=False, pause=0.005):
            await judged(bench, two, prometheus.url, []).forward(strategy(blind=20, floor=20))
        assert (await bench.router.current())[two.group] == 100

    anyio.run(main)


def test_while_prometheus_is_dead_nothing_is_known_and_nothing_promoted(
    bench: Bench, image: Image, prometheus: conftest.Prometheus
) -> None:
    """Its release is as good as the one before it; there is evidence for that until Prometheus dies, though not enough."""

    async def main() -> None:
        one, two = release(image, GIVES_UP="3"), release(image, version="two", GIVES_UP="3")
        await bench.rollout(one).forward(BlueGreen())
        served(bench, prometheus)
        said: list[str] = []
        rollout = judged(bench, two, prometheus.url, said)

        async def killed() -> None:
            while not any(data["measures"][GIVEN_UP.of][3] > 10 for kind, data in bench.notes.events if kind == "rollout.looked"):
                await anyio.sleep(0.01)
            prometheus.kill()
            dead.set()

        dead = anyio.Event()
        with Load(bench.router.config.port, posts=False, pause=0.005) as load:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(killed)
                with pytest.raises(StageFailed, match=r"inconclusive after .* missing: metrics, for \d+ s"):
                    await rollout.forward(strategy(blind=8, floor=10**6))  # it takes Prometheus 5 s to find a new instance
                tasks.cancel_scope.cancel()
            await anyio.to_thread.run_sync(load.more, 10)
        assert dead.is_set()
        assert load.failures == []
        assert "does not answer" in said[-1]
        assert await bench.router.current() == {one.group: 100}
        looks = [data for kind, data in bench.notes.events if kind == "rollout.looked"]
        assert looks[-1]["unknown"] >= 8

    anyio.run(main)


class Told:
    """A watch and a source that tell what they were given."""

    def __init__(self, *told: Any) -> None:
        self.told = list(told)

    def windows(self, *sides: Collection[str]) -> list[Window | None]:
        return self.told

    def shares(self) -> list[Share | None]:
        return self.told


@dataclasses.dataclass(frozen=True)
class Source:
    name: str
    told: tuple[Share | None, ...]

    @asynccontextmanager
    async def watch(self, *sides: Collection[str]) -> AsyncIterator[Counted]:
        assert [set(side) for side in sides] == [{"a", "b"}, {"c"}]
        yield Told(*self.told)


def test_what_one_source_does_not_know_is_left_out_and_what_another_knows_is_there() -> None:
    @asynccontextmanager
    async def router() -> AsyncIterator[Watch]:
        yield Told(Window(requests=5, errors=1), Window(requests=2, errors=0))

    async def main() -> None:
        sources = (Source("known", (Share(part=1, of=2), Share(part=0, of=0))), Source("half", (Share(part=1, of=1), None)))
        async with measured(router(), sources, ("a", "b"), ("c",)) as watch:
            old, new = watch.windows(("b", "a"), ("c",))
        assert old == Window(requests=5, errors=1, business={"known": Share(part=1, of=2), "half": Share(part=1, of=1)})
        assert new == Window(requests=2, errors=0, business={"known": Share(part=0, of=0)})

    anyio.run(main)


@given(st.dictionaries(st.text(max_size=3), st.none() | st.integers(0, 5).map(lambda n: Share(part=n, of=n + 1))))
def test_a_share_is_in_a_window_just_where_it_is_known(shares: dict[str, Share | None]) -> None:
    found = merged(Window(requests=1, errors=0), shares)
    assert found is not None
    assert found.business == {name: share for name, share in shares.items() if share is not None}
    assert merged(None, shares) is None


def test_a_judge_that_weighs_what_nobody_counts_is_refused() -> None:
    judge = Judge(measures=(Business(of="refunds"),))
    orders = HttpShare(name="orders", url="http://127.0.0.1:1/{group}", of="/a", bad="/b")
    with pytest.raises(WiringError, match="weighs 'refunds', and no source counts it") as refused:
        need_sources("Deploy", judge, (orders,))
    assert "there are orders" in str(refused.value)
    with pytest.raises(WiringError, match="several sources count 'orders'"):
        need_sources("Deploy", None, (orders, orders))
    need_sources("Deploy", Judge(measures=(Business(of="orders"),)), (orders,))


def test_instances_are_told_the_name_of_their_group_and_prometheus_where_they_are(bench: Bench, image: Image) -> None:
    async def main() -> None:
        one = release(image, instances=2, OTEL_RESOURCE_ATTRIBUTES="service.name=shop")
        await bench.rollout(one).forward(BlueGreen())
        for found in process.running(f"{bench.target.state}:"):
            assert found.env["RELEASE_GROUP"] == one.group
            itself = f"service.instance.id=127.0.0.1:{found.env['PORT']}"
            assert found.env["OTEL_RESOURCE_ATTRIBUTES"] == f"service.name=shop,release.group={one.group},{itself}"
        written = json.loads((bench.target.state / "prometheus.json").read_text())
        addresses = [address.summary() for address in (await bench.target.groups())[one.group].instances]
        assert written == [{"targets": addresses, "labels": {"release_group": one.group}}]
        await bench.target.stop(one.group)
        assert not (bench.target.state / "prometheus.json").exists()

    anyio.run(main)


def test_prometheus_is_told_of_each_group_by_itself() -> None:
    groups = {name: Group(name, (Address(host="127.0.0.1", port=port),)) for name, port in (("b", 2), ("a", 1))}
    assert json.loads(announced(groups)) == [
        {"targets": ["127.0.0.1:1"], "labels": {"release_group": "a"}},
        {"targets": ["127.0.0.1:2"], "labels": {"release_group": "b"}},
    ]


def test_a_deployment_is_taken_back_for_what_its_log_says_and_the_picture_shows_it(
    project: Project, store: Store, journal: Journal
) -> None:
    port = free_port()

    def deploy(version: str, *env: tuple[str, str]) -> Outcome:
        plain = deployment(port, version, *env)
        given_up = LogShare(name=GIVEN_UP.of, target=LocalProcesses(name="app"), of="^order ", bad="given up$", every=0.05)
        judged = dataclasses.replace(plain, strategy=strategy(blind=20), metrics=(given_up,))
        return run_pipeline(delivery(judged, version), project, store, journal)[0]

    assert deploy("one").failed == {}
    with Load(port, posts=False, pause=0.005) as load:
        (failed,) = deploy("two", ("GIVES_UP", "4")).failed.values()
        load.more(10)
    assert load.failures == []
    assert "may not go on: abort after" in str(failed)
    found = evidence.judged(journal.events(kind=evidence.KINDS))
    picture = evidence.picture(found[-1])
    assert "orders given up" in picture
    assert "abort after" in picture


def test_planning_imports_nothing_that_sources_need_when_they_are_asked() -> None:
    modules = ", ".join(
        f"stages.delivery.{name}"
        for name in ("deploy", "metrics", "sources.prometheus", "sources.sql", "sources.http", "sources.logs", "sources.otlp")
    )
    heavy = ("httpx", "psycopg", "opentelemetry", "google.protobuf", "starlette")
    program = f"import {modules}, sys; print([name for name in {heavy} if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert said.strip() == "[]"
