"""A run with nothing to do, known again without a look at each result.

A plan follows from what each stage depends on by itself, from how they are wired, and from what the store holds. When none of
that is other than it was in a run that found everything cached, so is this one's plan. `Print` stands for the first two; the
store says by itself whether it was written to since.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline import key as keys
from pipeline.dag import Pipeline
from pipeline.digest import Digest, of_bytes
from pipeline.plan import Plan, World
from pipeline.stage import Effect, Stage
from pipeline.store import Store


def fingerprint(
    pipeline: Pipeline, wanted: frozenset[Stage[Any]], skipped: Mapping[Stage[Any], str], world: World
) -> Digest | None:
    """What the plan for `wanted` follows from besides the store; None where it follows from more, as with side effects."""
    if world.again:
        return None
    numbers = {stage: str(number) for number, stage in enumerate(pipeline.stages)}
    parts = [pipeline.name, world.engine]
    classes: dict[type, str] = {}
    for stage in pipeline.stages:
        if stage not in wanted:
            continue
        if stage in skipped:
            kind, text = "skipped", skipped[stage]
        elif stage.effect is not Effect.PURE:
            return None
        else:
            kind = classes.setdefault(type(stage), str(len(classes)))
            text = keys.between(stage, numbers, observed=world.observed.get(stage), platform=world.platform)
        parts.append(f"{pipeline.name_of(stage)}\n{kind} {len(text)} {text}")
    parts += (f"{kind} {' '.join(keys.ends(cls))}" for cls, kind in classes.items())
    return of_bytes("\n".join(parts).encode(errors="surrogateescape"))


def remember(store: Store, print_: Digest, plan: Plan, run: str) -> None:
    """That `run` found everything in the store for a plan like this one."""
    named = {content[0] for step in plan.steps if step.record is not None for content in step.record.contents}
    store.settle(print_, run, named)
