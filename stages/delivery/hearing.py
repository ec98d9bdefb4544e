"""A hearing: a trial goes on before its judge, and before operators, until one of them decides."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio

from gates.judge import Advice, Trial
from gates.window import Tick, Window
from pipeline import StageFailed
from pipeline.order import Order, ways_out
from stages.delivery.control import Control
from stages.delivery.lockstep import Round

TELLS = 10.0
"""Seconds, at least, from one time that is told what a trial has come to so far to the next."""

Note = Callable[..., None]
"""Writes one event to the journal: `note(kind, **data)`."""

Look = Callable[[], Awaitable[tuple[Window | None, Window | None]]]
"""What the old and the new release did since the last look."""


@dataclass
class Pause:
    """Keeps the rollout of a group where it is, and says so once for each who does."""

    group: str
    control: Control
    note: Note
    _since: float | None = None
    _by: str = ""

    @property
    def too_long(self) -> bool:
        """Whether it has lasted for as long as it may."""
        return self._since is not None and anyio.current_time() - self._since >= self.control.longest

    def holds(self, by: str, why: str, until: str = "") -> None:
        """It begins, or goes on; `until` says what ends it where nobody can promote it."""
        if by == self._by:
            return
        self._since, self._by = self._since or anyio.current_time(), by
        self.note("rollout.paused", group=self.group, by=by, why=why, **({"until": until} if until else {}))
        self.control.say(
            f"paused by {by}{because(why)}; {ways_out(until)}; after {self.control.longest:g} s it goes back by itself"
        )

    def ends(self) -> None:
        """It is over, if there was one."""
        if self._by:
            self.note("rollout.resumed", group=self.group)
        self._since, self._by = None, ""


@dataclass
class Telling:
    """Tells people what a trial has come to: every `TELLS` seconds, and as soon as it may go on. Ends are told with reasons."""

    say: Callable[[str], None]
    _told: float
    _may_go_on: bool = False

    def tell(self, trial: Trial, now: float) -> None:
        may_go_on = trial.advice is Advice.PROMOTE
        news = (may_go_on and not self._may_go_on) or (
            trial.advice in (Advice.PROMOTE, Advice.HOLD) and now - self._told >= TELLS
        )
        if news:
            self.say(trial.said())
            self._told = now
        self._may_go_on = may_go_on


def because(why: str) -> str:
    """The reason that somebody gave, for the end of a line: it begins no line of its own, and moves no cursor."""
    return f": {''.join(one if one.isprintable() else repr(one)[1:-1] for one in why)}" if why else ""


@dataclass(frozen=True)
class Hearing:
    """Of a step in the rollout of `group`, before the change of traffic that is in `round`."""

    group: str
    round: Round
    tick: float
    control: Control
    note: Note

    async def hold(self, trial: Trial, look: Look, looked: Callable[[Trial], None]) -> tuple[Trial, Order | None, Pause]:
        """Look each tick until somebody decides; what nobody can decide pauses the rollout.

        The trial then, who promoted the step without the judge, and the pause, which was too long when nobody decided.
        """
        pause = Pause(self.group, self.control, self.note)
        last = anyio.current_time()
        telling = Telling(self.control.say, last)
        while trial.advice is not Advice.ABORT and not pause.too_long:
            with anyio.move_on_after(last + self.tick - anyio.current_time()):
                await self.round.opened()
            if self.round.is_open:  # the last one to agree has done so
                break
            before, last = last, anyio.current_time()
            old, new = await look()
            trial = trial.after(Tick(seconds=last - before, old=old, new=new))
            looked(trial)
            promoted, paused = self.control.promoted(self.round.number), self.control.paused
            if paused is None:
                telling.tell(trial, last)
            if self.round.may(promoted is not None or (paused is None and trial.advice is Advice.PROMOTE)):
                return trial, promoted, pause
            if paused is not None:
                pause.holds(paused.by, paused.why)
            elif promoted is None and trial.advice is Advice.INCONCLUSIVE:
                pause.holds("the judge", trial.said())
            else:
                pause.ends()
        return trial, self.control.promoted(self.round.number), pause

    def decide(self, trial: Trial, promoted: Order | None, pause: Pause, said: str, step: str) -> None:
        """Raise StageFailed with the evidence unless the group may go on."""
        if trial.advice is Advice.ABORT:
            raise StageFailed(f"{self.group} may not go on: {said}", right="a release that is no worse than the one before it")
        if promoted is None and pause.too_long:
            raise StageFailed(
                f"{self.group} may not go on: {said}; nobody decided within {self.control.longest:g} s",
                right="enough requests to tell, metrics that are there, or an operator who decides in time",
            )
        pause.ends()
        if promoted is not None:
            self.note("rollout.promoted", group=self.group, by=promoted.by, why=promoted.why, step=step)
