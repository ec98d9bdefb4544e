"""`explain`: why a stage runs, or why it does not."""

from __future__ import annotations

import argparse
import json

from pipeline.cli.paint import Paint
from pipeline.cli.plan import opened
from pipeline.errors import Exit
from pipeline.explanation import Change, changes
from pipeline.plan import Decision


def command(arguments: argparse.Namespace) -> int:
    session = opened(arguments)
    plan = session.plan([arguments.stage])
    step = next(step for step in plan.steps if step.name == arguments.stage)
    found = changes(step, session.store, plan.world.lookup, plan.world.last)
    if arguments.output == "json":
        about = {"kind": "explain", "stage": step.name, "decision": step.decision.value, "reason": step.reason, "key": step.key}
        print(json.dumps({**about, "components": dict(step.components or {}), "changes": [_plain(change) for change in found]}))
        return Exit.PASSED
    paint = Paint.for_stdout(arguments.color)
    colour = {Decision.RUN: "yellow", Decision.CACHED: "green", Decision.SKIPPED: "dim"}[step.decision]
    print(f"{paint('bold', step.name)}: {paint(colour, step.decision.value)}, {step.reason}")
    for change in found:
        print(f"  {change.component}")
        for detail in change.details or (f"{change.before or 'nothing'} -> {change.now or 'nothing'}",):
            print(f"    {detail}")
    if step.components and not found:
        print(paint("dim", f"  key {step.key}"))
        for name, value in sorted(step.components.items()):
            print(f"  {name} = {value if len(value) <= 72 else value[:60] + '...'}")
    return Exit.PASSED


def _plain(change: Change) -> dict[str, object]:
    return {"component": change.component, "before": change.before, "now": change.now, "details": list(change.details)}
