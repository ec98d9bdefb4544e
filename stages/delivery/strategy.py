"""Strategies: from what runs now and what should run to a list of steps. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from stages.delivery.model import State
from stages.delivery.step import Drain, Split, Start, Step, Stop, WaitReady


class Strategy(Protocol):
    """Decides the steps of a rollout and of its way back."""

    def forward(self, now: State, green: str) -> tuple[Step, ...]:
        """From `now` to the group `green` serving."""
        ...

    def back(self, before: State, green: str) -> tuple[Step, ...]:
        """From any point of that rollout back to `before`."""
        ...


@dataclass(frozen=True)
class BlueGreen:
    """Start green beside blue, switch all traffic at once, drain blue and keep it warm for the way back.

    Groups older than blue are stopped after the switch. Seconds: `ready` for green to become ready,
    `drain` for requests in flight.
    """

    ready: float = 60.0
    drain: float = 30.0

    def forward(self, now: State, green: str) -> tuple[Step, ...]:
        blue = tuple(group for group in now.serving if group != green)
        kept = now.groups if green in now.serving else (*blue, green)  # green serves already: what is warm for it stays
        older = sorted(group for group in now.groups if group not in kept)
        return (
            Start(green),
            WaitReady(green, self.ready),
            Split(((green, 100),)),
            *(Drain(group, self.drain) for group in (*blue, *older)),
            *(Stop(group) for group in older),
        )

    def back(self, before: State, green: str) -> tuple[Step, ...]:
        shares = tuple(sorted((group, share) for group, share in before.weights.items() if share > 0))
        drained = () if before.weights.get(green) else (Drain(green, self.drain),)
        gone = () if green in before.groups else (Stop(green),)
        return (Split(shares), *drained, *gone)
