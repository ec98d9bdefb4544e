"""`python -m benchmarks.killed DIRECTORY STAGE KIND`: run the project there, and be killed when an event is durable.

The number of every event that is durable is left in the file `told` before anything else happens.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from benchmarks.inside import Silent
from pipeline.cli.run import execute
from pipeline.journal import Event
from pipeline.session import Session


class Deadly(Silent):
    """Is killed at one event."""

    def __init__(self, root: Path, stage: str, kind: str) -> None:
        self._told = (root / "told").open("a", buffering=1)
        self._stage, self._kind = stage, kind

    def event(self, event: Event) -> None:
        self._told.write(f"{event.seq}\n")
        if (event.stage, event.kind) == (self._stage, self._kind):
            os.kill(os.getpid(), signal.SIGKILL)


def main(root: Path, stage: str, kind: str) -> int:
    session = Session.open(root, os.environ, engine="host")
    session.claim()
    view = Deadly(root, stage, kind)
    session.journal.listen(view.event)
    return execute(session, session.plan(), view, jobs=0, fail_fast=False)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
