"""The events of a run as they are written to the journal; pure."""

from __future__ import annotations

import random
import time
from typing import Any

from pipeline.journal import Event
from pipeline.plan import Plan, Step


def new_id(now: float) -> str:
    """The id of a run: its start in UTC and four random digits, so ids sort by time."""
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime(now)) + f"-{random.getrandbits(16):04x}"


def run_started(plan: Plan, run: str, **about: Any) -> Event:
    """A run begins, with what was decided for each stage."""
    facts, name_of = plan.world.facts, plan.pipeline.name_of
    stages = [
        {
            "name": step.name,
            "decision": step.decision.value,
            "reason": step.reason,
            "type": type(step.stage).__name__,
            "inputs": [name_of(source) for source in plan.pipeline.inputs(step.stage)],
        }
        for step in plan.steps
    ]
    occasion = {"branch": facts.branch, "commit": facts.commit, "event": facts.event, "environment": facts.environment}
    world = {"pipeline": plan.pipeline.name, "engine": plan.world.engine, "platform": plan.world.platform}
    return Event(run=run, kind="run.started", data={**world, **occasion, "stages": stages, **about})


def run_finished(run: str, code: int, failed: list[str]) -> Event:
    return Event(run=run, kind="run.finished", data={"exit": code, "failed": failed})


def settled(step: Step, run: str) -> Event:
    """A stage needs no work: its result is cached, or it is skipped."""
    if step.record is None:
        return Event(run=run, kind="stage.skipped", stage=step.name, data={"reason": step.reason})
    data = {
        "key": step.key,
        "reason": step.reason,
        "result": step.record.result,
        "made_in": step.record.run,
        "summary": step.record.summary,
        "concern": step.record.concern,
    }
    return Event(run=run, kind="stage.cached", stage=step.name, data=data)
