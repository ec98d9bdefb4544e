"""The circuit breaker: whether the server is still asked in this run, and for what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Doing = Literal["reading", "writing"]

LIMIT = 3
"""Failures in a row after which the server is left alone."""


@dataclass(frozen=True, slots=True)
class Off:
    """What the server is no longer asked for, and why."""

    what: str
    reason: str


class Breaker:
    """Counts failures in a row; what is off stays off until the run ends.

    Success in writing says nothing of reading, or the other way round: whoever lies may do one of them well.
    """

    def __init__(self) -> None:
        self.reads = self.writes = True
        self._failures = {"reading": 0, "writing": 0}
        self._news: list[Off] = []

    def worked(self, doing: Doing) -> None:
        self._failures[doing] = 0

    def failed(self, doing: Doing, reason: str) -> None:
        """The server did not answer, or not as it must."""
        self._failures[doing] += 1
        if sum(self._failures.values()) >= LIMIT:
            self.give_up(f"{LIMIT} failures in a row, the last one: {reason}")

    def give_up(self, reason: str) -> None:
        """Ask for nothing more."""
        if self.reads:
            self.reads = self.writes = False
            self._news.append(Off("reading and writing", reason))

    def stop_writing(self, reason: str) -> None:
        """Only read from now on."""
        if self.writes:
            self.writes = False
            self._news.append(Off("writing", reason))

    def news(self) -> list[Off]:
        """What went off since this was last asked."""
        news, self._news = self._news, []
        return news
