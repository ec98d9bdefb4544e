"""Take down everything a project left running on this machine: python -m stages.delivery.down DIRECTORY.

With --check after the directory nothing is taken down, and the exit code is 0 when something runs, else 1.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import anyio

from pipeline.project import Project
from stages.delivery import process
from stages.delivery.haproxy import sockets


def left(project: Project) -> list[process.Process]:
    """The project's routers, instances and services, in this order."""
    return sorted(process.running(str(project.home / "state") + os.sep), key=lambda one: _order(project, one.mark))


async def down(project: Project) -> list[str]:
    """End all of them; their marks."""
    found = left(project)
    for one in found:
        await process.stop(one)
        shutil.rmtree(sockets(Path(one.mark.removesuffix(":"))), ignore_errors=True)  # of a router; nobody else has any
    return [one.mark for one in found]


def _order(project: Project, mark: str) -> int:
    kind = Path(mark).relative_to(project.home / "state").parts[0]
    return {"router": 0, "deploy": 1}.get(kind, 2)


def main(directory: str, *words: str) -> int:
    project = Project.at(Path(directory), os.environ)
    if words == ("--check",):
        return 0 if left(project) else 1
    ended = anyio.run(down, project)
    print(f"took down {len(ended)} {'process' if len(ended) == 1 else 'processes'}" if ended else "nothing was running")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
