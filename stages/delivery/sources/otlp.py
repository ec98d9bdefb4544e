"""OpenTelemetry as a source of metrics: counters that the instances export themselves.

While a rollout is weighed there is a receiver for OTLP over HTTP, which knows from the resource of what it gets of which group
it is (`release.group`). Protocol: OpenTelemetry Protocol 1.x, "OTLP/HTTP", and the metrics data model: sums that only grow,
cumulative or delta, told apart by resource, attributes and the time at which they were begun.
"""

from __future__ import annotations

import gzip
import http.server
import io
import math
import threading
import time
import zlib
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from pipeline import StageFailed, WiringError, Work
from stages.delivery.sources.body import BadBody, body
from stages.delivery.sources.listener import Listener
from stages.delivery.sources.polled import Ask, Polled, Reading, Unknown

if TYPE_CHECKING:
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
    from opentelemetry.proto.common.v1.common_pb2 import KeyValue
    from opentelemetry.proto.metrics.v1.metrics_pb2 import NumberDataPoint, ResourceMetrics, Sum

ATTRIBUTE = "release.group"
"""The resource attribute in which an instance exports the name of its group."""

LARGEST = 8 << 20
"""Bytes of one export, also when it was compressed."""

NOTHING_RECORDED = 1
"""The flag of a point that has no value (DataPointFlags)."""


@dataclass(frozen=True, kw_only=True)
class Points:
    """Data points of the counter `metric` that have all of these attributes, added up."""

    metric: str
    attributes: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return ", ".join([self.metric, *(f"{name}={value}" for name, value in self.attributes)])


@dataclass(frozen=True, kw_only=True)
class OpenTelemetry:
    """A receiver for OTLP over HTTP on `host`:`port`, while a rollout is weighed: of `of`, how many were `bad`.

    Instances export to it when they have `OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=http://127.0.0.1:PORT/v1/metrics`, as protobuf or
    JSON. Nothing is known of a group that exported nothing for `stale` seconds (longer than two export intervals), or one of
    whose counters is not there: add 0 to it when the service starts.
    """

    name: str
    port: int
    of: Points
    bad: Points
    host: str = "127.0.0.1"
    stale: float = 60.0
    every: float = 0.5
    """Seconds from one look at what was received to the next."""
    timeout: float = 5.0

    def __post_init__(self) -> None:
        if self.of == self.bad:
            where = f"OpenTelemetry(name={self.name!r})"
            raise WiringError(f"{where}: all of {self.of} are bad", where=where, right="`bad` that is a part of `of`")

    def open(self, work: Work) -> OtlpMetrics:
        return OtlpMetrics(self, work.say)


class OtlpMetrics(Polled[OpenTelemetry]):
    """A receiver that listens while a rollout is weighed."""

    @asynccontextmanager
    async def asking(self, sides: Sequence[Collection[str]]) -> AsyncIterator[Ask]:
        received = Received(self.config, begun=time.time_ns())

        async def read(groups: Collection[str]) -> Mapping[str, Reading]:
            return {group: received.reading(group, time.monotonic()) for group in groups}

        with listening(self.config, received):
            yield read


class Series(NamedTuple):
    """What a counter is known by: another start is another counter, as of an instance that was started again."""

    resource: str
    attributes: tuple[tuple[str, str], ...]
    began: int


@dataclass
class Counter:
    """What one selection of points of one group has counted since the watch began."""

    counted: float = 0.0
    there: bool = False
    broken: bool = False
    """Whether its last value was no count."""
    _last: dict[Series, tuple[int, float]] = field(default_factory=dict)

    def add(self, series: Series, at: int, value: float, *, delta: bool, fresh: bool) -> None:
        """Take a point. Of a cumulative counter that was not seen before all counts where it is `fresh`: it was 0 before."""
        self.there = True
        last = self._last.get(series)
        if last is not None and at <= last[0]:  # sent again, or late
            return
        self.broken = not math.isfinite(value) or value < 0
        if self.broken:
            return
        if delta:
            self.counted += value
        elif last is not None:
            self.counted += value - last[1] if value >= last[1] else value
        elif fresh:
            self.counted += value
        self._last[series] = (at, value)


@dataclass
class Received:
    """All that was received of groups. Written by the threads of the receiver, read by the watch."""

    config: OpenTelemetry
    begun: int
    """When the watch began, in nanoseconds since the epoch."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _counters: dict[tuple[str, Points], Counter] = field(default_factory=dict)
    _heard: dict[str, float] = field(default_factory=dict)
    """When a group last exported anything."""
    _known: set[tuple[str, int]] = field(default_factory=set)
    """Processes that exported before: a resource, and the time at which its counters were begun."""

    def take(self, request: ExportMetricsServiceRequest, now: float) -> None:
        """Count what was exported."""
        with self._lock:
            for resource in request.resource_metrics:
                about = attributes_of(resource.resource.attributes)
                group, name = about.get(ATTRIBUTE, ""), repr(sorted(about.items()))
                if not group:
                    continue
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        if metric.HasField("sum") and metric.sum.is_monotonic:
                            self._sum(group, name, metric.name, metric.sum)
                self._heard[group] = now
                self._known |= {(name, began) for began in _begun(resource)}

    def _sum(self, group: str, resource: str, metric: str, found: Sum) -> None:
        for selected in {self.config.of, self.config.bad}:
            if selected.metric != metric:
                continue
            counter = self._counters.setdefault((group, selected), Counter())
            for point in found.data_points:
                attributes = attributes_of(point.attributes)
                if point.flags & NOTHING_RECORDED or not attributes.items() >= dict(selected.attributes).items():
                    continue
                began = point.start_time_unix_nano
                series = Series(resource, tuple(sorted(attributes.items())), began if found.aggregation_temporality == 2 else 0)
                fresh = began >= self.begun or (resource, began) in self._known
                delta = found.aggregation_temporality == 1
                counter.add(series, point.time_unix_nano, _value(point), delta=delta, fresh=fresh)

    def reading(self, group: str, now: float) -> Reading:
        """Raises Unknown where one of the counters is not there, is no count, or nothing was exported lately."""
        with self._lock:
            heard = self._heard.get(group)
            if heard is None or now - heard > self.config.stale:
                raise Unknown(f"{group} exported nothing" + (f" for {now - heard:.0f} s" if heard is not None else " yet"))
            found = []
            for selected in (self.config.bad, self.config.of):
                counter = self._counters.get((group, selected))
                if counter is None or not counter.there:
                    raise Unknown(f"{group} exports no counter {selected}")
                if counter.broken:
                    raise Unknown(f"{group}: {selected} is no count")
                found.append(math.floor(counter.counted + 1e-6))
            return Reading(part=found[0], of=found[1], at=heard)


def _begun(resource: ResourceMetrics) -> Iterator[int]:
    """When the counters of a process were begun."""
    for scope in resource.scope_metrics:
        for metric in scope.metrics:
            yield from (point.start_time_unix_nano for point in metric.sum.data_points)


def attributes_of(found: Collection[KeyValue]) -> dict[str, str]:
    """Attributes by name, their values as texts."""
    return {one.key: _text(one.value) for one in found}


def _text(value: Any) -> str:
    kind = value.WhichOneof("value")
    return str(getattr(value, kind)) if kind else ""


def _value(point: NumberDataPoint) -> float:
    return float(point.as_int) if point.WhichOneof("value") == "as_int" else point.as_double


def parsed(content: bytes, kind: str, encoding: str) -> ExportMetricsServiceRequest:
    """An export request. Raises ValueError for anything else."""
    from google.protobuf.json_format import Parse, ParseError
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    if encoding == "gzip":
        try:
            content = gzip.GzipFile(fileobj=io.BytesIO(content)).read(LARGEST + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"it is no gzip: {error}") from error
        if len(content) > LARGEST:
            raise ValueError(f"it is larger than {LARGEST} bytes")
    elif encoding not in ("", "identity"):
        raise ValueError(f"Content-Encoding is {encoding}, not gzip")
    try:
        if kind == "application/json":
            return Parse(content, ExportMetricsServiceRequest(), ignore_unknown_fields=True)
        return ExportMetricsServiceRequest.FromString(content)
    except (ParseError, DecodeError) as error:
        raise ValueError(f"it is no export of metrics: {error}") from error


@contextmanager
def listening(config: OpenTelemetry, received: Received) -> Iterator[None]:
    """A receiver in threads of its own. Raises StageFailed where it cannot listen."""
    try:
        server = _Server((config.host, config.port), received)
    except OSError as error:
        raise StageFailed(
            f"nothing can be received on {config.host}:{config.port}: {error.strerror or error}",
            where=f"OpenTelemetry(name={config.name!r}).port",
            right="an address of this machine, and a port that nobody else listens on",
        ) from error
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name=f"otlp {config.name}")
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(Listener):
    def __init__(self, address: tuple[str, int], received: Received) -> None:
        super().__init__(address, _Handler)
        self.received = received


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 10

    def do_POST(self) -> None:
        kind = self.headers.get_content_type()
        if self.path != "/v1/metrics":
            return self._answer(404)
        if kind not in ("application/json", "application/x-protobuf"):
            return self._answer(415)
        try:
            content = body(self.headers, self.rfile, LARGEST)
            request = parsed(content, kind, self.headers.get("Content-Encoding", ""))
        except BadBody as error:
            return self._answer(error.status)
        except ValueError:
            return self._answer(400)
        cast("_Server", self.server).received.take(request, time.monotonic())
        return self._answer(200, kind, b"{}" if kind == "application/json" else b"")

    def _answer(self, status: int, kind: str = "text/plain", content: bytes = b"") -> None:
        if status != 200:
            self.close_connection = True  # its body may be unread
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Exports are not logged."""
