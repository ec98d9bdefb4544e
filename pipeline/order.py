"""Orders: what operators ask of a stage while it runs, or of what it has brought about. Each is an event of the journal.

The journal tells who gave one as the system knows them, by the user id of their process. That keeps people from mistakes and
says who did what; it does not keep out who can write to the journal: such a one could write anything.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pipeline.errors import Exit, LockgateError
from pipeline.journal import Event, Journal

ORDERED, REFUSED = "operator.ordered", "operator.refused"

VERBS = ("promote", "pause", "abort", "undo", "retry", "freeze", "recover", "take-over", "drain")
"""What operators may ask for."""

ALL = "*"
"""In place of a verb: those that are not named."""


def ways_out(until: str) -> str:
    """How a pause ends, for people; `until` says what ends it where nobody can promote it."""
    if until:
        return f"it goes on once {until}, and python -m pipeline abort goes back"
    return "python -m pipeline promote goes on, and abort goes back"


TOLD = ("at", "seq", "run", "refused")
"""What the journal tells of an order, which who gives it does not."""


class Order(NamedTuple):
    """What somebody asked for. `end` takes an earlier one back; `number` of the changes of
    traffic that were still to come when they looked, 0 where that does not matter."""

    verb: str
    by: str
    why: str = ""
    end: bool = False
    number: int = 0
    of: str = ""
    """What it is about: a group to drain."""
    until: float = 0.0
    """Seconds since the epoch when it ends by itself; 0: never."""
    at: float = 0.0
    seq: int = 0
    refused: str = ""
    """Why nothing came of it."""
    run: str = ""
    """In which it was given."""

    @staticmethod
    def told(event: Event) -> Order:
        """What an event of the kind `operator.ordered` tells."""
        known = {name: value for name, value in event.data.items() if name in Order._fields}
        return Order(**{**known, "at": event.at, "seq": event.seq, "run": event.run})

    def event(self, run: str, stage: str) -> Event:
        """To be written; empty words are left out."""
        said = {name: value for name, value in self._asdict().items() if value and name not in TOLD}
        return Event(run=run, kind=ORDERED, stage=stage, data=said)


class NotAllowed(LockgateError):
    """Somebody asked for what others may ask for."""

    exit = Exit.UNUSABLE

    def __init__(self, order: Order, operators: Sequence[str]) -> None:
        super().__init__(
            f"{order.by} may not {order.verb}",
            where="operators in [tool.pipeline]",
            right=f"one of: {', '.join(operators) or 'nobody'}",
            next="ask one of them, or have the list changed",
        )


def operator() -> str:
    """Who runs this process, as the system knows them."""
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def check_allowed(order: Order, operators: Mapping[str, Sequence[str]]) -> None:
    """Raise NotAllowed unless the settings let them; a verb that no list is about is everybody's."""
    named = operators.get(order.verb, operators.get(ALL))
    if named is not None and order.by not in named:
        raise NotAllowed(order, named)


def allowed(events: Iterable[Event], operators: Mapping[str, Sequence[str]]) -> list[Order]:
    """The orders that events tell of, but for those of people who may not give them: their settings may be others. Pure."""
    found = []
    for order in map(Order.told, events):
        try:
            check_allowed(order, operators)
        except NotAllowed:
            continue
        found.append(order)
    return found


def freeze(orders: Iterable[Order], now: float) -> Order | None:
    """The order by which no rollout may begin at `now`, of all there ever were, the oldest first; None when they may. Pure."""
    last = None
    for order in orders:
        if order.verb == "freeze":
            last = None if order.end else order
    return last if last is not None and not 0 < last.until <= now else None


def give(journal: Journal, order: Order, run: str, stage: str, operators: Mapping[str, Sequence[str]]) -> None:
    """Write an order to the journal; durable when this returns. Raises NotAllowed, which is written too."""
    try:
        check_allowed(order, operators)
    except NotAllowed as error:
        refuse(journal, order, error.what, run, stage)
        raise
    journal.append(order.event(run, stage))


def refuse(journal: Journal, order: Order, why: str, run: str, stage: str, *, given: bool = False) -> None:
    """Write that nothing comes of an order: it was not theirs to give, or was `given` in this run and cannot be followed."""
    data = {"verb": order.verb, "by": order.by, "why": why, **({"given": True} if given else {})}
    journal.append(Event(run=run, kind=REFUSED, stage=stage, data=data))


def orders(journal: Journal, operators: Mapping[str, Sequence[str]], *, stage: str, run: str = "", after: int = 0) -> list[Order]:
    """The orders to a stage, and to all stages, the oldest first: all, or those of one run."""
    given: list[Event] = [*journal.events(run, kind=ORDERED, stage=stage, after=after)] if stage else []
    if not run:
        given += [event for event in journal.events(kind=ORDERED, after=after) if not event.stage]
    return allowed(sorted(given, key=lambda event: event.seq), operators)
