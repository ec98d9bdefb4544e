"""What changed between two keys of a stage, down to the files, and what is not known of the new one yet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline import key as keys
from pipeline import record as records
from pipeline.data import Blob, Tree
from pipeline.errors import StoreError
from pipeline.plan import Decision, Plan, Step, difference
from pipeline.stage import Effect, Stage, edges, uses
from pipeline.store import Store


@dataclass(frozen=True)
class Change:
    """One component of the key, before and now; `details` name the files where it stands for a tree."""

    component: str
    before: str
    now: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unknown:
    """An input of which nobody knows the result yet, and why."""

    input: str
    stage: str
    reason: str


def known(plan: Plan, step: Step) -> dict[str, str]:
    """The components of the step's key, as many as are known before anything runs; none for a stage that has no key."""
    if step.parts is not None:
        found: dict[str, str] = json.loads(step.parts)
        return found
    if step.stage.effect is not Effect.PURE or step.decision is Decision.SKIPPED:
        return {}
    records = {other.stage: other.record for other in plan.steps}
    parts = keys.own(step.stage, observed=plan.world.observed.get(step.stage), platform=plan.world.platform)
    return parts | {f"input {name}": record.result for name, source in uses(step.stage) if (record := records[source])}


def unknown(plan: Plan, step: Step) -> tuple[Unknown, ...]:
    """The inputs of the step that have yet to be made, each with why it, or what it waits for, is made."""
    if step.decision is not Decision.RUN:
        return ()
    made = {other.stage: other for other in plan.steps if other.record is None}
    found = []
    for name, source in uses(step.stage) if step.stage.always else edges(step.stage):
        if source in made:
            reasons = [
                other.reason if other.stage is source else f"after {other.name}: {other.reason}" for other in _first(plan, source)
            ]
            found.append(Unknown(name, made[source].name, "; ".join(reasons)))
    return tuple(found)


def causes(plan: Plan, step: Step) -> tuple[Step, ...]:
    """The stages above that are made before anything else is: what changed of them is why the step may have to run."""
    return tuple(other for other in _first(plan, step.stage) if other.stage is not step.stage) if unknown(plan, step) else ()


def _first(plan: Plan, stage: Stage[Any]) -> list[Step]:
    """Of a stage and all it needs, those that are to be made and wait for nothing."""
    made = {other.stage for other in plan.steps if other.record is None}
    above = plan.pipeline.upstream([stage]) & made
    return [
        other
        for other in plan.steps
        if other.stage in above and not any(source in made for source in plan.pipeline.needs(other.stage))
    ]


def latest(plan: Plan, step: Step) -> dict[str, str]:
    """The components of the key of the latest result of the stage of that name, but for inputs that are unknown now."""
    key = plan.world.last(step.name)
    record = plan.world.lookup(key) if key else None
    return without_unknown(record.components, plan, step) if record else {}


def without_unknown(parts: Mapping[str, str], plan: Plan, step: Step) -> dict[str, str]:
    """The components without those inputs of the step that are unknown now: nobody can say whether they changed."""
    left_out = {f"input {one.input}" for one in unknown(plan, step)}
    return {name: value for name, value in parts.items() if name not in left_out}


def components(store: Store, key: str) -> dict[str, str] | None:
    """What a key was made of; None where the store does not know it any more."""
    text = store.load(key) if key else None
    record = records.read(text, key) if text is not None else None
    return record.components if record is not None else None


def why(plan: Plan, step: Step, store: Store) -> tuple[Change, ...]:
    """What changed since the latest result of the stage, where it is to run; of inputs that are not known yet nothing is said."""
    if step.decision is not Decision.RUN or step.stage.effect is not Effect.PURE:
        return ()
    return changes(latest(plan, step), known(plan, step), store)


def changes(before: Mapping[str, str], now: Mapping[str, str], store: Store) -> tuple[Change, ...]:
    """The components that differ; none where there is nothing to compare."""
    if not before or not now:
        return ()
    return tuple(
        Change(name, before.get(name, ""), now.get(name, ""), _details(store, before.get(name, ""), now.get(name, "")))
        for name in difference(before, now)
    )


def _details(store: Store, before: str, now: str) -> tuple[str, ...]:
    """The files in which two trees differ; empty where the digests stand for something else."""
    old, new = files(store, before), files(store, now)
    if old is None or new is None:
        return ()
    lines = []
    for path in sorted(old.keys() | new.keys()):
        was, became = old.get(path), new.get(path)
        if was is None and became is not None:
            lines.append(f"{path} is new ({became[:12]})")
        elif became is None and was is not None:
            lines.append(f"{path} is gone ({was[:12]})")
        elif was != became and was and became:
            lines.append(f"{path} {was[:12]} -> {became[:12]}")
    return tuple(lines)


def files(store: Store, name: str) -> dict[str, str] | None:
    """Path to digest for the listing of a tree, or for a result that is a tree; None for anything else."""
    if len(name) != 64 or not store.has_object(name):
        return None
    try:
        content = json.loads(store.read(Blob(digest=name, size=0)).decode(errors="surrogateescape"))
        if isinstance(content, dict) and content.keys() == set(Tree.model_fields):
            name, content = content["digest"], None
        if content is not None and not isinstance(content, list):
            return None
        return {entry.path: entry.target for entry in store.entries(Tree(digest=name, files=0, size=0))}
    except (StoreError, ValueError, TypeError):
        return None  # bytes of some other kind
