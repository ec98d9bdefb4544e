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


@dataclass(frozen=True, slots=True)
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
            *(Drain(group, self.drain) for group in blue),
            *(Stop(group) for group in older),
        )

    def back(self, before: State, green: str) -> tuple[Step, ...]:
        shares = tuple(sorted((group, share) for group, share in before.weights.items() if share > 0))
        if green in before.weights and before.weights[green] > 0:
            return self._back_to_the_one_before(before, green)
        gone: tuple[Step, ...] = () if green in before.groups else (Stop(green),)
        return (Split(shares), Drain(green, self.drain), *gone)

    def _back_to_the_one_before(self, before: State, green: str) -> tuple[Step, ...]:
        """The release was serving already: its way back is the group kept warm, if there is one."""
        warm = sorted(group for group in before.groups if group != green)
        return (WaitReady(warm[0], self.ready), Split(((warm[0], 100),)), Drain(green, self.drain)) if warm else ()
