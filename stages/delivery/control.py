"""What operators say of a rollout while it goes on: pause, go on, abort."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol

import anyio

from pipeline.errors import JournalError
from pipeline.order import Order

LOOKS = 0.25
"""Seconds from one look at the journal to the next."""


class Orders(Protocol):
    """Gives the orders since the event of a number, the oldest first."""

    def __call__(self, *, after: int) -> list[Order]: ...


def nobody(*, after: int) -> list[Order]:
    """For a rollout that nobody can give orders to."""
    return []


async def heeding(
    work: Callable[[], Awaitable[None]], *watches: Callable[[anyio.CancelScope], Coroutine[Any, Any, None]]
) -> bool:
    """Whether the work came to its end before one of those that watch it cancelled it. Raises what the work raises."""
    failed: Exception | None = None
    finished = False
    async with anyio.create_task_group() as tasks:
        for watch in watches:
            tasks.start_soon(watch, tasks.cancel_scope)
        try:
            await work()
            finished = True
        except Exception as error:
            failed = error  # as it is, not as one of a group
        tasks.cancel_scope.cancel()
    if failed is not None:
        raise failed
    return finished


@dataclass(kw_only=True)
class Control:
    """The orders that a rollout has had so far.

    A promotion is of one step, the one that its operator saw: given twice, it is the same. `longest` is how many seconds
    a pause may last; then the rollout goes back. `say` tells those who watch the run.
    """

    orders: Orders = nobody
    say: Callable[[str], None] = lambda _text: None
    longest: float = 14_400.0
    paused: Order | None = None
    aborted: Order | None = None
    _promoted: dict[int, Order] = field(default_factory=dict)
    _all: Order | None = None
    _seen: int = 0

    def begin(self) -> None:
        """What was said before this rollout is not about it."""
        self._seen = max((order.seq for order in self.orders(after=0)), default=0)

    def look(self) -> None:
        """Take new orders into account. Where the journal does not answer there are none; whoever writes to it next says so."""
        with contextlib.suppress(JournalError):
            for order in self.orders(after=self._seen):
                self._seen = order.seq
                self._take(order)

    def promoted(self, number: int) -> Order | None:
        """Who said to go on with the change after which so many, itself among them, are still to come."""
        return self._all or self._promoted.get(number)

    async def watch(self, working: anyio.CancelScope) -> None:
        """Look again and again; end the work when somebody says so."""
        while self.aborted is None:
            self.look()
            await anyio.sleep(LOOKS)
        working.cancel()

    def _take(self, order: Order) -> None:
        match order.verb:
            case "pause":
                self.paused = None if order.end else order
            case "promote" if order.of == "all":
                self._all, self.paused = order, None
            case "promote":
                self._promoted[order.number] = order
                self.paused = None
            case "abort":
                self.aborted = order
