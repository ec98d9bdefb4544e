"""`explain`: why a stage runs, or why it does not."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TextIO

from pipeline.cli.paint import Paint
from pipeline.cli.plan import opened
from pipeline.errors import Exit
from pipeline.explanation import Change, changes, known, latest, unknown
from pipeline.plan import Decision


def command(arguments: argparse.Namespace, out: TextIO) -> int:
    session = opened(arguments)
    plan = session.plan([arguments.stage])
    step = next(step for step in plan.steps if step.name == arguments.stage)
    parts, missing = known(plan, step), unknown(plan, step)
    found = changes(latest(plan, step), parts, session.store)
    if arguments.output == "json":
        about = {"kind": "explain", "stage": step.name, "decision": step.decision.value, "reason": step.reason, "key": step.key}
        said = {"components": parts, "changes": [_plain(change) for change in found], "unknown": [asdict(one) for one in missing]}
        print(json.dumps({**about, **said}), file=out)
        return Exit.PASSED
    paint = Paint.on_stream(out, arguments.color)
    colour = {Decision.RUN: "yellow", Decision.CACHED: "green", Decision.SKIPPED: "dim"}[step.decision]
    print(f"{paint('bold', step.name)}: {paint(colour, step.decision.value)}, {step.reason}", file=out)
    for one in missing:
        print(f"  input {one.input}: {one.stage} is not known yet ({one.reason})", file=out)
    for change in found:
        print(f"  {change.component}", file=out)
        for detail in change.details or (f"{change.before or 'nothing'} -> {change.now or 'nothing'}",):
            print(f"    {detail}", file=out)
    if parts and not found:
        print(paint("dim", f"  key {step.key}" if step.key else "  what is known of its key"), file=out)
        for name, value in sorted(parts.items()):
            print(f"  {name} = {value if len(value) <= 72 else value[:60] + '...'}", file=out)
    return Exit.PASSED


def _plain(change: Change) -> dict[str, object]:
    return {"component": change.component, "before": change.before, "now": change.now, "details": list(change.details)}
