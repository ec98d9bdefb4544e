"""`graph`: the pipeline as a picture."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TextIO

from pipeline.errors import Exit
from pipeline.project import Project
from pipeline.reports import graph
from pipeline.user_file import load

FORMATS = {"text": graph.text, "mermaid": graph.mermaid, "dot": graph.dot, "svg": graph.svg, "json": graph.as_json}


def command(arguments: argparse.Namespace, out: TextIO) -> int:
    pipeline = load(Project.at(Path(arguments.directory), os.environ))
    wanted = "json" if arguments.output == "json" else arguments.format
    print(FORMATS[wanted](pipeline), file=out)
    return Exit.PASSED
