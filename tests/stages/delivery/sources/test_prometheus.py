"""Counters from a real Prometheus that scrapes a real page."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import anyio
import pytest

from pipeline import WiringError
from stages.delivery.sources import prometheus as source
from stages.delivery.sources.polled import Unknown
from stages.delivery.sources.prometheus import PrometheusMetrics, Sum, samples
from tests.stages.delivery.sources.conftest import Pages, Prometheus
from tests.stages.delivery.sources.watching import Seen

Counts = dict[str, tuple[int | str, int | str]]


def config(url: str, **more: Any) -> source.Prometheus:
    settings = {"of": 'orders_total{release="{group}"}', "bad": 'failed_total{release="{group}"}', "stale": 1.0, "every": 0.05}
    return source.Prometheus(name="orders given up", url=url, **{**settings, **more})


def page(pages: Pages, groups: Counts, path: str = "/metrics") -> None:
    lines = [
        f'failed_total{{release="{group}"}} {failed}\norders_total{{release="{group}"}} {total}\n'
        for group, (failed, total) in groups.items()
    ]
    pages.pages[path] = (200, "".join(lines))


def scraped(prometheus: Prometheus, tmp_path: Path, *ports: int) -> None:
    (tmp_path / "targets.json").write_text(json.dumps([{"targets": [f"127.0.0.1:{port}" for port in ports]}]))
    prometheus.start()


def test_increases_of_both_sides_are_counted_once_and_never_lost(prometheus: Prometheus, pages: Pages, tmp_path: Path) -> None:
    page(pages, {"one": (3, 1000), "two": (0, 10)})
    scraped(prometheus, tmp_path, pages.port)

    async def main() -> None:
        said: list[str] = []
        async with PrometheusMetrics(config(prometheus.url), said.append).watch({"one"}, {"two"}) as counted:
            seen = Seen(counted)
            await seen.known()
            page(pages, {"one": (3, 1050), "two": (2, 15)})
            await seen.reach((0, 50), (2, 5))
            page(pages, {"one": (4, 1100), "two": (3, 20)})
            await seen.reach((1, 100), (3, 10))
            page(pages, {"one": (4, 1100), "two": (1, 4)})  # its instance was started again, and has counted from 0
            await seen.until(lambda: seen.sums[1][1] >= 14)
            assert seen.sums == [(1, 100), (4, 14)]
        assert said[-1] == "orders given up: known again"

    anyio.run(main)


def test_what_took_longer_than_a_bound_of_a_histogram_is_counted(prometheus: Prometheus, pages: Pages, tmp_path: Path) -> None:
    def told(fast: int, count: int) -> None:
        buckets = (("0.5", fast), ("+Inf", count))
        lines = [f's_bucket{{release="{group}",le="{le}"}} {value}' for group in ("one", "two") for le, value in buckets]
        counts = [f's_count{{release="{group}"}} {count}' for group in ("one", "two")]
        pages.pages["/metrics"] = (200, "\n".join(["# TYPE s histogram", *lines, *counts, ""]))

    told(10, 12)
    scraped(prometheus, tmp_path, pages.port)

    async def main() -> None:
        histogram = config(prometheus.url, of='s_count{release="{group}"}', good='s_bucket{release="{group}",le="0.5"}', bad="")
        async with PrometheusMetrics(histogram, print).watch({"one"}, {"two"}) as counted:
            seen = Seen(counted)
            await seen.known()
            told(40, 50)
            await seen.reach((8, 38), (8, 38))

    anyio.run(main)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("nobody is scraped any more", "no sample"),
        ("a value is no number", "no count"),
        ("there is no such counter", "no sample"),
        ("the server is gone", "does not answer"),
    ],
)
def test_what_is_missing_stale_or_no_number_is_unknown(
    what: str, reason: str, prometheus: Prometheus, pages: Pages, tmp_path: Path
) -> None:
    page(pages, {"one": (3, 1000), "two": (0, 10)})
    scraped(prometheus, tmp_path, pages.port)

    async def main() -> None:
        said: list[str] = []
        async with PrometheusMetrics(config(prometheus.url), said.append).watch({"one"}, {"two"}) as counted:
            seen = Seen(counted)
            await seen.known()
            match what:
                case "nobody is scraped any more":
                    (tmp_path / "targets.json").write_text("[]")
                case "a value is no number":
                    page(pages, {"one": (3, 1000), "two": ("NaN", 10)})
                case "there is no such counter":
                    page(pages, {"one": (3, 1000)})
                case _:
                    prometheus.kill()
            await seen.unknown()
        assert reason in said[-1]

    anyio.run(main)


def test_a_question_that_prometheus_does_not_understand_is_unknown_with_its_words(prometheus: Prometheus, tmp_path: Path) -> None:
    scraped(prometheus, tmp_path)

    async def main() -> None:
        said: list[str] = []
        wrong = config(prometheus.url, bad='failed_total{release="{group}",}}')
        async with PrometheusMetrics(wrong, said.append).watch({"one"}, {"two"}) as counted:
            assert counted.shares() == [None, None]
        assert "no sample" in said[0] or "parse error" in said[0]

    anyio.run(main)


def answer(**more: Any) -> bytes:
    series = {"metric": {"__name__": "n"}, "values": [[1.0, "2"]]}
    return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": [series]}, **more}).encode()


def test_an_answer_with_warnings_is_unknown_and_one_without_is_samples() -> None:
    assert samples(200, answer(), "n{}") == {'{"__name__": "n"}': [(1.0, 2.0)]}
    for status, content, reason in (
        (200, answer(warnings=["a store did not answer"]), "a store did not answer"),
        (502, b"<html>", "no answer of Prometheus"),
        (422, b'{"status":"error","errorType":"execution","error":"too many samples"}', "too many samples"),
        (200, answer(data={"resultType": "scalar", "result": [1, "2"]}), "a scalar"),
        (200, answer(data={"resultType": "matrix", "result": []}), "no sample"),
        (200, b"[]", "no answer of Prometheus"),
        (200, answer(data={"resultType": "matrix", "result": [{"metric": {}, "values": [[1, "+Inf"]]}]}), "no count"),
    ):
        with pytest.raises(Unknown, match=reason):
            samples(status, content, "n{}")


def test_a_series_that_appears_later_has_counted_from_nothing_and_resets_between_looks_are_seen() -> None:
    total = Sum()
    assert total.after({"a": [(1, 5.0)]}, until=9) == 0
    assert total.after({"a": [(1, 5.0), (2, 7.0)], "b": [(2, 3.0)]}, until=9) == 5
    assert total.after({"a": [(2, 7.0), (3, 8.0), (4, 2.0), (5, 4.0)], "b": [(2, 3.0)]}, until=4) == 8
    assert total.after({"a": [(5, 4.0)]}, until=9) == 10
    assert not math.isnan(total.counted)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"bad": "failed_total{}"}, "asks about all releases at once"),
        ({"of": 'sum(orders_total{release="{group}"})'}, "is no selector of counters"),
        ({"bad": ""}, "either `bad` or `good`"),
        ({"good": 'x{release="{group}"}'}, "either `bad` or `good`"),
    ],
)
def test_questions_that_could_not_tell_releases_apart_are_refused(wrong: dict[str, str], said: str) -> None:
    with pytest.raises(WiringError, match=said):
        config("http://127.0.0.1:9", **wrong)
