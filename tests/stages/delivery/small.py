"""The delivery of the small service, also as a program of its own, which can be told to die.

`main` with a number: the process is killed as soon as so many events of the rollout are in the journal, the last being
that the stage is finished. Looks of a judge are not counted, as nobody knows how many there will be.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
from pathlib import Path
from typing import Any

from gates import Check, ErrorRate, Judge, QualityGate, Verification, all_probes_passed
from gates.size import SizeReport
from gates.verdict import Verdict, passed
from pipeline import Journal, Pipeline, Project, Stage, Store
from pipeline.journal import Event
from pipeline.run import Outcome
from pipeline.settings import Settings
from stages.delivery.deploy import Deploy
from stages.delivery.envoy import Envoy
from stages.delivery.haproxy import HAProxy
from stages.delivery.local import LocalProcesses
from stages.delivery.model import Deployment
from stages.delivery.rolling import Rolling
from stages.delivery.shadow import Shadow
from stages.delivery.strategy import BlueGreen, Canary, Recreate, Strategy
from stages.image import BuildImage, Image, ImageSize, Placed
from stages.smoke import Request, SmokeChecks
from stages.source import WorkingCopy
from tests import warm
from tests.running import run_pipeline

TOP = Path(__file__).parents[3]


def image_stage() -> BuildImage:
    source = WorkingCopy(include=("serve.py",))
    return BuildImage(layers=(Placed(tree=source, at="/app"),), entrypoint=("python", "/app/serve.py"))


def small(report: SizeReport) -> Verdict:
    return passed("small", f"{report.total} bytes", wanted="a small image")


def gated(image: BuildImage) -> QualityGate[Image]:
    return QualityGate(artifact=image, checks=(Check(evidence=ImageSize(image=image), rule=small),))


SURE = Judge(measures=(ErrorRate(budget=0.2),), beta=0.2, warm_up=0, floor=10, at_least=0, at_most=60)
"""A judge that is soon sure of a release that never fails."""

STRATEGIES: dict[str, Strategy] = {
    "blue-green": BlueGreen(ready=30),
    "canary": Canary(shares=(40, 100), judge=SURE, tick=0.1, ready=30),
    "recreate": Recreate(ready=30),
    "rolling": Rolling(ready=30),
}


def deployment(port: int, version: str, *env: tuple[str, str], ready: float = 30, strategy: str = "blue-green") -> Deploy:
    """`strategy` with `envoy` before it is one behind Envoy; there is a shadow too."""
    behind, name = strategy.startswith("envoy "), strategy.removeprefix("envoy ").strip()
    envoy = Envoy(name="app", port=port)
    if name == "shadow":
        chosen: Strategy = Shadow(
            router=envoy, then=BlueGreen(ready=ready), judge=SURE, share=100, ignore=("line 1",), tick=0.1, ready=ready
        )
    else:
        chosen = dataclasses.replace(STRATEGIES[name], ready=ready)  # type: ignore[type-var]  # each is a dataclass
    return Deploy(
        release=gated(image_stage()),
        target=LocalProcesses(name="app", patience=10),
        router=envoy if behind else HAProxy(name="app", port=port),
        strategy=chosen,
        env=(("VERSION", version), *env),
        instances=2,
    )


def delivery(deploy: Deploy, wanted: str = "", *, watch: Stage[Any] | None = None) -> Pipeline:
    """Deploy, and verify that `/` answers 200 with `wanted` in it, or what `watch` says."""
    smoke = watch or SmokeChecks(deployment=deploy, requests=(Request(path="/", contains=wanted),))
    verified: Verification[Deployment] = Verification(deployment=deploy, checks=(Check(evidence=smoke, rule=all_probes_passed),))
    gate: Any = deploy.release
    return Pipeline("small", checks=gate.checks, deploy=deploy, smoke=smoke, verification=verified.checks, verified=verified)


PROGRAM = "import sys; from tests.stages.delivery.small import main; sys.exit(main(*sys.argv[1:]))"
"""Not `-m`: there the stages would be those of `__main__`, and so about something else."""


def deploy_in_another_process(
    project: Project,
    store: Store,
    port: int,
    version: str,
    die_at: int = 0,
    strategy: str = "blue-green",
    after: float = 0,
    wanted: str = "",
) -> warm.Process:
    """A run of its own of the same project; it dies at the event of that number."""
    words = (project.root, project.home, store.root, port, version, die_at, strategy, after, wanted)
    return warm.start(["-c", PROGRAM, *map(str, words)], cwd=TOP, env=os.environ)


def main(root: str, home: str, store: str, port: str, version: str, die_at: str, strategy: str, after: str, wanted: str) -> int:
    pipeline = delivery(deployment(int(port), version, strategy=strategy), wanted)
    return run_and_die(pipeline, root, home, store, int(die_at), float(after))


def die_on_the_way_back(number: int) -> None:
    """Kill this process when so many events of a way back are in its journal, this one the last."""
    append = Journal.append
    seen: list[Event] = []

    def until(journal: Journal, *events: Event) -> None:
        append(journal, *events)
        seen.extend(event for event in events if counts(event))
        if len(seen) >= number:
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(Journal, "append", until)  # noqa: B010 - a method may not be assigned to, says mypy


def counts(event: Event) -> bool:
    """Whether a process may be told to die at it."""
    step = event.kind.startswith("rollout.") and event.kind != "rollout.looked"
    return step or (event.stage, event.kind) == ("deploy", "stage.finished")


def run_and_die(pipeline: Pipeline, root: str, home: str, store: str, die_at: int, after: float = 0) -> int:
    """A run that is killed `after` seconds since so many events of its rollout are in the journal; how it ended, if it did."""
    project = Project(root=Path(root), home=Path(home), settings=Settings())
    journal = Journal(project.home / "journal.db")
    seen: list[str] = []

    def die(event: Event) -> None:
        if counts(event):
            seen.append(event.kind)
            if len(seen) == die_at and after:
                threading.Timer(after, os.kill, (os.getpid(), signal.SIGKILL)).start()
            elif len(seen) == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    journal.listen(die)
    outcome: Outcome = run_pipeline(pipeline, project, Store(Path(store)), journal)[0]
    print(outcome.failed)
    return int(outcome.exit)
