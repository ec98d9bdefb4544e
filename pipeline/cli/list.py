"""`list`: the stages, in the order they could run."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from pipeline.cli.paint import Paint
from pipeline.errors import Exit
from pipeline.project import Project
from pipeline.user_file import load


def command(arguments: argparse.Namespace) -> int:
    pipeline = load(Project.at(Path(arguments.directory), os.environ))
    paint = Paint.for_stdout(arguments.color)
    width = max(len(pipeline.name_of(stage)) for stage in pipeline)
    for stage in pipeline:
        name, kind = pipeline.name_of(stage), type(stage).__name__
        inputs = [pipeline.name_of(source) for source in pipeline.inputs(stage)]
        if arguments.output == "json":
            print(json.dumps({"kind": "stage", "stage": name, "type": kind, "effect": stage.effect.value, "inputs": inputs}))
        else:
            says = (type(stage).__doc__ or "").strip().partition("\n")[0]
            print(f"{paint('bold', name.ljust(width))}  {says}")
    return Exit.PASSED
