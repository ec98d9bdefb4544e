"""The plan: for each stage run, cached or skipped, and why. Pure: it decides from what it is given."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import field, replace
from enum import Enum
from typing import Any, NamedTuple

from pipeline import key as keys
from pipeline.condition import Facts
from pipeline.dag import Pipeline
from pipeline.frozen import Frozen
from pipeline.leftover import Leftover
from pipeline.record import Record
from pipeline.stage import Effect, Stage

Lookup = Callable[[str], Record | None]
"""Key to record: `record.load` over a store."""


class Decision(Enum):
    """What is to be done about a stage."""

    RUN = "run"
    """The stage will be executed, or decided again once its inputs are known."""
    CACHED = "cached"
    """The store holds the result for the same key."""
    SKIPPED = "skipped"
    """A condition of the stage, or of one of its inputs, does not hold; or the engine cannot run it."""


class Step(NamedTuple):
    """What the plan says about one stage. `key`, and the text of its components, is None while an input's result is not known."""

    stage: Stage[Any]
    name: str
    decision: Decision
    reason: str
    key: str | None = None
    parts: str | None = None
    record: Record | None = None


class World(Frozen):
    """What a plan is made from: facts of the occasion, what stages observed, and what the store knows."""

    facts: Facts
    engine: str
    platform: str
    observed: Mapping[Stage[Any], str | None]
    lookup: Lookup
    last: Callable[[str], str | None]
    """Stage name to the key of its latest result: empty for one that may not be used again, None where there is none."""
    again: frozenset[str] = frozenset()
    """Names of stages to run although the store has their result."""
    damage: Callable[[str], str] = lambda _key: ""
    """Key to what of the result under it was damaged on disk: empty where nothing was, or nothing is there."""
    left: Mapping[Stage[Any], tuple[Leftover, ...]] = field(default_factory=dict)
    """What killed runs left open of stages' side effects, the oldest first."""


class Plan(Frozen):
    """The steps in topological order. `skipped` maps the stages that take no part to the reason."""

    pipeline: Pipeline
    steps: tuple[Step, ...]
    world: World
    skipped: Mapping[Stage[Any], str]

    def of(self, decision: Decision) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if step.decision is decision)

    def judged(self, stage: Stage[Any]) -> bool:
        """Whether a stage of this plan takes the result of `stage`, and so is to weigh it; what only cleans up does not."""
        return any(stage in self.pipeline.used(step.stage) and (stage.always or not step.stage.always) for step in self.steps)

    def grown(self, pipeline: Pipeline, whole: Stage[Any], names: Mapping[Stage[Any], str]) -> Plan:
        """This plan with further stages before `whole`, which rests on them; where it is to run again, its parts are too."""
        place = next(number for number, step in enumerate(self.steps) if step.stage is whole)
        name = self.steps[place].name
        further = (Step(stage, given, Decision.RUN, f"a part of {name}") for stage, given in names.items())
        parts = (names[stage] for stage in pipeline.used(whole) if stage in names) if name in self.world.again else ()
        return replace(
            self,
            pipeline=pipeline,
            steps=(*self.steps[:place], *further, *self.steps[place:]),
            world=replace(self.world, again=self.world.again.union(parts)),
        )

    def settled(self) -> bool:
        """Whether nothing is left to do: no stage runs, and no cached result is a concern that nobody judges."""
        done = not self.of(Decision.RUN)
        return done and not any(step.record and step.record.concern and not self.judged(step.stage) for step in self.steps)


def plan(pipeline: Pipeline, wanted: frozenset[Stage[Any]], world: World) -> Plan:
    """Decide for every wanted stage, given in a set that is closed under needs."""
    skipped = skips(pipeline, wanted, world)
    steps: dict[Stage[Any], Step] = {}
    for stage in pipeline:
        if stage in wanted:
            steps[stage] = decide(pipeline, stage, steps, skipped, world)
    return Plan(pipeline=pipeline, steps=tuple(steps.values()), world=world, skipped=skipped)


def skips(pipeline: Pipeline, wanted: frozenset[Stage[Any]], world: World) -> dict[Stage[Any], str]:
    """The stages that take no part: refused by a condition or the engine, or an effect whose every confirmation is; below
    such a stage, or needed by such ones only."""
    stages = [stage for stage in pipeline if stage in wanted]
    refused = {stage: reason for stage in stages if (reason := refusal(stage, world))}
    if not refused:
        return {}
    skipped = _with_below(pipeline, stages, refused)
    for stage in stages:
        confirming = (
            [other for other in stages if other.confirms and other in pipeline.downstream(stage)] if stage.can_undo() else []
        )
        if stage not in skipped and confirming and all(other in skipped for other in confirming):
            refused[stage] = f"{_names(pipeline, confirming)} would confirm it, which is skipped"
    skipped = _with_below(pipeline, stages, refused)
    below: dict[Stage[Any], list[Stage[Any]]] = {stage: [] for stage in stages}
    for stage in reversed(stages):
        if stage not in skipped and below[stage] and all(other in skipped for other in below[stage]):
            skipped[stage] = f"only {_names(pipeline, below[stage])} needs it, which is skipped"
        for source in pipeline.inputs(stage) if not stage.always else ():  # nothing is put up only to be cleaned up
            below[source].append(stage)
    return _with_below(pipeline, stages, skipped)


def _with_below(pipeline: Pipeline, stages: list[Stage[Any]], refused: Mapping[Stage[Any], str]) -> dict[Stage[Any], str]:
    """The refused stages, and those that need one of them."""
    skipped: dict[Stage[Any], str] = {}
    for stage in stages:
        above = [source for source in pipeline.needs(stage) if source in skipped]
        if stage in refused:
            skipped[stage] = refused[stage]
        elif above:
            skipped[stage] = f"needs {_names(pipeline, above)}, which is skipped"
    return skipped


def decide(
    pipeline: Pipeline,
    stage: Stage[Any],
    done: Mapping[Stage[Any], Step],
    skipped: Mapping[Stage[Any], str],
    world: World,
) -> Step:
    """The step for one stage, from the steps of what it needs."""
    name = pipeline.name_of(stage)
    if stage in skipped:
        return Step(stage, name, Decision.SKIPPED, skipped[stage])
    step = _decided(pipeline, stage, name, done, world)
    if stage.always and step.decision is Decision.RUN:
        return step._replace(reason=f"always, {step.reason}")
    return step


def _decided(pipeline: Pipeline, stage: Stage[Any], name: str, done: Mapping[Stage[Any], Step], world: World) -> Step:
    """The step for a stage that takes part."""
    needs = pipeline.needs(stage)
    inputs = {source: record.result for source in needs if (record := done[source].record) is not None}
    if stage.effect is Effect.PURE and len(inputs) == len(needs):
        return keyed(stage, name, inputs, world)
    keys.configured(stage)  # what could not be told from another is refused before anything runs
    unknown = [source for source in needs if source not in inputs]
    if stage.effect is not Effect.PURE:
        after = f", after {_names(pipeline, unknown)}" if unknown else ""
        about = None if unknown else keys.about(stage, inputs)
        reason = f"has a side effect ({stage.effect.value}){after}{_first(stage, about, world.left.get(stage, ()))}"
        return Step(stage, name, Decision.RUN, reason)
    reason = f"decided when {_names(pipeline, unknown)} {'is' if len(unknown) == 1 else 'are'} known"
    return Step(stage, name, Decision.RUN, reason)


def _first(stage: Stage[Any], about: str | None, left: tuple[Leftover, ...]) -> str:
    """What comes before an effect that killed runs left open; `about` is None while an input's result is not known."""
    if not stage.can_undo() and about is not None:
        left = tuple(one for one in left if one.about == about)  # of another message it does not matter
    if not left:
        return ""
    last = left[-1]
    if stage.can_undo() and (last.result is not None or stage.can_recover()):
        what = f"what run {last.run} did not confirm is taken back first"
    elif stage.can_recover():
        what = f"what came of it in run {last.run} is found out first"
    else:
        what = f"nobody knows whether it took place in run {last.run}"
    return f"; {what}, unless that run goes on"


def keyed(stage: Stage[Any], name: str, inputs: Mapping[Stage[Any], str], world: World) -> Step:
    """The step for a pure stage whose inputs' results are known."""
    parts = keys.text(stage, inputs, observed=world.observed.get(stage), platform=world.platform)
    key = keys.of(parts)
    record = world.lookup(key)
    if record is not None and name not in world.again:
        return Step(stage, name, Decision.CACHED, f"nothing it depends on changed since run {record.run}", key, parts, record)
    reason = "asked to run again" if record is not None else world.damage(key) or why(name, parts, world)
    return Step(stage, name, Decision.RUN, reason, key, parts)


def why(name: str, parts: str, world: World) -> str:
    """Which components of the key differ from those of the stage's latest result."""
    last = world.last(name)
    if last is None:
        return "has no result here yet"
    before = world.lookup(last) if last else None
    if before is None:
        return (world.damage(last) if last else "") or "its latest result may not be used again"
    changed = difference(before.components, json.loads(parts))
    return f"{', '.join(changed)} changed" if changed else "its latest result may not be used again"


def difference(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The names of components that are new, gone or different, sorted."""
    return sorted(part for part in before.keys() | now.keys() if before.get(part) != now.get(part))


def refusal(stage: Stage[Any], world: World) -> str | None:
    """Why a stage cannot take part on this occasion; None where it can."""
    if world.engine not in stage.engines:
        return f"needs the engine {' or '.join(sorted(stage.engines))}, this is {world.engine}"
    return stage.only.refuses(world.facts)


def _names(pipeline: Pipeline, stages: list[Stage[Any]]) -> str:
    names = [pipeline.name_of(stage) for stage in stages]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
