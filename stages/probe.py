"""Latency and errors of a deployed service under a small steady load."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, ClassVar

import anyio

from gates.latency import LoadReport
from pipeline import Effect, Stage, Work
from pipeline.authorities import authorities
from stages.delivery.model import Served

if TYPE_CHECKING:
    import httpx


class WatchService(Stage[LoadReport]):
    """Sends GETs for `paths` in turn, `rate` a second for `seconds`, through the router; what users would have met.

    The times of sending are fixed beforehand, so that a slow answer delays no other request and its wait
    is counted in full (no coordinated omission). An answer with a status of 200 to 299 is a success, any other an
    error: a redirect is not followed, so name the path it leads to.
    """

    effect: ClassVar[Effect] = Effect.RETRYABLE

    deployment: Stage[Served]
    paths: tuple[str, ...] = ("/",)
    rate: float = 20.0
    seconds: float = 5.0
    wait: float = 10.0
    """Seconds an answer may take."""

    async def run(self, work: Work) -> LoadReport:
        import httpx

        answers: list[float] = []
        errors: Counter[str] = Counter()
        url = work[self.deployment].address.url
        began = anyio.current_time()
        async with (
            httpx.AsyncClient(base_url=url, timeout=self.wait, trust_env=False, verify=authorities(url)) as client,
            anyio.create_task_group() as group,
        ):
            for number in range(max(1, math.ceil(self.rate * self.seconds))):
                due = began + number / self.rate
                group.start_soon(self._one, client, self.paths[number % len(self.paths)], due, answers, errors)
        return report(answers, errors, rate=self.rate, seconds=anyio.current_time() - began)

    async def _one(self, client: httpx.AsyncClient, path: str, due: float, answers: list[float], errors: Counter[str]) -> None:
        import httpx

        await anyio.sleep_until(due)
        try:
            answer = await client.get(path)
        except httpx.HTTPError as error:
            errors[f"{path}: {type(error).__name__}"] += 1
            return
        if not answer.is_success:
            errors[f"{path}: status {answer.status_code}"] += 1
        else:
            answers.append(1000 * (anyio.current_time() - due))


def report(answers: list[float], errors: Counter[str], *, rate: float, seconds: float) -> LoadReport:
    """The figures; times in milliseconds."""
    failed = errors.total()
    return LoadReport(
        tool="lockgate watch",
        seconds=seconds,
        requests=len(answers) + failed,
        failed=failed,
        wanted_rate=rate,
        p50=quantile(answers, 0.50),
        p90=quantile(answers, 0.90),
        p95=quantile(answers, 0.95),
        p99=quantile(answers, 0.99),
        longest=max(answers, default=0.0),
        errors=tuple(f"{count} x {what}" for what, count in sorted(errors.items())),
    )


def quantile(values: list[float], part: float) -> float:
    """The nearest-rank quantile: the smallest value that at least `part` of all are not above; 0 of none.

    >>> quantile([4.0, 1.0, 3.0, 2.0], 0.5), quantile([1.0], 0.99), quantile([], 0.5)
    (2.0, 1.0, 0.0)
    """
    if not values:
        return 0.0
    return sorted(values)[max(0, math.ceil(part * len(values)) - 1)]
