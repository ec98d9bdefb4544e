"""`report`: a run for people and for other programs."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
from pathlib import Path
from typing import TextIO

from pipeline.cli.logs import wanted
from pipeline.errors import Exit, LockgateError
from pipeline.history import RunHistory, StageHistory
from pipeline.project import Project
from pipeline.reports.junit import junit
from pipeline.reports.markdown import markdown
from pipeline.reports.sarif import merged
from pipeline.session import open_journal
from pipeline.store import Store
from pipeline.user_file import load


def command(arguments: argparse.Namespace, out: TextIO) -> int:
    project = Project.at(Path(arguments.directory), os.environ)
    run = wanted(project, arguments.run)
    if arguments.format == "sarif":
        print(merged(run, Store(project.home / "store"), Scanned(project, run)), file=out)
    else:
        shown = "json" if arguments.output == "json" else arguments.format
        print({"markdown": markdown, "junit": junit, "json": as_json}[shown](run), file=out)
    return Exit.PASSED


def as_json(run: RunHistory) -> str:
    """Everything that is known of the run; `docs/cli.md` names the fields."""
    return json.dumps({**dataclasses.asdict(run), "state": run.state, "seconds": run.seconds}, indent=2)


class Scanned:
    """What the journal tells of the stages of a run, and the pipeline as it is now of which there still are."""

    def __init__(self, project: Project, run: RunHistory) -> None:
        self._project, self._run = project, run

    def may_scan(self, stage: StageHistory) -> bool:
        """Whether it returned what carries a report; of runs that older versions journalled any stage may have."""
        return self._scans.get(stage.name, True)

    def may_run(self, name: str) -> bool:
        """Whether there is such a stage; there may be where the pipeline cannot be read."""
        try:
            return name in self._names
        except LockgateError:
            return True

    @functools.cached_property
    def _names(self) -> frozenset[str]:
        pipeline = load(self._project)
        return frozenset(pipeline.name_of(stage) for stage in pipeline)

    @functools.cached_property
    def _scans(self) -> dict[str, bool]:
        events = open_journal(self._project).events(self._run.id, kind=("run.planned", "stage.expanded"))
        return {step["name"]: step["scans"] for event in events for step in event.data["stages"] if "scans" in step}
