"""`python -m benchmarks.inside DIRECTORY`: run the project there as `python -m pipeline run` does, nothing shown, and print the
seconds that it took to build the pipeline, to plan, and to run."""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

from benchmarks import project
from benchmarks.graph import layered
from pipeline.cli.run import execute
from pipeline.journal import Event
from pipeline.session import Session


class Silent:
    """A view of which nobody sees anything."""

    def event(self, event: Event) -> None:
        return None

    def log(self, stage: str, piece: bytes) -> None:
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        return None


def measured(root: Path) -> dict[str, float]:
    gc.disable()  # as in `python -m pipeline`, until the run turns it on
    began = time.perf_counter()
    session = Session.open(root, os.environ, engine="host")
    built = time.perf_counter()
    plan = session.plan()
    planned = time.perf_counter()
    session.claim()
    code = execute(session, plan, Silent(), jobs=0, fail_fast=False)
    session.leave()
    ended = time.perf_counter()
    if code:
        raise RuntimeError(f"the run ended with {code}")
    return {"build": built - began, "plan": planned - built, "run": ended - planned}


def main(root: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="lockgate-bench-") as place:
        project.write(Path(place, "one"), layered(1))
        measured(Path(place, "one"))  # from now on everything is imported
    print(json.dumps(measured(root)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
