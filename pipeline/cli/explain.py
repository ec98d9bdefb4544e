"""`explain`: why a stage runs, or why it does not."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TextIO

from pipeline.cli.logs import wanted
from pipeline.cli.paint import Paint
from pipeline.cli.plan import opened, reasons
from pipeline.errors import ConfigError, Exit
from pipeline.explanation import causes, changes, components, known, latest, unknown, why, without_unknown
from pipeline.plan import Decision, Plan, Step
from pipeline.selection import Selection
from pipeline.session import Session


def command(arguments: argparse.Namespace, out: TextIO) -> int:
    session = opened(arguments)
    plan = session.plan(Selection(stages=(arguments.stage,)))
    step = next(step for step in plan.steps if step.name == arguments.stage)
    parts, missing = known(plan, step), unknown(plan, step)
    before = _then(session, plan, step, arguments.since) if arguments.since else latest(plan, step)
    found = changes(before, parts, session.store)
    if arguments.output == "json":
        about = {"kind": "explain", "stage": step.name, "decision": step.decision.value, "reason": step.reason, "key": step.key}
        said = {"components": parts, "changes": [asdict(change) for change in found], "unknown": [asdict(one) for one in missing]}
        above = {cause.name: [asdict(change) for change in why(plan, cause, session.store)] for cause in causes(plan, step)}
        print(json.dumps({**about, **said, "causes": above}), file=out)
        return Exit.PASSED
    paint = Paint.on_stream(out, arguments.color)
    colour = {Decision.RUN: "yellow", Decision.CACHED: "green", Decision.SKIPPED: "dim"}[step.decision]
    print(f"{paint('bold', step.name)}: {paint(colour, step.decision.value)}, {step.reason}", file=out)
    for cause in causes(plan, step):
        for line in reasons(why(plan, cause, session.store)):
            print(f"  {cause.name}: {line}", file=out)
    if arguments.since and not found:
        print(f"  nothing that is known changed since run {arguments.since}", file=out)
    for change in found:
        print(f"  {change.component}", file=out)
        for detail in change.details or (f"{change.before or 'nothing'} -> {change.now or 'nothing'}",):
            print(f"    {detail}", file=out)
    for one in missing:
        print(f"  input {one.input}: {one.stage} is not known yet ({one.reason})", file=out)
    if parts and not found:
        print(paint("dim", f"  key {step.key}" if step.key else "  what is known of its key"), file=out)
        for name, value in sorted(parts.items()):
            print(f"  {name} = {value if len(value) <= 72 else value[:60] + '...'}", file=out)
    return Exit.PASSED


def _then(session: Session, plan: Plan, step: Step, since: str) -> dict[str, str]:
    """The components of the key the stage had in a run, but for inputs that are unknown now. Raises ConfigError."""
    run = wanted(session.project, since)
    key = stage.key if (stage := run.stages.get(step.name)) else ""
    parts = components(session.store, key)
    if parts is None:
        raise ConfigError(
            f"run {run.id} has no key of {step.name}" if not key else f"what {step.name} depended on in run {run.id} is not kept",
            right="a run in which the stage gave a result that is still in the store",
            next="python -m pipeline runs",
        )
    return without_unknown(parts, plan, step)
