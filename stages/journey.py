"""A synthetic user's journey through a deployed service."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, ClassVar

from gates.probes import Probe, ProbeReport
from pipeline import Effect, Stage, Work
from pipeline.authorities import authorities
from stages.delivery.model import Served

if TYPE_CHECKING:
    import httpx

    Journey = Callable[[httpx.AsyncClient], AsyncIterator[str]]
    """An async generator: it does a step, asserts what must be true, and yields the step's name."""


class UserJourney(Stage[ProbeReport]):
    """Walks `journey` through the deployed service; each step it yields is a probe that passed.

    An exception (an assertion, an answer that does not come) is the failed probe of the step it happened in,
    and the journey ends there.
    """

    effect: ClassVar[Effect] = Effect.RETRYABLE

    deployment: Stage[Served]
    journey: Callable[[httpx.AsyncClient], AsyncIterator[str]]
    wait: float = 10.0
    """Seconds an answer may take."""

    async def run(self, work: Work) -> ProbeReport:
        import httpx

        url = work[self.deployment].address.url
        async with httpx.AsyncClient(base_url=url, timeout=self.wait, trust_env=False, verify=authorities(url)) as client:
            return ProbeReport(url=url, probes=tuple([probe async for probe in walk(self.journey(client))]))


async def walk(steps: AsyncIterator[str]) -> AsyncIterator[Probe]:
    """A probe for each step, and one for the exception that ended the journey."""
    last, started = "the first step", time.monotonic()
    while True:
        try:
            name = await anext(steps)
        except StopAsyncIteration:
            return
        except Exception as error:
            # whatever ends the journey is what the user would have met
            yield Probe(name=f"after {last}", passed=False, said=f"{type(error).__name__}: {error}", milliseconds=since(started))
            return
        yield Probe(name=name, passed=True, said="as expected", milliseconds=since(started))
        last, started = name, time.monotonic()


def since(started: float) -> float:
    """Milliseconds."""
    return round(1000 * (time.monotonic() - started), 3)
