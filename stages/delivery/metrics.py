"""The seam to what tells more of a release than its router does: orders given up, log lines, complaints of users."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from gates.judge import Business, Judge
from gates.window import Share, Window
from pipeline import WiringError, Work
from stages.delivery.router import Watch

GROUP = "RELEASE_GROUP"
"""The variable in which an instance finds the name of its group: by it, what it tells of itself is told from what others do."""

PLACEHOLDER = "{group}"
"""What stands for the name of a group in a query."""


class Counted(Protocol):
    """What a source has seen, from one look to the next."""

    def shares(self) -> list[Share | None]:
        """How many of how many, for each side, since the last look; None where that is not known, which is never nothing."""
        ...


class Metrics(Protocol):
    """A source that counts what should not happen. It is asked about groups, and answers about sides."""

    @property
    def name(self) -> str:
        """What the share is called: what `Business(of=...)` weighs."""
        ...

    def watch(self, *sides: Collection[str]) -> AbstractAsyncContextManager[Counted]:
        """See what the groups of each side do from now on. A source that does not answer is no error: nothing is known."""
        ...


class OpensMetrics(Protocol):
    """Configuration of a source, opened when a stage runs."""

    @property
    def name(self) -> str: ...

    def open(self, work: Work) -> Metrics: ...


@dataclass(frozen=True)
class Measured:
    """A watch over the router whose windows also have what sources of metrics say."""

    router: Watch
    sides: tuple[frozenset[str], ...]
    sources: Mapping[str, Counted]

    def windows(self, *sides: Collection[str]) -> list[Window | None]:
        said = {name: dict(zip(self.sides, source.shares(), strict=True)) for name, source in self.sources.items()}
        found = self.router.windows(*sides)
        return [
            merged(window, {name: shares.get(frozenset(side)) for name, shares in said.items()})
            for window, side in zip(found, sides, strict=True)
        ]


@asynccontextmanager
async def measured(
    router: AbstractAsyncContextManager[Watch], metrics: Sequence[Metrics], *sides: Collection[str]
) -> AsyncIterator[Watch]:
    """The router's watch with what `metrics` say of the same sides; the sources are asked by themselves, and delay no look."""
    async with AsyncExitStack() as stack:
        watch = await stack.enter_async_context(router)
        sources = {one.name: await stack.enter_async_context(one.watch(*sides)) for one in metrics}
        yield Measured(watch, tuple(map(frozenset, sides)), sources)


def merged(window: Window | None, shares: Mapping[str, Share | None]) -> Window | None:
    """A window with shares in it. One that is not known is left out, and so unknown to the judge. Pure."""
    if window is None:
        return None
    known = {name: share for name, share in shares.items() if share is not None}
    return window.model_copy(update={"business": {**window.business, **known}})


def need_group(where: str, query: str) -> None:
    """Raises WiringError for a query that asks about all releases at once: both sides would always look the same."""
    if PLACEHOLDER not in query:
        raise WiringError(
            f"{where} asks about all releases at once: {query}",
            where=where,
            right=f"a query with {PLACEHOLDER} in it, the name that each instance has in its variable {GROUP}",
        )


def need_sources(where: str, judge: Judge | None, metrics: Sequence[OpensMetrics]) -> None:
    """Raises WiringError where two sources have one name, or a judge weighs what nobody counts."""
    names = [one.name for one in metrics]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise WiringError(f"{where}: several sources count {', '.join(map(repr, twice))}", right="a name of its own for each")
    weighed = [measure.of for measure in judge.measures if isinstance(measure, Business)] if judge is not None else []
    for name in weighed:
        if name not in names:
            raise WiringError(
                f"{where}: the judge weighs {name!r}, and no source counts it: it would be unknown forever",
                right=f"a source with name={name!r} in Deploy.metrics" + (f"; there are {', '.join(names)}" if names else ""),
            )
