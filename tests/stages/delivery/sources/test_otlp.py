"""Counters that the real SDK of OpenTelemetry exports."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest

from pipeline import StageFailed, WiringError
from pipeline.engines.local import free_port
from stages.delivery.sources.otlp import LARGEST, OpenTelemetry, OtlpMetrics, Points
from tests.stages.delivery.sources.conftest import Pages
from tests.stages.delivery.sources.watching import Seen
from tests.web import browser

pytest.importorskip("opentelemetry.proto", reason="opentelemetry-proto is not installed")
sdk: Any = pytest.importorskip("opentelemetry.sdk.metrics", reason="the SDK of OpenTelemetry is not installed")

ORDERS, FAILED = Points(metric="orders"), Points(metric="orders", attributes=(("state", "failed"),))


def config(**more: Any) -> OpenTelemetry:
    settings = {"port": free_port(), "of": ORDERS, "bad": FAILED, "every": 0.02, "stale": 30.0, **more}
    return OpenTelemetry(name="orders", **settings)


class Instance:
    """A process with the SDK, which exports when the test says so."""

    def __init__(self, receiver: OpenTelemetry, group: str, *, delta: bool = False, **attributes: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk.metrics.export import AggregationTemporality, PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import Resource

        temporality = {sdk.Counter: AggregationTemporality.DELTA} if delta else None
        endpoint = f"http://127.0.0.1:{receiver.port}/v1/metrics"
        exporter = OTLPMetricExporter(endpoint=endpoint, preferred_temporality=temporality, timeout=5)
        reader = PeriodicExportingMetricReader(exporter, export_interval_millis=10**9)
        resource = Resource({"release.group": group, "service.instance.id": f"{group}-{id(self)}", **attributes})
        self.provider = sdk.MeterProvider(metric_readers=[reader], resource=resource, shutdown_on_exit=False)
        self._orders = self.provider.get_meter("shop").create_counter("orders")
        self.orders("done", 0)

    def orders(self, state: str, number: int) -> None:
        self._orders.add(number, {"state": state})

    async def export(self) -> None:
        assert await anyio.to_thread.run_sync(self.provider.force_flush, 10_000)


@contextmanager
def instances(receiver: OpenTelemetry, *groups: str, **more: Any) -> Iterator[list[Instance]]:
    found = [Instance(receiver, group, **more) for group in groups]
    yield found
    for one in found:
        one.provider.shutdown(timeout_millis=100)


@pytest.mark.parametrize("delta", [False, True])
def test_what_instances_count_during_the_watch_is_added_up_by_group(delta: bool) -> None:
    receiver = config()

    async def main() -> None:
        with instances(receiver, "one", "one", "two", delta=delta) as (first, second, new):
            for one in (first, second, new):
                one.orders("done", 1000)
                one.orders("failed", 0 if one is new else 100)
            said: list[str] = []
            async with OtlpMetrics(receiver, said.append).watch({"one"}, {"two"}) as counted:
                seen = Seen(counted)
                for one in (first, second, new):
                    await one.export()
                await seen.known()
                before = seen.sums if delta else [(0, 0), (0, 0)]  # deltas of before cannot be told from those of now
                first.orders("done", 7)
                second.orders("failed", 2)
                new.orders("failed", 3)
                for one in (first, second, new):
                    await one.export()
                await seen.reach((before[0][0] + 2, before[0][1] + 9), (before[1][0] + 3, before[1][1] + 3))
                for one in (first, second, new):  # nothing happened
                    await one.export()
                await anyio.sleep(0.1)
                seen.look()
                assert seen.sums == [(before[0][0] + 2, before[0][1] + 9), (before[1][0] + 3, before[1][1] + 3)]

    anyio.run(main)


def test_an_attribute_that_first_comes_up_during_the_watch_has_counted_from_nothing_and_so_has_an_instance_that_began_then() -> (
    None
):
    receiver = config()

    async def main() -> None:
        with instances(receiver, "one", "two") as (old, new):
            old.orders("failed", 50)
            new.orders("done", 50)
            said: list[str] = []
            async with OtlpMetrics(receiver, said.append).watch({"one"}, {"two"}) as counted:
                seen = Seen(counted)
                await old.export()
                await new.export()
                await seen.until(lambda: said[-1] == "orders: two exports no counter orders, state=failed")
                new.orders("failed", 4)
                await old.export()
                await new.export()
                await seen.known()
                with instances(receiver, "two") as (again,):
                    again.orders("failed", 5)
                    again.orders("done", 2)
                    for one in (again, old):  # the other side last: what is told together with it is all there
                        await one.export()
                    await seen.until(lambda: seen.sums[1][1] >= 7)
                assert seen.sums[1] == (5, 7)

    anyio.run(main)


def test_a_group_that_exports_nothing_any_more_is_unknown() -> None:
    receiver = config(stale=1.0)

    async def main() -> None:
        with instances(receiver, "one", "two") as (old, new):
            said: list[str] = []
            async with OtlpMetrics(receiver, said.append).watch({"one"}, {"two"}) as counted:
                seen = Seen(counted)
                await seen.unknown()
                for one in (old, new):
                    one.orders("failed", 0)
                    await one.export()
                await seen.known()
                await seen.unknown()
            assert "exported nothing for 1 s" in said[-1]

    anyio.run(main)


def exported(group: str, at: int, failed: object, total: object, *, monotonic: bool = True) -> dict[str, Any]:
    """An export as JSON."""
    points = [
        {
            "startTimeUnixNano": "1",
            "timeUnixNano": str(at),
            "attributes": [{"key": "state", "value": {"stringValue": state}}],
            **({"asDouble": value} if isinstance(value, str) else {"asInt": str(value)}),
        }
        for state, value in (("failed", failed), ("done", total))
    ]
    metric = {"name": "orders", "sum": {"aggregationTemporality": 2, "isMonotonic": monotonic, "dataPoints": points}}
    resource = {"attributes": [{"key": "release.group", "value": {"stringValue": group}}]}
    return {"resourceMetrics": [{"resource": resource, "scopeMetrics": [{"scope": {}, "metrics": [metric]}]}]}


def test_json_compressed_or_not_is_taken_and_a_value_that_is_no_count_is_unknown() -> None:
    receiver = config()

    async def main() -> None:
        said: list[str] = []
        async with (
            OtlpMetrics(receiver, said.append).watch({"one"}, {"two"}) as counted,
            browser(base_url=f"http://127.0.0.1:{receiver.port}") as client,
        ):

            async def send(at: int, failed: object, total: object, **more: bool) -> None:
                for group in ("one", "two"):
                    content = gzip.compress(json.dumps(exported(group, at, failed, total, **more)).encode())
                    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
                    assert (await client.post("/v1/metrics", content=content, headers=headers)).status_code == 200

            seen = Seen(counted)
            await send(1, 5, 10)
            await seen.known()
            await send(2, 6, 15)
            await seen.reach((1, 6), (1, 6))
            await send(2, 99, 99)  # the same moment once more: a retry
            await send(3, "NaN", 16)
            await seen.unknown()
            assert said[-1].endswith("orders, state=failed is no count")
            await send(4, 7, 17)
            await seen.reach((2, 9), (2, 9))
            plain = await client.post("/v1/metrics", json=exported("one", 5, 8, 17))
            assert (plain.status_code, plain.json()) == (200, {})

    anyio.run(main)


def test_of_a_process_that_was_known_an_attribute_that_comes_up_later_counts_whenever_its_counter_began() -> None:
    """As SDKs do that date all series of a counter back to when the process began."""
    receiver = config()
    export, late = exported("one", 1, 5, 10), exported("one", 2, 3, 10)
    for state in ("failed", "done"):
        late["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]["sum"]["dataPoints"] += [
            {
                "startTimeUnixNano": "1",
                "timeUnixNano": "2",
                "asInt": "4",
                "attributes": [
                    {"key": "state", "value": {"stringValue": state}},
                    {"key": "shop", "value": {"stringValue": "new"}},
                ],
            }
        ]

    async def main() -> None:
        async with (
            OtlpMetrics(receiver, print).watch({"one"}) as counted,
            browser(base_url=f"http://127.0.0.1:{receiver.port}") as client,
        ):
            seen = Seen(counted, sides=1)
            assert (await client.post("/v1/metrics", json=export)).status_code == 200
            await seen.known()
            assert (await client.post("/v1/metrics", json=late)).status_code == 200
            await seen.until(lambda: seen.sums[0][1] >= 8)
            assert seen.sums == [(4 + 3, 8 + 3)]  # and the one that went down began anew

    anyio.run(main)


def test_a_sum_that_may_go_down_is_no_counter() -> None:
    receiver = config()

    async def main() -> None:
        said: list[str] = []
        async with (
            OtlpMetrics(receiver, said.append).watch({"one"}, {"one2"}) as counted,
            browser(base_url=f"http://127.0.0.1:{receiver.port}") as client,
        ):
            for group in ("one", "one2"):
                await client.post("/v1/metrics", json=exported(group, 1, 5, 10, monotonic=False))
            seen = Seen(counted)
            await seen.until(lambda: "exports no counter orders" in said[-1])
            assert seen.last == [None, None]

    anyio.run(main)


BOMB = gzip.compress(b" " * (LARGEST + 1))


@pytest.mark.parametrize(
    ("path", "headers", "content", "status"),
    [
        ("/v1/traces", {"Content-Type": "application/json"}, b"{}", 404),
        ("/v1/metrics", {"Content-Type": "text/plain"}, b"{}", 415),
        ("/v1/metrics", {"Content-Type": "application/json"}, b"{", 400),
        ("/v1/metrics", {"Content-Type": "application/x-protobuf"}, b"\xff\xff", 400),
        ("/v1/metrics", {"Content-Type": "application/json", "Content-Encoding": "gzip"}, b"no", 400),
        (
            "/v1/metrics",
            {"Content-Type": "application/json", "Content-Encoding": "gzip"},
            gzip.compress(b" " * (LARGEST + 1)),
            400,
        ),
        ("/v1/metrics", {"Content-Type": "application/json", "Content-Encoding": "br"}, b"{}", 400),
        ("/v1/metrics", {"Content-Type": "application/json"}, b" " * (LARGEST + 1), 413),
    ],
)
def test_what_is_no_export_of_metrics_is_refused(path: str, headers: dict[str, str], content: bytes, status: int) -> None:
    receiver = config()

    async def main() -> int:
        async with (
            OtlpMetrics(receiver, print).watch({"one"}, {"two"}),
            browser(base_url=f"http://127.0.0.1:{receiver.port}") as client,
        ):
            return (await client.post(path, headers=headers, content=content)).status_code

    assert anyio.run(main) == status


def test_a_port_that_somebody_else_has_is_an_error_that_says_so_and_one_that_was_listened_on_is_free_again(pages: Pages) -> None:
    async def main(port: int) -> None:
        async with OtlpMetrics(config(port=port), print).watch({"one"}, {"two"}):
            pass

    with pytest.raises(StageFailed, match=r"nothing can be received on 127\.0\.0\.1"):
        anyio.run(main, pages.port)
    port = free_port()
    anyio.run(main, port)
    anyio.run(main, port)


def test_a_share_of_which_all_are_bad_is_refused() -> None:
    with pytest.raises(WiringError, match="all of orders are bad"):
        config(bad=ORDERS)
