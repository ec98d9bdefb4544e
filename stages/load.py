"""Load: what Locust measures when its users ask a service."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping

from gates.latency import LoadReport
from pipeline import Action, Resources, Service, Stage, StageFailed, Tree, Work
from stages.acceptance import url
from stages.environment import Tool
from stages.versions import version

STATS, FAILURES, EXCEPTIONS = "load_stats.csv", "load_failures.csv", "load_exceptions.csv"


class LocustTool(Tool):
    """Locust, in the version Lockgate ships a lock for."""

    name: str = "locust"


class LoadTest(Stage[LoadReport]):
    """Locust without a page: `users` of `locustfile` ask `service` for `seconds`; percentiles are Locust's own.

    `environment` holds Locust and what the locustfile imports, `paths` are directories of the source on
    PYTHONPATH. `services` (a database) are up before `service` and it finds them at NAME_HOST and NAME_PORT.

    How fast users ask is said in the locustfile (`wait_time = constant_throughput(2)`). `rate` is what that should
    come to, in requests a second; the locustfile finds it in LOAD_RATE beside LOAD_USERS, and rules hold the rate
    reached against it. Failed requests are evidence, counted by kind, and so is each exception that a task raised;
    a locustfile that cannot be loaded, and a service that is not ready, fail the stage.
    """

    source: Stage[Tree]
    service: Stage[Service]
    environment: Stage[Tree] = LocustTool()
    locustfile: str = "tests/load/locustfile.py"
    paths: tuple[str, ...] = ("src",)
    users: int = 10
    spawn_rate: float = 10.0
    """Users started a second."""
    rate: float = 0.0
    seconds: float = 30.0
    services: tuple[Stage[Service], ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    args: tuple[str, ...] = ()
    resources: Resources = Resources(locks=("load",))

    async def run(self, work: Work) -> LoadReport:
        environment = work[self.environment]
        service = work[self.service]
        action = load_action(
            work[self.source],
            environment,
            self.command(service),
            paths=self.paths,
            env={"LOAD_RATE": f"{self.rate:g}", "LOAD_USERS": str(self.users), **dict(self.env)},
            services=(*(work[before] for before in self.services), service),
        )
        result = (await work.execute(action)).require()
        stats, failures, exceptions = (
            result.output(path).read().decode(errors="replace") for path in (STATS, FAILURES, EXCEPTIONS)
        )
        tool = version(work.store, environment, "locust")
        try:
            return from_csv(tool, stats, failures, exceptions, seconds=self.seconds, rate=self.rate)
        except ValueError as error:
            raise StageFailed(f"locust's figures cannot be read: {error}", right="its CSV files") from error

    def command(self, service: Service) -> tuple[str, ...]:
        """What Locust is told."""
        return (
            f"--locustfile={self.locustfile}",
            f"--host={url(service)}",
            f"--users={self.users}",
            f"--spawn-rate={self.spawn_rate:g}",
            f"--run-time={max(1, round(self.seconds))}s",
            *self.args,
        )


class PerformanceTest(LoadTest):
    """The same at low load: how long an answer takes when nobody else asks."""

    users: int = 1
    spawn_rate: float = 1.0
    seconds: float = 15.0


def load_action(
    source: Tree,
    environment: Tree,
    command: tuple[str, ...],
    *,
    paths: tuple[str, ...],
    env: Mapping[str, str],
    services: tuple[Service, ...],
) -> Action:
    return Action(
        argv=(
            "python", "-m", "locust", "--headless", "--only-summary", "--csv={root}/load", "--exit-code-on-error=0",
            "--stop-timeout=10", *command,
        ),
        inputs={"src": source},
        tools={"site": environment},
        env={"PYTHONPATH": ":".join([*(f"{{root}}/src/{path}" for path in paths), "{root}/site"]), **env},
        cwd="src",
        outputs=(STATS, FAILURES, EXCEPTIONS),
        services=services,
    )  # fmt: skip


def from_csv(tool: str, stats: str, failures: str, exceptions: str, *, seconds: float, rate: float) -> LoadReport:
    """The figures of all requests; an exception of a task counts as one that failed. Raises ValueError where there are none."""
    rows = list(_rows(stats, "Request Count"))
    total = next((row for row in reversed(rows) if row["Name"] == "Aggregated"), None)
    if total is None:
        raise ValueError("there is no line `Aggregated`")
    broken = {f"exception: {row['Message']}": int(row["Count"]) for row in _rows(exceptions, "Count")}
    refused = {
        f"{row['Method']} {row['Name']}: {row['Error']}": int(row["Occurrences"]) for row in _rows(failures, "Occurrences")
    }
    if sum(refused.values()) != int(total["Failure Count"]):
        raise ValueError(f"{total['Failure Count']} requests failed, and {sum(refused.values())} are told by kind")
    more = sum(broken.values())
    return LoadReport(
        tool=tool,
        seconds=seconds,
        requests=int(total["Request Count"]) + more,
        failed=int(total["Failure Count"]) + more,
        wanted_rate=rate,
        p50=_milliseconds(total["50%"]),
        p90=_milliseconds(total["90%"]),
        p95=_milliseconds(total["95%"]),
        p99=_milliseconds(total["99%"]),
        longest=_milliseconds(total["100%"]),
        errors=tuple(f"{count} x {what}" for what, count in sorted({**broken, **refused}.items())),
    )


def _rows(text: str, needed: str) -> Iterator[dict[str, str]]:
    reader = csv.DictReader(io.StringIO(text))
    if needed not in (reader.fieldnames or ()):
        raise ValueError(f"there is no column {needed!r}")
    for row in reader:
        if None in row or None in row.values():
            raise ValueError(f"a line is cut: {list(row.values())}")
        yield row


def _milliseconds(text: str) -> float:
    """A time; 0 where Locust has none, because nothing was asked."""
    return 0.0 if text == "N/A" else float(text)
