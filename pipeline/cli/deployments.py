"""`deployments`: what each stage that deploys has brought about, and what goes on."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import TextIO

from pipeline.cli.paint import Paint, shown
from pipeline.errors import Exit
from pipeline.order import freeze, orders
from pipeline.project import Project
from pipeline.rollouts import RolloutHistory, current
from pipeline.session import open_journal

COLOURS = {"verified": "green", "deployed": "green", "going on": "cyan", "paused": "yellow", "going back": "yellow"}


def command(arguments: argparse.Namespace, out: TextIO) -> int:
    project = Project.at(Path(arguments.directory), os.environ)
    journal = open_journal(project)
    found = current(journal, project.home)
    if not found and arguments.output == "text":
        print("nothing was deployed yet; python -m pipeline run", file=out)
    paint = Paint.on_stream(out, arguments.color)
    now = time.time()
    for one in found.values():
        frozen = freeze(orders(journal, project.settings.operators, stage=one.stage), now)
        if arguments.output == "json":
            print(json.dumps({**as_data(one), "frozen": frozen._asdict() if frozen else None}), file=out)
            continue
        print(line(one, paint), file=out)
        if one.open or one.state in ("taken back", "stuck half way", "cut off"):
            for text in details(one):
                print(paint("dim", f"    {text}"), file=out)
        if frozen is not None:
            until = f" until {when(frozen.until)}" if frozen.until else ""
            print(f"    frozen by {frozen.by}{until}{f': {shown(frozen.why)}' if frozen.why else ''}", file=out)
    return Exit.PASSED


def line(one: RolloutHistory, paint: Paint) -> str:
    """A rollout in one line."""
    state = paint(COLOURS.get(one.state, "red"), one.state.ljust(14))
    return f"{one.name}  {when(one.started)}  {state}  {one.group}  {one.share:3d} %  run {one.run}"


def details(one: RolloutHistory) -> list[str]:
    """Where it is, and what was said of it."""
    step = f"step {one.step.number} of {one.step.of}: {one.step.text}" if one.step.of and one.open else ""
    by = f"by {one.by}" if one.by else ""
    return [shown(text) for text in (step, by, one.said.partition("\n")[0]) if text]


def as_data(one: RolloutHistory) -> dict[str, object]:
    """For programs (docs/cli.md)."""
    return {
        "kind": "rollout",
        "stage": one.stage,
        "service": one.service,
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
