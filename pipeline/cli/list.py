"""`list`: the stages, in the order they could run."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TextIO

from pipeline.cli.paint import Paint
from pipeline.errors import Exit
from pipeline.project import Project
from pipeline.user_file import load


def command(arguments: argparse.Namespace, out: TextIO) -> int:
    pipeline = load(Project.at(Path(arguments.directory), os.environ))
    paint = Paint.on_stream(out, arguments.color)
    width = max(len(pipeline.name_of(stage)) for stage in pipeline)
    told: dict[str, str] = {}
    for stage in pipeline:
        name, kind = pipeline.name_of(stage), type(stage).__name__
        inputs = [pipeline.name_of(source) for source in pipeline.inputs(stage)]
        if arguments.output == "json":
            about = {"kind": "stage", "stage": name, "type": kind, "effect": stage.effect.value}
            print(json.dumps({**about, "always": stage.always, "inputs": inputs}), file=out)
            continue
        sentence = (type(stage).__doc__ or "").strip().partition("\n")[0]
        first = told.setdefault(sentence, name) if sentence else ""
        says = sentence if first == name else _short(kind, inputs, first)
        print(f"{paint('bold', name.ljust(width))}  {says}{' (always)' if stage.always else ''}", file=out)
    return Exit.PASSED


def _short(kind: str, inputs: list[str], first: str) -> str:
    """What tells a stage from the `first` one whose class says the same; all there is of a class that says nothing."""
    more = f" and {len(inputs) - 3} more" if len(inputs) > 3 else ""
    of = f" of {', '.join(inputs[:3])}{more}" if inputs else ""
    return f"{kind}{of}{f', as {first}' if first else ''}"
