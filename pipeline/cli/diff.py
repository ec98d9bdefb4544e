"""`diff`: in what two runs differ."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TextIO

from pipeline.cli.logs import wanted
from pipeline.cli.paint import Paint
from pipeline.cli.plan import brief, reasons
from pipeline.comparison import Contrast, contrasts
from pipeline.errors import Exit
from pipeline.explanation import changes, components
from pipeline.history import RunHistory
from pipeline.project import Project
from pipeline.store import Store


def command(arguments: argparse.Namespace, out: TextIO) -> int:
    project = Project.at(Path(arguments.directory), os.environ)
    store = Store(project.home / "store")
    one, other = wanted(project, arguments.one), wanted(project, arguments.other)
    found = contrasts(one, other, partial(components, store), partial(changes, store=store))
    if arguments.output == "json":
        for contrast in found:
            print(json.dumps({"kind": "diff", "run": one.id, "other": other.id, **asdict(contrast)}), file=out)
        return Exit.PASSED
    paint = Paint.on_stream(out, arguments.color)
    print(f"{_heading(one)} against {_heading(other)}", file=out)
    for contrast in found:
        for line in _lines(contrast, paint):
            print(line, file=out)
    same = len(other.stages.keys() | one.stages.keys()) - len(found)
    print(f"{len(found)} {'stage differs' if len(found) == 1 else 'stages differ'}, {same} the same", file=out)
    return Exit.PASSED


def _heading(run: RunHistory) -> str:
    commit = f" at {run.about['commit'][:12]}" if run.about.get("commit") else ""
    return f"{run.id}{commit} ({run.state})"


def _lines(contrast: Contrast, paint: Paint) -> list[str]:
    states = contrast.now if contrast.before == contrast.now else f"{contrast.before or 'none'} -> {contrast.now or 'none'}"
    results = contrast.result_before, contrast.result_now
    result = "the same result" if results[0] == results[1] else f"result {brief(results[0])} -> {brief(results[1])}"
    lines = [f"  {paint('bold', contrast.stage)}: {states}, {result}"]
    lines += [paint("dim", f"      {line}") for line in reasons(contrast.changes)]
    if contrast.forgotten:
        lines.append(paint("dim", "      what it depended on is not kept in the store any more"))
    return lines
