"""`history`: every rollout there was, what came of it, and what operators did about it."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TextIO

from pipeline.cli.console import first_line
from pipeline.cli.deployments import as_data, details, line, when
from pipeline.cli.paint import Paint, shown
from pipeline.errors import ConfigError, Exit, did_you_mean
from pipeline.order import Order
from pipeline.project import Project
from pipeline.rollouts import all_rollouts, look
from pipeline.session import open_journal


def command(arguments: argparse.Namespace, out: TextIO) -> int:
    project = Project.at(Path(arguments.directory), os.environ)
    journal = open_journal(project)
    every = all_rollouts(journal)
    found = [one for one in every if arguments.stage in ("", one.stage)]
    if every and not found:
        right = did_you_mean(arguments.stage, {one.stage for one in every})
        raise ConfigError(f"no rollout of {arguments.stage!r} is known", right=right, next="python -m pipeline history")
    if not found and arguments.output == "text":
        print("nothing was deployed yet; python -m pipeline run", file=out)
    for one in found[-arguments.limit :]:
        look(journal, project.home, one)
    paint = Paint.on_stream(out, arguments.color)
    for one in found[-arguments.limit :]:
        if arguments.output == "json":
            print(json.dumps({**as_data(one), "orders": [order._asdict() for order in one.orders]}), file=out)
            continue
        print(line(one, paint), file=out)
        for text in (*(details(one) if one.state != "verified" else ()), *map(_ordered, one.orders)):
            print(paint("dim", f"    {text}"), file=out)
    return Exit.PASSED


def _ordered(order: Order) -> str:
    words = [order.verb, *(["--end"] if order.end else []), *([order.of] if order.of else [])]
    refused = f"; nothing came of it: {first_line(order.refused)}" if order.refused else ""
    return shown(f"{when(order.at)} {order.by}: {' '.join(words)}{f', {order.why}' if order.why else ''}{refused}")
