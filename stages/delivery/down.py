"""Take down everything a project left running on this machine: python -m stages.delivery.down DIRECTORY."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import anyio

from pipeline.project import Project
from stages.delivery import process
from stages.delivery.haproxy import sockets


async def down(project: Project) -> list[str]:
    """End the project's routers, instances and services, in this order; their marks."""
    found = sorted(process.running(str(project.home / "state") + os.sep), key=lambda one: _order(project, one.mark))
    for one in found:
        await process.stop(one)
        shutil.rmtree(sockets(Path(one.mark.removesuffix(":"))), ignore_errors=True)  # of a router; nobody else has any
    return [one.mark for one in found]


def _order(project: Project, mark: str) -> int:
    kind = Path(mark).relative_to(project.home / "state").parts[0]
    return {"router": 0, "deploy": 1}.get(kind, 2)


def main(directory: str) -> int:
    project = Project.at(Path(directory), os.environ)
    ended = anyio.run(down, project)
    print(f"took down {len(ended)} processes" if ended else "nothing was running")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
