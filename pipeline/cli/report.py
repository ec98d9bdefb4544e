"""`report`: a run for people and for other programs."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from pathlib import Path
from typing import TextIO

from pipeline.cli.logs import wanted
from pipeline.errors import Exit
from pipeline.history import RunHistory
from pipeline.project import Project
from pipeline.reports.junit import junit
from pipeline.reports.markdown import markdown
from pipeline.reports.sarif import merged
from pipeline.store import Store


def command(arguments: argparse.Namespace, out: TextIO) -> int:
    project = Project.at(Path(arguments.directory), os.environ)
    run = wanted(project, arguments.run)
    if arguments.format == "sarif":
        print(merged(run, Store(project.home / "store")), file=out)
    else:
        shown = "json" if arguments.output == "json" else arguments.format
        print({"markdown": markdown, "junit": junit, "json": as_json}[shown](run), file=out)
    return Exit.PASSED


def as_json(run: RunHistory) -> str:
    """Everything that is known of the run; `docs/cli.md` names the fields."""
    return json.dumps({**dataclasses.asdict(run), "state": run.state, "seconds": run.seconds}, indent=2)
