"""What a run that was killed left open of a side effect, as the journal tells it.

The last of these events about a stage says how things are:

    effect.intended   nobody knows whether the effect took place
    effect.done       it did, and nobody has confirmed it yet
    effect.failed     it did not, or was taken back
    effect.stands     it is confirmed
    undo.done         it was taken back
    undo.failed       it could not be, and people were told
"""

from __future__ import annotations

from typing import Any

from pipeline.frozen import Frozen
from pipeline.journal import Event, Journal
from pipeline.stage import Effect, Stage

KINDS = ("effect.intended", "effect.done", "effect.failed", "effect.stands", "undo.done", "undo.failed")


class Leftover(Frozen):
    """A side effect that a run left open. `about` names what it was about: type, settings and inputs of the stage."""

    run: str
    about: str
    result: str | None
    """The digest of what the stage returned; None where nobody knows whether the effect took place."""


def leftover(last: Event | None, *, undoable: bool) -> Leftover | None:
    """What is open after the last event about an effect. One that is done and cannot be undone stands. Pure."""
    if last is None or last.kind not in ("effect.intended", "effect.done"):
        return None
    if last.kind == "effect.intended":
        return Leftover(run=last.run, about=last.data["about"], result=None)
    return Leftover(run=last.run, about=last.data["about"], result=last.data["result"]) if undoable else None


def left_open(journal: Journal, stage: Stage[Any], name: str) -> Leftover | None:
    """What the latest run that had the stage of that name left open of its effect."""
    return None if stage.effect is Effect.PURE else leftover(journal.latest(name, KINDS), undoable=stage.can_undo())
