"""Looks at a source until what a test waits for is seen."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from gates.window import Share
from stages.delivery.metrics import Counted


class Seen:
    """What was counted of each side since the watch began, and what the last look told."""

    def __init__(self, counted: Counted, sides: int = 2) -> None:
        self.counted = counted
        self.sums = [(0, 0)] * sides
        self.last: list[Share | None] = []

    def look(self) -> None:
        self.last = self.counted.shares()
        self.sums = [
            (part + share.part, of + share.of) if share is not None else (part, of)
            for (part, of), share in zip(self.sums, self.last, strict=True)
        ]

    async def until(self, wanted: Callable[[], bool]) -> None:
        with anyio.fail_after(20):
            self.look()
            while not wanted():
                await anyio.sleep(0.02)
                self.look()

    async def reach(self, *sums: tuple[int, int]) -> None:
        """Look until so much was counted; never more."""
        await self.until(lambda: all(now[1] >= want[1] for now, want in zip(self.sums, sums, strict=True)))
        assert self.sums == list(sums)

    async def unknown(self) -> None:
        await self.until(lambda: self.last == [None] * len(self.sums))

    async def known(self) -> None:
        await self.until(lambda: None not in self.last)
