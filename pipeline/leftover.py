"""What runs that were killed left open of a side effect, as the journal tells it.

What an effect is about (`about`: type, settings and inputs of its stage) has a last word of its own; what is said of
another message says nothing of this one:

    effect.intended   nobody knows whether the effect took place
    effect.done       it did, and nobody has confirmed it yet
    effect.failed     it did not, or was taken back
    effect.stands     it is confirmed
    effect.unknown    nobody could say, and people said to go on
    undo.done         it was taken back
    undo.failed       it could not be, and people were told; with `later` it was refused for now, and what is open stays open
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline.frozen import Frozen
from pipeline.stage import Effect, Stage

if TYPE_CHECKING:  # a plan names what is left, also where no journal is read
    from pipeline.journal import Event, Journal

KINDS = ("effect.intended", "effect.done", "effect.failed", "effect.stands", "effect.unknown", "undo.done", "undo.failed")


class Leftover(Frozen):
    """A side effect that a run left open."""

    run: str
    about: str
    result: str | None
    """The digest of what the stage returned; None where nobody knows whether the effect took place."""
    refused: bool = False
    """Whether it was to be taken back, and must not be yet: then it is known that it was not."""


def leftovers(events: Iterable[Event], *, undoable: bool) -> tuple[Leftover, ...]:
    """What is open after all events about a stage's effects, the oldest first; what is done and cannot be undone stands. Pure.

    A last word that does not name what it is about was written before they did, and is the last about everything.
    """
    found: dict[str, Leftover] = {}
    for event in events:
        about = event.data.get("about")
        if about is None:
            found.clear()
            continue
        if event.data.get("later"):
            if about in found:
                found[about] = replace(found[about], refused=True)
            continue
        found.pop(about, None)
        if event.kind == "effect.intended" or (event.kind == "effect.done" and undoable):
            found[about] = Leftover(run=event.data.get("of", event.run), about=about, result=event.data.get("result"))
    return tuple(found.values())


def left_open(journal: Journal, stage: Stage[Any], name: str) -> tuple[Leftover, ...]:
    """What runs that had the stage of that name left open of its effects, the oldest first."""
    if stage.effect is Effect.PURE:
        return ()
    return leftovers(journal.events(kind=KINDS, stage=name), undoable=stage.can_undo())
