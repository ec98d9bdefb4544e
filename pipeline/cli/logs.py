"""`logs`: what stages printed, from the run in which they were executed."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from pipeline.cli.paint import Paint
from pipeline.errors import Exit, LockgateError, did_you_mean
from pipeline.history import RunHistory, StageHistory, one
from pipeline.project import Project, log_directory
from pipeline.session import open_journal


def command(arguments: argparse.Namespace) -> int:
    project = Project.at(Path(arguments.directory), os.environ)
    run = wanted(project, arguments.run)
    if arguments.stage and arguments.stage not in run.stages:
        raise LockgateError(
            f"run {run.id} has no stage {arguments.stage!r}",
            right=did_you_mean(arguments.stage, run.stages),
            next="python -m pipeline list",
        )
    paint = Paint.for_stdout(arguments.color)
    for stage in [run.stages[arguments.stage]] if arguments.stage else run.stages.values():
        _show(project, run, stage, paint, always=bool(arguments.stage))
    return Exit.PASSED


def wanted(project: Project, start: str) -> RunHistory:
    """The run whose id begins with `start`; the latest for an empty string. Raises LockgateError."""
    run = one(open_journal(project), start)
    if run is None:
        raise LockgateError(
            f"no run's id begins with {start!r}" if start else "there is no run yet",
            where=str(project.home),
            next="python -m pipeline runs" if start else "python -m pipeline run",
        )
    return run


def _show(project: Project, run: RunHistory, stage: StageHistory, paint: Paint, *, always: bool) -> None:
    directory = log_directory(project.home, stage.made_in or run.id, stage.name)
    files = sorted(directory.glob("*.log"), key=_order) if directory.is_dir() else []
    if not files and not stage.error and not always:
        return
    made = f", made in run {stage.made_in}" if stage.state == "cached" else ""
    print(paint("bold", f"== {stage.name}: {stage.state}{made}"), flush=True)
    for file in files:
        with file.open("rb") as log:
            shutil.copyfileobj(log, sys.stdout.buffer)  # in pieces: a log may be larger than memory
        sys.stdout.buffer.flush()
    if stage.error:
        print(paint("red", stage.error))
    if stage.trace:
        print(stage.trace)
    if not files and not stage.error:
        print(paint("dim", f"it printed nothing: {stage.reason}" if stage.reason else "it printed nothing"))


def _order(file: Path) -> tuple[int, int]:
    attempt, _, number = file.name.split(".")[0].partition("-")
    return int(attempt), int(number)
