"""`resume`: go on with a run that was cut off."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TextIO

from pipeline.cli.console import View, console
from pipeline.cli.logs import wanted
from pipeline.cli.run import at_work, execute
from pipeline.history import RunHistory
from pipeline.plan import plan
from pipeline.project import Project
from pipeline.resumption import check_cut_off, check_unchanged
from pipeline.session import Session


def command(arguments: argparse.Namespace, out: TextIO) -> int:
    """As the run was: its stages, its engine and its occasion; what it has done is not done again."""
    directory = Path(arguments.directory)
    run = wanted(Project.at(directory, os.environ), arguments.run)
    check_cut_off(run)
    occasion = {name: run.about[name] for name in ("branch", "event", "environment") if run.about.get(name)}
    session = Session.open(directory, os.environ, engine=run.engine, chosen=occasion)
    return at_work(session, lambda: _go_on(session, run, arguments, console(arguments, out)))


def _go_on(session: Session, run: RunHistory, arguments: argparse.Namespace, view: View) -> int:
    stages = session.pipeline.upstream(session.pipeline[name] for name, stage in run.stages.items() if not stage.part_of)
    made = plan(session.pipeline, stages, session.world(stages, arguments.again, resumed=run.id))
    check_unchanged(made, run)
    session.journal.listen(view.event)
    return execute(session, made, view, jobs=arguments.jobs, fail_fast=arguments.fail_fast, workers=arguments.workers, resume=run)
