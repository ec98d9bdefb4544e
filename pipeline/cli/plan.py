"""`plan`: what would run, and why."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TextIO

from pipeline.cli.paint import Paint
from pipeline.errors import Exit
from pipeline.plan import Decision, Plan
from pipeline.session import Session

MARKS = {Decision.RUN: ("run", "yellow"), Decision.CACHED: ("cached", "green"), Decision.SKIPPED: ("skipped", "dim")}


def command(arguments: argparse.Namespace, out: TextIO) -> int:
    session = opened(arguments)
    show(session, session.plan(arguments.stages, again=arguments.again), arguments, out)
    return Exit.PASSED


def opened(arguments: argparse.Namespace) -> Session:
    """The session a command line asks for."""
    chosen = {name: getattr(arguments, name, "") for name in ("branch", "event", "environment", "base")}
    return Session.open(
        Path(arguments.directory),
        os.environ,
        engine=getattr(arguments, "engine", ""),
        chosen={k: v for k, v in chosen.items() if v},
    )


def show(session: Session, plan: Plan, arguments: argparse.Namespace, out: TextIO) -> None:
    if arguments.output == "json":
        for step in plan.steps:
            print(
                json.dumps(
                    {"kind": "plan", "stage": step.name, "decision": step.decision.value, "reason": step.reason, "key": step.key}
                ),
                file=out,
            )
        return
    paint = Paint.on_stream(out, arguments.color)
    width = max((len(step.name) for step in plan.steps), default=0)
    print(f"{plan.pipeline.name} on {session.choice.name} ({session.choice.reason})", file=out)
    for step in plan.steps:
        word, colour = MARKS[step.decision]
        print(f"  {paint(colour, word.ljust(7))}  {step.name.ljust(width)}  {paint('dim', step.reason)}", file=out)
    counts = ", ".join(f"{len(plan.of(decision))} {word}" for decision, (word, _) in MARKS.items())
    print(f"{len(plan.steps)} stages: {counts}", file=out)
