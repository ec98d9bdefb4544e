"""Prometheus as a source of metrics: counters that the instances expose and a Prometheus server scrapes.

The server is asked for the raw samples of the last seconds (an instant query with a range selector), so that every sample has
the time at which it was scraped, and a counter that began anew is seen in its own series before anything is added up.
Protocol: Prometheus HTTP API v1, `/api/v1/query`, result type `matrix`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from pipeline import WiringError, Work
from pipeline.authorities import authorities
from stages.delivery.metrics import PLACEHOLDER, need_group
from stages.delivery.sources.polled import Ask, Polled, Reading, Unknown, answered

SELECTOR = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\s*\{.*\}", re.DOTALL)
"""A metric with labels: `orders_total{release="{group}"}`."""

Sample = tuple[float, float]
"""When it was scraped (Unix time in seconds), and the value."""


@dataclass(frozen=True, kw_only=True)
class Prometheus:
    """Counters on the Prometheus server at `url`: of `of`, how many were `bad`, or how many were not `good`.

    Each is a selector of counters, with `{group}` where the name of the group belongs. Series that a selector finds (one for
    each instance, or for each value of a label) are added up. `good` is for histograms: with
    `of='seconds_count{release="{group}"}'` and `good='seconds_bucket{release="{group}",le="0.5"}'` what took longer is counted.
    Nothing is known where a selector finds no sample of the last `stale` seconds, a value is no number, or the server answers
    with an error or a warning. Counters have to be there before they count anything: export them with 0.
    """

    name: str
    url: str
    of: str
    bad: str = ""
    good: str = ""
    stale: float = 60.0
    """Should be longer than two scrape intervals."""
    every: float = 1.0
    """Seconds from one question to the next."""
    timeout: float = 5.0

    def __post_init__(self) -> None:
        where = f"Prometheus(name={self.name!r})"
        if bool(self.bad) == bool(self.good):
            raise WiringError(f"{where} needs either `bad` or `good`", where=where, right="one of them: a selector of counters")
        for query in (self.of, self.bad or self.good):
            need_group(where, query)
            if not SELECTOR.fullmatch(query.strip()):
                raise WiringError(
                    f"{where}: {query} is no selector of counters",
                    where=where,
                    right=f'a metric with labels, which is added up here: orders_total{{release="{PLACEHOLDER}"}}',
                )

    def open(self, work: Work) -> PrometheusMetrics:
        return PrometheusMetrics(self, work.say)


class PrometheusMetrics(Polled[Prometheus]):
    """A Prometheus server that is asked while a rollout is weighed."""

    @asynccontextmanager
    async def asking(self, sides: Sequence[Collection[str]]) -> AsyncIterator[Ask]:
        import httpx

        config = self.config
        async with httpx.AsyncClient(
            base_url=config.url, timeout=config.timeout, trust_env=False, verify=authorities(config.url)
        ) as client:

            async def asked(query: str, group: str) -> Mapping[str, list[Sample]]:
                selector = f"{query.strip().replace(PLACEHOLDER, group)}[{max(1, round(config.stale * 1000))}ms]"
                request = client.stream("POST", "/api/v1/query", data={"query": selector})
                return samples(*await answered(config.url, request), selector)

            yield Counters(config, asked).read


@dataclass
class Counters:
    """What each group's counters have counted since they were first read."""

    config: Prometheus
    asked: Callable[[str, str], Awaitable[Mapping[str, list[Sample]]]]
    """The samples of each series that a selector finds for a group."""
    _sums: dict[tuple[str, str], Sum] = field(default_factory=dict)

    async def read(self, groups: Collection[str]) -> Mapping[str, Reading]:
        found = {group: [await self.asked(query, group) for query in self._queries] for group in groups}
        return {group: self._reading(group, *both) for group, both in found.items()}

    @property
    def _queries(self) -> tuple[str, str]:
        return self.config.of, self.config.bad or self.config.good

    def _reading(self, group: str, of: Mapping[str, list[Sample]], part: Mapping[str, list[Sample]]) -> Reading:
        """Both counters up to the same moment: one of them may have been scraped again between the two questions."""
        at = min(max(time for series in each.values() for time, _ in series) for each in (of, part))
        total, some = (
            self._sums.setdefault((group, query), Sum()).after(each, at)
            for query, each in zip(self._queries, (of, part), strict=True)
        )
        return Reading(part=some if self.config.bad else max(total - some, 0), of=total, at=at)


@dataclass
class Sum:
    """A fold over the samples of all series of a selector: what they counted together since they were first read."""

    counted: float = 0.0
    _last: dict[str, Sample] = field(default_factory=dict)

    def after(self, found: Mapping[str, list[Sample]], until: float) -> int:
        """With the samples up to a moment. A series that is there only later began with 0, and so did one that went down."""
        first = not self._last
        for name, series in found.items():
            for time, value in series:
                before = self._last.get(name)
                if time > until or (before is not None and time <= before[0]):
                    continue
                if before is None:
                    self.counted += 0.0 if first else value
                else:
                    self.counted += value - before[1] if value >= before[1] else value
                self._last[name] = (time, value)
        return math.floor(self.counted + 1e-6)


def samples(status: int, content: bytes, query: str) -> dict[str, list[Sample]]:
    """The samples of each series in the answer to an instant query with a range selector. Raises Unknown for anything else."""
    try:
        answer: Any = json.loads(content)
        if status != 200 or answer["status"] != "success":
            raise Unknown(f"{query}: {answer['errorType']}: {answer['error']}")
        if answer.get("warnings"):
            raise Unknown(f"{query}: {'; '.join(answer['warnings'])}")
        if answer["data"]["resultType"] != "matrix":
            raise Unknown(f"{query}: a {answer['data']['resultType']}, where samples of series were asked for")
        found = {
            json.dumps(series["metric"], sort_keys=True): [
                (float(time), float(value)) for time, value in series.get("values", ())
            ]
            for series in answer["data"]["result"]
        }
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise Unknown(f"{query}: status {status}, and no answer of Prometheus: {content[:200]!r}") from error
    found = {name: series for name, series in found.items() if series}
    if not found:
        raise Unknown(f"{query}: no sample")
    if not all(math.isfinite(value) and value >= 0 for series in found.values() for _, value in series):
        raise Unknown(f"{query}: a sample that is no count")
    return found
