"""Shadow: green gets copies of what users ask before it gets any user."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from gates.judge import Business, ErrorRate, Judge, SlowAnswers
from pipeline import WiringError, Work
from pipeline.numbers import need_numbers
from stages.delivery.comparer import DIFFER
from stages.delivery.entrance import Entrance
from stages.delivery.model import State, in_shadow
from stages.delivery.probe import Ready
from stages.delivery.router import Mirrors
from stages.delivery.step import Compare, Drain, Start, Step, Stop, WaitReady
from stages.delivery.strategy import Canary, Strategy
from stages.delivery.visitors import Visitors

COMPARED = (ErrorRate(), SlowAnswers(), Business(of=DIFFER, budget=0.01))
"""What is weighed: requests that failed, slow ones, and answers that differ from those of the release that serves."""


class OpensMirrors(Protocol):
    """Configuration of a router that can send copies of requests."""

    def open(self, work: Work, ready: Ready) -> Mirrors: ...


@dataclass(frozen=True, kw_only=True)
class Shadow:
    """Copies of `share` percent of the requests that change nothing go to green, are compared, and thrown away; then `then`.

    Users get blue's answers only. `router` is that of the deployment: one that cannot send copies does not type-check. Green in
    shadow is a group of its own, with `LOCKGATE_SHADOW=1` in its environment, and is ended before `then` starts the one that
    serves. `ignore` are places that may differ, as `fnmatch` patterns (`version`, `items[].price`, `line 3`). Blue is asked
    twice for each copy, to learn in what it differs from itself. Where nothing serves yet there is nothing to compare with.
    `visitors` come while copies are compared, where users are few.
    Seconds: `tick` from one look of the judge to the next, others as of `BlueGreen`.
    """

    router: OpensMirrors
    then: Strategy = field(default_factory=Canary)
    share: int = 10
    ignore: tuple[str, ...] = ()
    judge: Judge = field(default_factory=lambda: Judge(measures=COMPARED))
    tick: float = 1.0
    visitors: Visitors | None = None
    ready: float = 60.0
    drain: float = 30.0

    def __post_init__(self) -> None:
        need_numbers(self)
        if not 1 <= self.share <= 100:
            raise WiringError(f"Shadow.share is {self.share}", right="percent of the requests, from 1 to 100")
        if isinstance(self.router, Entrance) and not self.router.mirrors:
            raise WiringError(
                f"Shadow: {type(self.router).__name__} {self.router.name} cannot send copies of requests",
                right="a router that can: Envoy",
            )
        if not self.tick > 0:
            raise WiringError(f"Shadow.tick is {self.tick:g}", right="seconds, more than 0")

    def forward(self, now: State, green: str) -> tuple[Step, ...]:
        blue = now.serving
        if not blue or green in blue:  # nothing to compare with, or users see it already
            return self.then.forward(now, green)
        shadow = in_shadow(green)
        return (
            Start(shadow),
            WaitReady(shadow, self.ready),
            Compare(shadow, blue, self.share, self.judge, self.ignore, self.tick, self.visitors),
            *self._gone(shadow),
            *self.then.forward(now, green),
        )

    def back(self, before: State, green: str) -> tuple[Step, ...]:
        return (*self.then.back(before, green), *self._gone(in_shadow(green)))

    def _gone(self, shadow: str) -> tuple[Step, ...]:
        return Drain(shadow, self.drain), Stop(shadow)
