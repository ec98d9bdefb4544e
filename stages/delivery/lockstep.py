"""Lockstep: several rollouts change the traffic together, and where one fails all go back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import anyio

from stages.delivery.step import Retire, Split, Step


@dataclass
class Lockstep:
    """How far several rollouts are, by name.

    A round is one change of traffic. It has a number: how many of its rollout are still to come, this one among them. So those
    with fewer changes, as of a service that nobody uses yet, make theirs in the last rounds. A round that all had reached stays
    open, whatever is found out afterwards: who is in it is about to make its change.
    """

    names: tuple[str, ...]
    failed: str = ""
    """What failed first, and so takes all others back."""
    _reached: dict[str, float] = field(default_factory=dict)
    _open: float = math.inf
    _changed: anyio.Event = field(default_factory=anyio.Event)

    def member(self, name: str) -> Member:
        return Member(self, name)

    def reaches(self, name: str, number: float) -> None:
        """One would make its change of that number now; infinite: not any more."""
        self._reached[name] = number
        self._open = min(self._open, max(self._reached.get(one, math.inf) for one in self.names))
        self._tell()

    def is_open(self, number: int) -> bool:
        """Whether all would make their change of that number, or one that is still later."""
        return self._open <= number

    async def opened(self, number: int) -> None:
        """Wait until it is."""
        while not self.is_open(number):
            await self._changed.wait()

    async def fails(self) -> None:
        """Wait until one has failed."""
        while not self.failed:
            await self._changed.wait()

    def fail(self, name: str) -> None:
        self.failed = self.failed or name
        self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()


ALONE = ""
"""The name of a rollout that has no others beside it."""


@dataclass
class Member:
    """One rollout among those that go in lockstep; by itself where there are no others."""

    lockstep: Lockstep = field(default_factory=lambda: Lockstep((ALONE,)))
    name: str = ALONE

    def round(self, number: int) -> Round:
        """The one with the change of that number; 0: the end."""
        return Round(self, number)

    async def watch(self, working: anyio.CancelScope) -> None:
        """End the work when another rollout fails."""
        await self.lockstep.fails()
        working.cancel()

    def fail(self) -> None:
        """Take the others back too."""
        self.lockstep.fail(self.name)

    @property
    def taken_back_by(self) -> str:
        """The rollout whose failure takes this one back, if any."""
        return self.lockstep.failed if self.lockstep.failed != self.name else ""


@dataclass(frozen=True)
class Round:
    """One round, as one of those who go in lockstep sees it."""

    member: Member
    number: int

    def may(self, agrees: bool) -> bool:
        """Say whether this rollout would go on; whether all would."""
        self.member.lockstep.reaches(self.member.name, self.number if agrees else math.inf)
        return self.is_open

    @property
    def is_open(self) -> bool:
        """Whether all have agreed, so that everybody makes his change, whatever comes."""
        return self.member.lockstep.is_open(self.number)

    async def opened(self) -> None:
        """Wait until all have agreed."""
        await self.member.lockstep.opened(self.number)

    async def turn(self) -> None:
        """Agree, and wait for the others. Who is cancelled meanwhile has not agreed."""
        try:
            if not self.may(True):
                await self.opened()
        except BaseException:
            self.may(False)
            raise


def rounds(steps: Mapping[str, Sequence[Step]]) -> Iterator[tuple[str, Step]]:
    """The steps of all, in an order in which they may be made: what comes before any change, then round after round. Pure."""
    numbered = {name: list(_numbered(those)) for name, those in steps.items()}
    for round_of in sorted({of for those in numbered.values() for of, _ in those}, reverse=True):
        for name, those in numbered.items():
            yield from ((name, step) for of, step in those if of == round_of)


def _numbered(steps: Sequence[Step]) -> Iterator[tuple[float, Step]]:
    """Each with the number of its round; infinite before the first change."""
    left = sum(is_change(step) for step in steps)
    changed = False
    for step in steps:
        if is_change(step):
            changed = True
            left -= 1
        yield left if changed else math.inf, step


def is_change(step: Step) -> bool:
    """Whether a step changes the traffic."""
    return isinstance(step, Split | Retire)
