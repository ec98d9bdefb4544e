"""The events of a run as they are written to the journal; pure."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.dag import Pipeline
from pipeline.data import is_scan
from pipeline.journal import Cached, Event
from pipeline.plan import Plan, Step, World
from pipeline.stage import Stage


def new_id(now: float) -> str:
    """The id of a run: its start in UTC and four random digits, so ids sort by time."""
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime(now)) + f"-{random.getrandbits(16):04x}"


def run_started(pipeline: Pipeline, world: World, run: str, **about: Any) -> Event:
    """A run begins."""
    facts = world.facts
    occasion = {"branch": facts.branch, "commit": facts.commit, "event": facts.event, "environment": facts.environment}
    where = {"pipeline": pipeline.name, "engine": world.engine, "platform": world.platform}
    return Event(run=run, kind="run.started", data={**where, **occasion, **about})


def run_resumed(pipeline: Pipeline, world: World, run: str, number: int, **about: Any) -> Event:
    """A run that was cut off goes on, for the first, second or a later time."""
    return run_started(pipeline, world, run, number=number, **about)._replace(kind="run.resumed")


def expanded(pipeline: Pipeline, whole: Stage[Any], names: Mapping[Stage[Any], str], run: str) -> Event:
    """A stage has further stages do its work."""
    stages = [{"name": name, **_about(pipeline, stage)} for stage, name in names.items()]
    inputs = [pipeline.name_of(source) for source in pipeline.inputs(whole)]
    return Event(run=run, kind="stage.expanded", stage=pipeline.name_of(whole), data={"inputs": inputs, "stages": stages})


def run_planned(plan: Plan, run: str) -> Event:
    """What was decided for each stage: an event by itself, as it is the same from run to run and written once."""
    stages = [
        {"name": step.name, "decision": step.decision.value, "reason": step.reason, **_about(plan.pipeline, step.stage)}
        for step in plan.steps
    ]
    return Event(run=run, kind="run.planned", data={"stages": stages})


def _about(pipeline: Pipeline, stage: Stage[Any]) -> dict[str, Any]:
    """What a stage is, for reports that are written when the pipeline may be another."""
    inputs = [pipeline.name_of(source) for source in pipeline.inputs(stage)]
    return {"type": type(stage).__name__, "inputs": inputs, "scans": is_scan(stage.result_type())}


def run_finished(run: str, code: int, failed: list[str]) -> Event:
    return Event(run=run, kind="run.finished", data={"exit": code, "failed": failed})


def skipped(step: Step, run: str) -> Event:
    """A stage takes no part."""
    return Event(run=run, kind="stage.skipped", stage=step.name, data={"reason": step.reason})


def cached(steps: Iterable[Step], run: str) -> Event:
    """Stages need no work: their results are in the store."""
    rows = [
        Cached(step.name, step.key or "", found.result, found.run, found.summary, found.concern, step.reason)
        for step in steps
        if (found := step.record) is not None
    ]
    return Event(run=run, kind="stage.cached", data={"stages": rows})


def settled(steps: Iterable[Step], run: str) -> list[Event]:
    """What is to be told of stages that need no work: those that are skipped, and the cached ones together."""
    steps = list(steps)
    out = [skipped(step, run) for step in steps if step.record is None]
    found = [step for step in steps if step.record is not None]
    return [*out, cached(found, run)] if found else out


def shared(step: Step, run: str, address: str) -> Event:
    """A stage needs no work: the remote cache at `address` has its result."""
    row = next(iter(cached([step], run).data["stages"]))
    return Event(run=run, kind="stage.cached", stage=step.name, data={**row.data(), "from": address})
