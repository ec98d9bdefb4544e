"""Operators at their desk: a project on disk whose pipeline deploys, and its command line."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import anyio

from pipeline import Journal, Project
from pipeline.engines.local import free_port
from pipeline.rollouts import RolloutHistory, all_rollouts
from stages.delivery import process
from stages.delivery.down import down
from tests import warm
from tests.stages.delivery.small import TOP
from tests.web import get


@dataclass
class Desk:
    """A project on disk, and its command line."""

    project: Project
    port: int

    def start(self, *words: str, version: str = "one", **env: str) -> warm.Process:
        about = {"PYTHONPATH": str(TOP), "VERSION": version, **env}
        command = ["-m", "pipeline", words[0], "-C", str(self.project.root), *words[1:]]
        return warm.start(command, cwd=TOP, env={**os.environ, **about})

    def __call__(self, *words: str, code: int = 0, version: str = "one", **env: str) -> str:
        """What a command says; it has to end with that exit code."""
        found = self.start(*words, version=version, **env)
        assert found.wait() == code, found.output
        return found.output

    @property
    def rollouts(self) -> list[RolloutHistory]:
        journal = Journal(self.project.home / "journal.db")
        try:
            return all_rollouts(journal)
        finally:
            journal.close()

    def until(self, seen: Callable[[RolloutHistory], bool], *, many: int) -> None:
        """Until the rollout of that number is what is asked for."""
        end = time.monotonic() + 60
        while len(self.rollouts) < many or not seen(self.rollouts[many - 1]):
            assert time.monotonic() < end, self.rollouts
            time.sleep(0.05)

    def until_noted(self, kind: str, many: int) -> None:
        """Until the journal has so many events of the kind."""
        end = time.monotonic() + 60
        with contextlib.closing(Journal(self.project.home / "journal.db")) as journal:
            while len(list(journal.events(kind=kind, stage="deploy"))) < many:
                assert time.monotonic() < end
                time.sleep(0.05)

    def until_said(self, pattern: str) -> None:
        """Until `deployments` says so."""
        end = time.monotonic() + 60
        while not re.search(pattern, said := self("deployments")):
            assert time.monotonic() < end, said

    def answer(self) -> str:
        return get(f"http://127.0.0.1:{self.port}").text

    def allow(self, **operators: list[str]) -> None:
        table = "".join(f"{name} = {json.dumps(who)}\n" for name, who in operators.items())
        with (self.project.root / "pyproject.toml").open("a") as file:
            file.write(f"[tool.pipeline.operators]\n{table}")


def weighing(one: RolloutHistory) -> bool:
    return one.open and one.step.text.startswith("weigh")


DELIVERS = """
import dataclasses
import os
from gates import ErrorRate, Judge
from pipeline import Pipeline
from stages.delivery.clean_up import CleanUp
from stages.delivery.probe import HttpProbe
from stages.delivery.rolling import Rolling
from stages.delivery.strategy import Canary
from stages.probe import WatchService
from tests.stages.delivery.small import STRATEGIES, delivery, deployment, die_on_the_way_back
if "DIES_AT" in os.environ:
    die_on_the_way_back(int(os.environ["DIES_AT"]))
slow = Judge(measures=(ErrorRate(budget=0.2),), warm_up=0, floor=10, at_least=3600, at_most=7200)
STRATEGIES["slow"] = Canary(shares=(50, 100), judge=slow, tick=0.1, ready=30)
STRATEGIES["slow rolling"] = Rolling(judge=slow, tick=0.1)
version, strategy = os.environ["VERSION"], os.environ.get("STRATEGY", "blue-green")
unready, ready = ((("UNREADY", "1"),), 1) if "UNREADY" in os.environ else ((), float(os.environ.get("WITHIN", "30")))
deploy = deployment(PORT, version, *unready, ready=ready, strategy=strategy)
if "STATUS" in os.environ:
    asked = HttpProbe("/readyz", statuses=(int(os.environ["STATUS"]),) * 2)
    deploy = dataclasses.replace(deploy, ready=asked, router=dataclasses.replace(deploy.router, host="0.0.0.0"))
watch = WatchService(deployment=deploy, seconds=float(os.environ["VERIFIES"])) if "VERIFIES" in os.environ else None
pipeline = delivery(deploy, version if "WRONG" not in os.environ else "not to be found", watch=watch)
if "WARM" in os.environ:
    smoke, verified = pipeline["smoke"], pipeline["verified"]
    clean_up = CleanUp(verified=verified, target=deploy.target, router=deploy.router, warm=float(os.environ["WARM"]))
    shown = {"deploy": deploy, "smoke": smoke, "verification": verified.checks, "verified": verified, "clean_up": clean_up}
    pipeline = Pipeline("small", checks=deploy.release.checks, **shown)
"""
"""A service that is deployed as the environment says."""


@contextlib.contextmanager
def delivering(project: Project) -> Iterator[Desk]:
    port = free_port()
    with at_desk(project, DELIVERS.replace("PORT", str(port)), port) as found:
        yield found


@contextlib.contextmanager
def hanging(some: list[process.Process]) -> Iterator[None]:
    """Meanwhile these processes run and do nothing."""
    for one in some:
        os.kill(one.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for one in some:
            with contextlib.suppress(ProcessLookupError):  # it was ended meanwhile
                os.kill(one.pid, signal.SIGCONT)


@contextlib.contextmanager
def at_desk(project: Project, pipeline: str, port: int) -> Iterator[Desk]:
    """With that text as the file of the pipeline; the state directory is where the project's is by itself."""
    (project.root / "operated.py").write_text(pipeline)
    with (project.root / "pyproject.toml").open("a") as file:
        file.write("[tool.pipeline]\nengine = 'host'\nfile = 'operated.py'\n")
    own = Project(root=project.root, home=project.root / ".pipeline", settings=project.settings)
    yield Desk(own, port)
    anyio.run(down, own)
