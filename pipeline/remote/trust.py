"""Whose results a run takes from the remote cache, stage by stage. Pure: it decides from the pipeline and what takes part."""

from __future__ import annotations

from enum import Enum
from typing import Any

from pipeline.dag import Pipeline
from pipeline.stage import Effect, Stage


class Taken(Enum):
    """From whom the result of a stage is taken."""

    NEVER = "never"
    """It is made here: a gate decides here, a source is read here, and a side effect is no result."""
    SIGNED = "signed"
    """From who has a key that the settings name."""
    ANYBODY = "anybody"
    """From whoever may write to the server: nothing that counts is made of it in this run."""


def taken(pipeline: Pipeline, taking_part: frozenset[Stage[Any]]) -> dict[Stage[Any], Taken]:
    """Whose results each stage of a run is taken from.

    What was not signed is kept away from gates, on either side of one: neither the stage nor anything upstream of it is a
    gate, and nothing of this run downstream of it is a gate or has a side effect. Upstream and downstream go by every
    edge, those of `after` too: what only comes after a test relies on it. What always runs relies on what it uses alone.
    """
    guarded = {stage for stage in taking_part if _is_gate(stage) or stage.effect is not Effect.PURE}
    above = pipeline.upstream(guarded)
    found: dict[Stage[Any], Taken] = {}
    behind: set[Stage[Any]] = set()
    for stage in pipeline:  # inputs first
        if _is_gate(stage) or not behind.isdisjoint(pipeline.inputs(stage)):
            behind.add(stage)
        if stage not in taking_part:
            continue
        if _is_gate(stage) or stage.effect is not Effect.PURE or stage.origin() is not None:
            found[stage] = Taken.NEVER
        elif stage in above or stage in behind:
            found[stage] = Taken.SIGNED
        else:
            found[stage] = Taken.ANYBODY
    return found


def _is_gate(stage: Stage[Any]) -> bool:
    return stage.vouching() is not None
