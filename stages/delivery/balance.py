"""Which instance of those that serve a request goes to. Each release has its share whatever is said here."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline import WiringError
from stages.delivery.audience import Cookie, Key, Source


@dataclass(frozen=True)
class RoundRobin:
    """Each in its turn."""


@dataclass(frozen=True)
class LeastConnections:
    """Of two instances that are drawn by chance the one with fewer requests in flight, so that nobody queues at a slow one.

    Method: M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (2001).
    """


@dataclass(frozen=True)
class Hashing:
    """By a consistent hash of a cookie, a header or the address of the connection: equal keys, equal instance.

    When instances come or go, few keys move but those that have to. Requests without the key (or with an empty one) go to any
    instance.
    """

    key: Key = Source()  # noqa: RUF009 - frozen


@dataclass(frozen=True, kw_only=True)
class Sticky:
    """A user stays on an instance: by a consistent hash of a cookie that the router sets where there is none.

    It lasts so many seconds; 0: until the browser ends. It names no instance: who has it goes on elsewhere when the
    instance leaves, and nobody is held where the release has no share any more.
    """

    cookie: str = "lockgate"
    lasts: int = 0

    def __post_init__(self) -> None:
        Cookie(self.cookie)
        if self.lasts < 0:
            raise WiringError(f"Sticky.lasts is {self.lasts}", right="seconds, or 0: until the browser ends")


Balance = RoundRobin | LeastConnections | Hashing | Sticky
