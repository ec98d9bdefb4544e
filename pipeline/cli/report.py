"""`report`: a run for people and for other programs."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from pipeline.cli.logs import wanted
from pipeline.errors import Exit, LockgateError
from pipeline.history import RunHistory
from pipeline.project import Project
from pipeline.reports.junit import junit
from pipeline.reports.markdown import markdown
from pipeline.reports.sarif import is_scan, merged
from pipeline.session import open_journal
from pipeline.stage import Stage
from pipeline.store import Store
from pipeline.user_file import load


def command(arguments: argparse.Namespace, out: TextIO) -> int:
    project = Project.at(Path(arguments.directory), os.environ)
    run = wanted(project, arguments.run)
    if arguments.format == "sarif":
        print(merged(run, Store(project.home / "store"), may_scan(project, run)), file=out)
    else:
        shown = "json" if arguments.output == "json" else arguments.format
        print({"markdown": markdown, "junit": junit, "json": as_json}[shown](run), file=out)
    return Exit.PASSED


def as_json(run: RunHistory) -> str:
    """Everything that is known of the run; `docs/cli.md` names the fields."""
    return json.dumps({**dataclasses.asdict(run), "state": run.state, "seconds": run.seconds}, indent=2)


def may_scan(project: Project, run: RunHistory) -> Callable[[str], bool]:
    """Whether a stage of the run may have scanned something: it may, unless the pipeline still has it, of the same class."""

    @functools.cache
    def known() -> tuple[dict[str, Stage[Any]], dict[str, str]]:
        try:
            pipeline = load(project)
        except LockgateError:
            return {}, {}
        planned = open_journal(project).events(run.id, kind=("run.started", "run.planned"))  # the former in format 1
        types = {step["name"]: step["type"] for event in planned for step in event.data.get("stages", ())}
        return {pipeline.name_of(stage): stage for stage in pipeline}, types

    def may(name: str) -> bool:
        stages, types = known()
        return name not in stages or type(stages[name]).__name__ != types.get(name) or is_scan(stages[name])

    return may
