"""Counters that are asked again and again, and what groups did between two looks at them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import anyio

from gates.window import Share
from stages.delivery.probing import beginning

if TYPE_CHECKING:
    import httpx


class Unknown(Exception):
    """Why a source cannot tell. It is said, and never taken for nothing."""


@dataclass(frozen=True)
class Reading:
    """What a group did since a moment that stays the same: `part` of `of`. Both only grow, until the counter is begun anew.

    `at` is when it was counted, on the source's own clock, in seconds: a reading whose `at` did not move is the one before.
    """

    part: int
    of: int
    at: float


Ask = Callable[[Collection[str]], Awaitable[Mapping[str, Reading]]]
"""One reading of each group, of one moment. Raises Unknown where one of them cannot be had."""


@dataclass
class Ledger:
    """A fold over readings. What it told at the last look is subtracted at the next.

    Sources count different groups at different moments (a scrape every 15 seconds, not for all at once). What one side did is
    told together with what the other did, once both have been counted anew; else neither could be compared with anything.
    """

    sides: tuple[frozenset[str], ...]
    known: bool = False
    _told: dict[str, Reading] = field(default_factory=dict)
    _now: dict[str, Reading] = field(default_factory=dict)

    @property
    def groups(self) -> frozenset[str]:
        return frozenset().union(*self.sides)

    def see(self, readings: Mapping[str, Reading]) -> None:
        """Take readings of all groups. Raises Unknown, and begins anew, when a counter went down."""
        self.known = False
        went = [group for group in sorted(self.groups) if _began_anew(self._now.get(group), readings[group])]
        if went or not self._now:
            self._told = dict(readings)
        self._now = dict(readings)
        if went:
            raise Unknown(f"the counters of {', '.join(went)} went down: what they counted before is not known")
        self.known = True

    def miss(self) -> None:
        """The counters could not be read: nothing is known until they can be. What they count meanwhile is not lost."""
        self.known = False

    def shares(self) -> list[Share | None]:
        if not self.known:
            return [None] * len(self.sides)
        if not all(self._now[group].at > self._told[group].at for group in self.groups):
            return [Share(part=0, of=0)] * len(self.sides)
        return [_added([self._tell(group) for group in side]) for side in self.sides]

    def _tell(self, group: str) -> Share:
        """What a group did. Of parts without their whole (an order of before that failed now) the rest is told later."""
        told, now = self._told[group], self._now[group]
        of = now.of - told.of
        part = min(now.part - told.part, of)
        self._told[group] = replace(now, part=told.part + part)
        return Share(part=part, of=of)


def _began_anew(before: Reading | None, now: Reading) -> bool:
    return before is not None and (now.part < before.part or now.of < before.of)


def _added(shares: Collection[Share]) -> Share:
    return Share(part=sum(one.part for one in shares), of=sum(one.of for one in shares))


class Pace(Protocol):
    """How often a source is asked."""

    @property
    def name(self) -> str: ...
    @property
    def every(self) -> float:
        """Seconds from one answer to the next question."""
        ...

    @property
    def timeout(self) -> float:
        """Seconds after which no answer is waited for."""
        ...


P = TypeVar("P", bound=Pace)


@dataclass(frozen=True)
class Polled(ABC, Generic[P]):
    """A source that is asked again and again while a rollout is weighed."""

    config: P
    say: Callable[[str], None]

    @property
    def name(self) -> str:
        return self.config.name

    @abstractmethod
    def asking(self, sides: Sequence[Collection[str]]) -> AbstractAsyncContextManager[Ask]:
        """How the groups of the sides can be asked about, as long as the body runs."""

    @asynccontextmanager
    async def watch(self, *sides: Collection[str]) -> AsyncIterator[Ledger]:
        async with self.asking(sides) as ask, polling(self.config, ask, sides, self.say) as ledger:
            yield ledger


LARGEST = 1 << 24
"""Bytes of an answer that are waited for."""


async def answered(url: str, request: AbstractAsyncContextManager[httpx.Response]) -> tuple[int, bytes]:
    """What `url` answers: status and body. Raises Unknown where it does not, or has no end."""
    import httpx

    try:
        async with request as answer:
            body = await beginning(answer.aiter_bytes(), LARGEST)
    except httpx.HTTPError as error:
        raise Unknown(f"{url} does not answer: {type(error).__name__} {error}".strip()) from error
    if len(body) > LARGEST:
        raise Unknown(f"{url} answers with more than {LARGEST:,} bytes")
    return answer.status_code, body


@asynccontextmanager
async def polling(pace: Pace, ask: Ask, sides: Collection[Collection[str]], say: Callable[[str], None]) -> AsyncIterator[Ledger]:
    """Ask again and again; who does not answer in time tells nothing. Why nothing is known is said when it changes."""
    ledger = Ledger(tuple(map(frozenset, sides)))
    reason = ""

    async def poll() -> None:
        nonlocal reason
        now = ""
        try:
            with anyio.fail_after(pace.timeout):
                readings = await ask(ledger.groups)
            ledger.see(readings)
        except TimeoutError:
            now = f"no answer within {pace.timeout:g} s"
            ledger.miss()
        except Unknown as error:
            now = str(error)
            ledger.miss()
        if now != reason:
            say(f"{pace.name}: {now or 'known again'}")
        reason = now

    async def again() -> None:
        while True:
            await anyio.sleep(pace.every)
            await poll()

    await poll()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(again)
        yield ledger
        tasks.cancel_scope.cancel()
