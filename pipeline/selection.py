"""Which stages of a pipeline are meant. Pure: it decides from what it is given."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pipeline.dag import Pipeline
from pipeline.errors import ConfigError
from pipeline.frozen import Frozen
from pipeline.plan import Decision, Plan
from pipeline.stage import Stage


class Selection(Frozen):
    """What was asked for. Each part that is given leaves fewer stages to aim at; they are run with all that they need, and with
    what always runs after some of them."""

    stages: tuple[str, ...] = ()
    since: tuple[str, ...] = ()
    """These, and everything that needs them."""
    without: tuple[str, ...] = ()
    """Neither these nor anything that needs them."""
    failed: frozenset[str] | None = None
    """Names of the stages that did not pass; None where nobody asks."""
    changed: frozenset[str] | None = None
    """Paths: whatever takes one of them in, and everything made from that; None where nobody asks."""
    alone: bool = False
    """Nothing else is run: what they need has to be there."""


EVERYTHING = Selection()


def select(pipeline: Pipeline, asked: Selection) -> frozenset[Stage[Any]]:
    """The stages to aim at with all they need, and what cleans up after them; none where nothing failed or changed.

    Raises WiringError for a name there is not, ConfigError where the names leave none.
    """
    wanted = pipeline.upstream(aims(pipeline, asked))
    return wanted if asked.alone else wanted.union(_cleaning_up(pipeline, wanted, _left_out(pipeline, asked)))


def _cleaning_up(pipeline: Pipeline, wanted: frozenset[Stage[Any]], left_out: frozenset[Stage[Any]]) -> set[Stage[Any]]:
    """What always runs, and comes after some that are wanted and uses results of no others."""
    found: set[Stage[Any]] = set()
    for stage in pipeline.always:
        there = wanted | found
        if stage not in left_out and there.issuperset(pipeline.used(stage)) and not there.isdisjoint(pipeline.inputs(stage)):
            found.add(stage)
    return found


def aims(pipeline: Pipeline, asked: Selection) -> frozenset[Stage[Any]]:
    """The stages to aim at. Raises as `select` does."""
    found = frozenset(pipeline)
    for part in _parts(pipeline, asked):
        found &= part
    if not found and asked.failed is None and asked.changed is None:
        raise ConfigError("no stage is left of what was selected", right="fewer conditions", next="python -m pipeline list")
    return found


def _parts(pipeline: Pipeline, asked: Selection) -> Iterable[frozenset[Stage[Any]]]:
    if asked.stages:
        yield frozenset(pipeline[name] for name in asked.stages)
    if asked.since:
        yield _with_below(pipeline, (pipeline[name] for name in asked.since))
    if asked.without:
        yield frozenset(pipeline) - _left_out(pipeline, asked)
    if asked.failed is not None:
        yield frozenset(stage for stage in pipeline if pipeline.name_of(stage) in asked.failed)
    if asked.changed is not None:
        yield _with_below(pipeline, (stage for stage in pipeline if takes_in(stage, asked.changed)))


def _left_out(pipeline: Pipeline, asked: Selection) -> frozenset[Stage[Any]]:
    return _with_below(pipeline, (pipeline[name] for name in asked.without))


def takes_in(stage: Stage[Any], paths: frozenset[str]) -> bool:
    """Whether one of the paths is part of what a source stage takes, or tells of."""
    if stage.origin() is None:
        return False
    chosen = stage.chosen()
    return bool(paths) if chosen is None else any(True for _ in chosen.choose(paths))


def _with_below(pipeline: Pipeline, stages: Iterable[Stage[Any]]) -> frozenset[Stage[Any]]:
    found = frozenset(stages)
    return found.union(*(pipeline.downstream(stage) for stage in found))


def check_alone(plan: Plan, asked: Selection) -> None:
    """Raise ConfigError where something would have to run that is only needed, and nothing else may be run."""
    if not asked.alone:
        return
    meant = aims(plan.pipeline, asked)
    lacking = [step.name for step in plan.steps if step.decision is Decision.RUN and step.stage not in meant]
    if lacking:
        raise ConfigError(
            f"nothing else is to be run, and {', '.join(lacking)} would have to be",
            right="results of what is needed, from an earlier run; side effects never have one to take again",
            next=f"python -m pipeline run --only {' '.join([*lacking, *sorted(map(plan.pipeline.name_of, meant))])}",
        )
