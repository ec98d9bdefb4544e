"""Take down all that a project left running, also at its daemon and on other machines: python -m stages.delivery.down DIRECTORY.

With --check after the directory nothing is taken down: it says what runs, and the exit code is 0 when something does, else 1.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio

from gates.words import counted
from pipeline import StageFailed, Store
from pipeline.errors import LockgateError
from pipeline.lock import Lock
from pipeline.project import Project
from pipeline.session import open_journal
from stages.delivery import process
from stages.delivery.elsewhere import Elsewhere, known
from stages.delivery.kept import SUPERVISOR
from stages.delivery.private import sockets

KINDS = ("router", "supervisor", "instance", "service")
"""What runs, in the order in which it is ended: a supervisor would start its instances again."""

AGAIN = "the same command again, by somebody who may end what goes on"


def left(project: Project) -> list[process.Process]:
    """The project's routers, instances and services, in this order."""
    return sorted(process.running(str(project.home / "state") + os.sep), key=lambda one: _order(project, one.mark))


def elsewhere(project: Project) -> list[Elsewhere]:
    """The targets that had instances of the project at a daemon or on another machine."""
    deployed, store = project.home / "state" / "deploy", Store(project.home / "store")
    return [target for place in sorted(deployed.glob("*")) if (target := known(place, store)) is not None]


async def down(project: Project) -> list[str]:
    """End all of them; their marks.

    Raises StageFailed where some cannot be ended, or a daemon or a machine that had instances does not answer; all others are
    ended before.
    """
    found, failed = left(project), list[StageFailed]()
    for _, kind in itertools.groupby(found, key=lambda one: _order(project, one.mark)):
        async with anyio.create_task_group() as tasks:
            for one in kind:
                tasks.start_soon(_end, project, one, failed)
    gone: list[str] = []
    for target in elsewhere(project):
        try:
            gone += await target.down()
        except StageFailed as error:
            failed.append(error)
    if failed:
        raise failed[0] if len(failed) == 1 else StageFailed("; ".join(one.what for one in failed), next=AGAIN)
    for router in (project.home / "state" / "router").glob("*"):  # also one that was killed
        shutil.rmtree(sockets(router), ignore_errors=True)
    return [*(one.mark for one in found), *gone]


async def _end(project: Project, one: process.Process, failed: list[StageFailed]) -> None:
    """End a process; that it cannot be ended is no reason to leave another."""
    try:
        await process.stop(one)
    except OSError as error:  # it has other rights than this user, or not even a kill ends it in time
        name, why = one.mark.removeprefix(f"{project.home / 'state'}{os.sep}"), error.strerror or "it goes on after it was killed"
        failed.append(StageFailed(f"process {one.pid} ({name}) cannot be ended: {why}", next=AGAIN))


async def _elsewhere(project: Project) -> int:
    return sum([len(group.instances) for target in elsewhere(project) for group in (await target.groups()).values()])


def _order(project: Project, mark: str) -> int:
    kind = Path(mark).relative_to(project.home / "state").parts[0]
    if mark.endswith(f":{SUPERVISOR}"):
        return 1
    return {"router": 0, "deploy": 2}.get(kind, 3)


@contextlib.contextmanager
def _no_rollout(project: Project) -> Iterator[None]:
    """None goes on meanwhile, nor is one verified: it would start again what is taken down. Raises StageFailed where one is."""
    deployed = project.home / "state" / "deploy"
    lock = Lock(deployed / ".lock")
    with contextlib.ExitStack() as held:
        if deployed.is_dir():
            if not (_take_effects(project, held) and lock.try_take()):
                raise StageFailed(
                    "a rollout is going on or about to be verified, which would start again what is taken down",
                    where=str(project.root),
                    right="the end of it",
                    next="python -m pipeline abort; where its run does not react, python -m pipeline recover --take-over",
                )
            held.callback(lock.give_back)
        yield


def _take_effects(project: Project, held: contextlib.ExitStack) -> bool:
    """Whether no run has effects that nobody confirmed yet. Where the journal cannot be asked that is said, and none has."""
    try:
        journal = held.enter_context(contextlib.closing(open_journal(project)))
        lock = journal.effects_lock()
        if taken := lock.try_take():
            held.callback(lock.give_back)
        return taken
    except LockgateError as error:
        print(f"warning: whether a deployment is about to be verified is not known: {error}", file=sys.stderr)
        return True


def main(*words: str) -> int:
    about, usage = (__doc__ or "").split("\n\n"), "python -m stages.delivery.down [-h] [--check] DIRECTORY"
    parser = argparse.ArgumentParser(usage=usage, description=about[0], epilog=about[1])
    parser.add_argument("directory", metavar="DIRECTORY", type=Path, help="the project, as for `python -m pipeline -C`")
    parser.add_argument("--check", action="store_true", help="take nothing down, say what runs")
    found = parser.parse_args(words)
    try:
        return _down(Project.at(found.directory, os.environ), check=found.check)
    except LockgateError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: what has not ended yet goes on; the same command again takes it down", file=sys.stderr)
        return 130


def _down(project: Project, *, check: bool) -> int:
    if check:
        found = [_order(project, one.mark) for one in left(project)] + [2] * anyio.run(_elsewhere, project)
        print(", ".join(counted(found.count(kind), name) for kind, name in enumerate(KINDS) if kind in found) or "nothing runs")
        return 0 if found else 1
    with _no_rollout(project):
        ended = anyio.run(
            down, project
        )  # where a daemon or another machine does not answer, what runs without it was ended before
    print(f"took down {len(ended)} {'process' if len(ended) == 1 else 'processes'}" if ended else "nothing was running")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
