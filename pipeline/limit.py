"""Limits of time for what stages do."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable
from types import TracebackType
from typing import Self, TypeVar

import anyio

from pipeline.errors import StageTimeout

T = TypeVar("T")


async def within(seconds: float, what: str, doing: Awaitable[T]) -> T:
    """What `doing` gives, which is cancelled after that many seconds. Raises StageTimeout, which says `what` took longer."""
    with anyio.CancelScope(deadline=anyio.current_time() + seconds):
        return await doing
    raise _late(seconds, what)


class Limit:
    """A limit of time for one thing after another in one task, with one scope for all that keep to it.

    To enter a scope with a timer for each thing costs a tenth of what a stage costs. Somebody calls `arm` now and then: what is
    done before it is called has no limit, unless that is `at_once`.
    """

    def __init__(self, *, at_once: bool = False) -> None:
        self._at_once = at_once
        self._due = math.inf
        self._scope = anyio.CancelScope()

    def __enter__(self) -> Self:
        self._scope.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool | None:
        return self._scope.__exit__(kind, error, trace)

    def arm(self) -> None:
        """From now on what goes on is cut off when it is due."""
        if self._due < math.inf and self._scope.deadline == math.inf:
            self._scope.deadline = anyio.current_time() + self._due - time.monotonic()

    async def within(self, seconds: float, what: str, doing: Awaitable[T]) -> T:
        """As `within`, once it is armed."""
        self._due = time.monotonic() + seconds
        if self._at_once:
            self.arm()
        try:
            found = await doing
        except BaseException as error:
            if self._end(error):
                raise _late(seconds, what) from None
            raise
        self._end(None)
        return found

    def _end(self, error: BaseException | None) -> bool:
        """Nothing goes on; whether the error is no other than that it was cut off. A scope serves until it cut something off."""
        self._due = math.inf
        if not self._scope.cancel_called:
            if self._scope.deadline != math.inf:
                self._scope.deadline = math.inf
            return False
        try:
            return bool(self._scope.__exit__(type(error) if error else None, error, error.__traceback__ if error else None))
        finally:  # also where it raises what is left of several errors
            self._scope = anyio.CancelScope()
            self._scope.__enter__()


def _late(seconds: float, what: str) -> StageTimeout:
    return StageTimeout(f"{what} took longer than {seconds:g} s", right="a larger timeout=, or less work")
