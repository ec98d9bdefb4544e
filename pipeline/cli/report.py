"""`report`: a run for people and for other programs."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
from pathlib import Path
from typing import Any, TextIO

from pipeline.cli.logs import wanted
from pipeline.data import is_scan
from pipeline.errors import Exit, LockgateError
from pipeline.history import RunHistory, StageHistory, planned
from pipeline.project import Project
from pipeline.reports.junit import junit
from pipeline.reports.markdown import markdown
from pipeline.reports.sarif import merged
from pipeline.session import open_journal
from pipeline.stage import Stage
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
        """Whether it returned what carries a report.

        Runs of older versions do not tell: it may have, unless there still is such a stage, and that scans nothing.
        """
        step, found = self._planned.get(stage.name, {}), self._stages.get(stage.name)
        if "scans" in step:
            return bool(step["scans"])
        return found is None or type(found).__name__ != step.get("type") or is_scan(found.result_type())

    def may_run(self, name: str) -> bool:
        """Whether there is such a stage; there may be where the pipeline cannot be read."""
        return not self._stages or name in self._stages

    @functools.cached_property
    def _stages(self) -> dict[str, Stage[Any]]:
        try:
            pipeline = load(self._project)
        except LockgateError:
            return {}
        return {pipeline.name_of(stage): stage for stage in pipeline}

    @functools.cached_property
    def _planned(self) -> dict[str, dict[str, Any]]:
        return {step["name"]: step for step in planned(open_journal(self._project), self._run.id)}
