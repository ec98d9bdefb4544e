"""Visitors: requests of our own beside those of users, where these are too few to tell anything in time."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from pipeline import WiringError
from pipeline.authorities import authorities
from pipeline.numbers import need_numbers
from stages.delivery.probing import beginning

if TYPE_CHECKING:
    import httpx

PATIENCE = 30.0
"""Seconds that a visitor waits for all of an answer."""

MOST = 1 << 24
"""Bytes of an answer that are waited for."""

AT_ONCE = 64
"""Requests that are waited for at a time; a service that answers none holds up no more."""


@dataclass(frozen=True, kw_only=True)
class Visitors:
    """GETs `paths` in turn, `rate` times a second, through the router, as long as a release is judged.

    They are counted like everybody's: what they ask is all they tell of.
    """

    paths: tuple[str, ...]
    rate: float = 50.0

    def __post_init__(self) -> None:
        need_numbers(self)
        if not self.paths or not self.rate > 0:
            raise WiringError(
                f"Visitors: paths are {self.paths}, rate is {self.rate:g}", right="one path or more, and a rate above 0"
            )


@asynccontextmanager
async def visiting(visitors: Visitors | None, url: str) -> AsyncIterator[None]:
    """They come while the body runs; what is answered to them is the judge's to see, by the router."""
    if visitors is None:
        yield
        return
    import httpx

    limits = httpx.Limits(max_connections=AT_ONCE)
    failed: Exception | None = None
    async with (
        httpx.AsyncClient(base_url=url, timeout=PATIENCE, limits=limits, trust_env=False, verify=authorities(url)) as client,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(_come, visitors, client)
        try:
            yield
        except Exception as error:
            failed = error  # as it is, not as one of a group
        tasks.cancel_scope.cancel()
    if failed is not None:
        raise failed


async def _come(visitors: Visitors, client: httpx.AsyncClient) -> None:
    """Each at its time, whether those before were answered or not."""
    places, begun = anyio.CapacityLimiter(AT_ONCE), anyio.current_time()
    async with anyio.create_task_group() as tasks:
        for number, path in enumerate(itertools.cycle(visitors.paths)):
            await anyio.sleep_until(begun + number / visitors.rate)
            tasks.start_soon(_ask, client, path, places)


async def _ask(client: httpx.AsyncClient, path: str, places: anyio.CapacityLimiter) -> None:
    import httpx

    if places.available_tokens < 1:
        return  # a service that answers nobody is not asked more
    async with places:
        with contextlib.suppress(httpx.HTTPError), anyio.move_on_after(PATIENCE):
            async with client.stream("GET", path) as answer:
                await beginning(answer.aiter_bytes(), MOST)
