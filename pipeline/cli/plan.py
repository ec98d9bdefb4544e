"""`plan`: what would run, and why."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from pipeline.cli.paint import Paint
from pipeline.errors import ConfigError, Exit
from pipeline.explanation import Change, why
from pipeline.history import one
from pipeline.plan import Decision, Plan
from pipeline.selection import Selection, select
from pipeline.session import Session

MOST = 10
"""Files of one component that are listed."""

LONGEST = 100
"""Characters of a value that are shown."""

DIGEST = re.compile(r"[0-9a-f]{64}")

MARKS = {Decision.RUN: ("run", "yellow"), Decision.CACHED: ("cached", "green"), Decision.SKIPPED: ("skipped", "dim")}


def command(arguments: argparse.Namespace, out: TextIO) -> int:
    session = opened(arguments)
    asked = selection(session, arguments)
    if not select(session.pipeline, asked):
        return nothing(asked)
    show(session, session.plan(asked, again=arguments.again), arguments, out)
    return Exit.PASSED


def selection(session: Session, arguments: argparse.Namespace) -> Selection:
    """What the command line asks for. Raises ConfigError where it cannot be known what failed or changed."""
    if arguments.changed and session.facts.changed is None:
        raise ConfigError(
            "it is not known what changed: there is no base",
            where="--changed",
            right="a revision that changes are measured against",
            next="python -m pipeline plan --changed --base origin/main",
        )
    return Selection(
        stages=tuple(arguments.stages),
        since=tuple(arguments.since),
        without=tuple(arguments.without),
        failed=_failed(session) if arguments.failed else None,
        changed=session.facts.changed if arguments.changed else None,
        alone=arguments.only,
    )


def _failed(session: Session) -> frozenset[str]:
    """The stages that did not pass in the latest run."""
    latest = one(session.journal, "")
    if latest is None:
        raise ConfigError("there is no run yet", where="--failed", next="python -m pipeline run")
    return frozenset(stage.name for stage in latest.stages.values() if stage.state not in ("passed", "cached", "skipped"))


def nothing(asked: Selection) -> int:
    """Say why no stage is meant."""
    why = "nothing failed in the latest run" if asked.failed is not None else "no stage takes in a file that changed"
    print(f"nothing to do: {why}", file=sys.stderr)
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
            about = {"kind": "plan", "stage": step.name, "decision": step.decision.value, "reason": step.reason, "key": step.key}
            found = [asdict(change) for change in why(plan, step, session.store)]
            print(json.dumps({**about, "changes": found}), file=out)
        return
    paint = Paint.on_stream(out, arguments.color)
    width = max((len(step.name) for step in plan.steps), default=0)
    print(f"{plan.pipeline.name} on {session.choice.name} ({session.choice.reason})", file=out)
    for step in plan.steps:
        word, colour = MARKS[step.decision]
        print(f"  {paint(colour, word.ljust(7))}  {step.name.ljust(width)}  {paint('dim', step.reason)}", file=out)
        for line in reasons(why(plan, step, session.store)):
            print(paint("dim", f"           {line}"), file=out)
    counts = ", ".join(f"{len(plan.of(decision))} {word}" for decision, (word, _) in MARKS.items())
    print(f"{len(plan.steps)} stages: {counts}", file=out)


def reasons(changes: Iterable[Change]) -> Iterator[str]:
    """One reason a line: which component of the key changed and how; of many files the first ones."""
    for change in changes:
        for detail in change.details[:MOST]:
            yield f"{change.component}: {detail}"
        if len(change.details) > MOST:
            yield f"{change.component}: and {len(change.details) - MOST} more files"
        if not change.details:
            yield f"{change.component}: {brief(change.before)} -> {brief(change.now)}"


def brief(value: str) -> str:
    """A value of a component so that it can be read: digests are known by how they begin."""
    if not value:
        return "nothing"
    return value[:12] if DIGEST.fullmatch(value) else value if len(value) <= LONGEST else f"{value[: LONGEST - 3]}..."
