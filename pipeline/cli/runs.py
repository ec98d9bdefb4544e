"""`runs`: the runs of this project, the latest last."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from pipeline.cli.paint import Paint
from pipeline.damage import Damaged
from pipeline.errors import Exit
from pipeline.history import RunHistory, one
from pipeline.journal import Journal
from pipeline.project import Project
from pipeline.session import open_journal


def command(arguments: argparse.Namespace, out: TextIO) -> int:
    project = Project.at(Path(arguments.directory), os.environ)
    journal = open_journal(project)
    paint = Paint.on_stream(out, arguments.color)
    runs, damaged = _readable(journal, journal.runs()[-arguments.limit :])
    if not runs and not damaged and arguments.output == "text":
        print(f"no runs yet in {project.home}; python -m pipeline run", file=out)
    for run in runs:
        print(_json(run) if arguments.output == "json" else _line(run, paint), file=out)
    if damaged:
        raise damaged[0]
    return Exit.PASSED


def _readable(journal: Journal, ids: Iterable[str]) -> tuple[list[RunHistory], list[Damaged]]:
    """The runs of which everything can be read, and what is wrong with the others."""
    runs, damaged = list[RunHistory](), list[Damaged]()
    for run in ids:
        try:
            runs += filter(None, [one(journal, run)])
        except Damaged as error:
            damaged.append(error)
    return runs, damaged


def _line(run: RunHistory, paint: Paint) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.started))
    colour = "green" if run.exit == 0 else "red"
    states = ("passed", "cached", "skipped", "failed", "blocked")
    found = run.counts()
    counts = ", ".join(f"{found[state]} {state}" for state in states if found[state])
    return f"{run.id}  {when}  {paint(colour, run.state.ljust(11))} {run.seconds:7.1f}s  {run.engine:6}  {counts}"


def _json(run: RunHistory) -> str:
    stages = {stage.name: stage.state for stage in run.stages.values()}
    about = {"kind": "run", "run": run.id, "state": run.state, "exit": run.exit, "started": run.started, "seconds": run.seconds}
    return json.dumps({**about, "engine": run.engine, "stages": stages})
