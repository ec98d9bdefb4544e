"""`deployments`: what each stage that deploys has brought about, what of it runs, and what goes on."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from pipeline.cli.paint import Paint, shown
from pipeline.errors import Exit, LockgateError
from pipeline.journal import Journal
from pipeline.order import Order, freeze, orders
from pipeline.project import Project
from pipeline.rollouts import RolloutHistory, current
from pipeline.session import Session, open_journal

COLOURS = {
    "verified": "green",
    "deployed": "green",
    "going on": "cyan",
    "paused": "yellow",
    "going back": "yellow",
    "ended": "green",
}

Standing = Mapping[str, Sequence[str]]
"""What runs, a few lines for each service."""


def command(arguments: argparse.Namespace, out: TextIO) -> int:
    project = Project.at(Path(arguments.directory), os.environ)
    journal = open_journal(project)
    found = current(journal, project.home)
    if not found and arguments.output == "text":
        print("nothing was deployed yet; python -m pipeline run", file=out)
    paint = Paint.on_stream(out, arguments.color)
    now, runs = time.time(), standing(Path(arguments.directory), {one.stage for one in found.values()})
    for one in found.values():
        frozen = freeze(orders(journal, project.settings.operators, stage=one.stage), now)
        of_stage = runs[one.stage]
        lines = [*_elsewhere(journal, one.run), *(of_stage.get(one.service) or of_stage.get("", ()))]
        if arguments.output == "json":
            about = {"standing": lines, "frozen": frozen._asdict() if frozen else None}
            print(json.dumps({**as_data(one), **about}), file=out)
            continue
        print(line(one, paint), file=out)
        if one.state != "verified":
            for text in details(one):
                print(paint("dim", f"    {text}"), file=out)
        for text in (*lines, *([_frozen(frozen)] if frozen else [])):
            print(f"    {shown(text)}", file=out)
    return Exit.PASSED


def standing(directory: Path, stages: Iterable[str]) -> dict[str, Standing]:
    """What stages say that runs now of what they brought about, or why that cannot be told."""
    stages = sorted(stages)
    if not stages:
        return {}
    try:
        session = Session.open(directory, os.environ)
    except LockgateError as error:
        return {name: _untold(error) for name in stages}
    return {name: _of_stage(session, name) for name in stages}


def _of_stage(session: Session, name: str) -> Standing:
    import anyio

    from pipeline.operation import Operation

    try:
        stage = session.pipeline[name]
        work = Operation(session, stage, "", lambda _line: None).work(stage)
        return anyio.run(stage.standing, work)
    except LockgateError as error:
        return _untold(error)


def _elsewhere(journal: Journal, run: str) -> list[str]:
    """That this machine may not see all, as the rollout was another one's: processes are seen only where they run."""
    begun = journal.latest("", ("run.started", "run.resumed"), run=run)
    host = begun.data.get("host", "") if begun is not None else ""
    return [f"run on {host}; as seen from {os.uname().nodename}:"] if host not in ("", os.uname().nodename) else []


def _untold(error: LockgateError) -> Standing:
    return {"": [f"what runs cannot be told: {error.what}"]}


def _frozen(order: Order) -> str:
    until = f" until {when(order.until)}" if order.until else ""
    return f"frozen by {order.by}{until}{f': {order.why}' if order.why else ''}"


def line(one: RolloutHistory, paint: Paint) -> str:
    """A rollout in one line."""
    state = paint(COLOURS.get(one.state, "red"), one.state.ljust(14))
    share = "experiment" if one.experiment else f"{one.share:3d} %"
    return f"{one.name}  {when(one.started)}  {state}  {one.group}  {share}  run {one.run}"


def details(one: RolloutHistory) -> list[str]:
    """Where it is, and what was said of it."""
    step = f"step {one.step.number} of {one.step.of}: {one.step.text}" if one.step.of and one.open else ""
    since = f" since {when(one.since)[-8:]}" if one.state == "paused" else ""
    by = f"by {one.by}{since}{f': {one.why}' if one.why else ''}" if one.by else ""
    said = one.said.partition("\n")[0]
    again = bool(by) and said == one.why
    return [shown(text) for text in (step, by, "" if again else said) if text]


def as_data(one: RolloutHistory) -> dict[str, object]:
    """For programs (docs/cli.md)."""
    return {
        "kind": "rollout",
        "stage": one.stage,
        "service": one.service,
        "experiment": one.experiment,
        "run": one.run,
        "group": one.group,
        "state": one.state,
        "started": one.started,
        "ended": None if one.open else one.ended,
        "share": one.share,
        "weights": one.weights,
        "step": {"number": one.step.number, "of": one.step.of, "text": one.step.text},
        "by": one.by,
        "said": one.said,
    }


def when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
