"""Services that are delivered together, also as a program of its own, which can be told to die (see `small`)."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from gates import Check, Verification, all_probes_passed
from pipeline import Pipeline, Project, Store
from stages.delivery.haproxy import HAProxy
from stages.delivery.local import LocalProcesses
from stages.delivery.together import Deployments, DeployTogether, OneService, Service
from stages.smoke import Request, SmokeChecks
from tests import warm
from tests.stages.delivery.small import STRATEGIES, TOP, gated, image_stage, run_and_die

NAMES = ("front", "back")

Env = Mapping[str, str]


def pair(
    ports: Mapping[str, int], version: str, strategy: str, env: Mapping[str, Env] | None = None, wanted: str | None = None
) -> Pipeline:
    """Each service that has a port in that version, and `env` of each; verified is that they answer with it, or as is wanted."""
    gate = gated(image_stage())
    services = tuple(
        Service(
            name=name,
            release=gate,
            target=LocalProcesses(name=name, patience=10),
            router=HAProxy(name=name, port=ports[name]),
            env=(("VERSION", version), *(env or {}).get(name, {}).items()),
            ready=(env or {}).get(name, {}).get("READY", "/readyz"),
        )
        for name in ports
    )
    deploy = DeployTogether(services=services, strategy=dataclasses.replace(STRATEGIES[strategy], ready=10))  # type: ignore[type-var]
    each = {name: OneService(deployments=deploy, service=name) for name in ports}
    requests = (Request(path="/", contains=version if wanted is None else wanted),)
    smoke = {f"smoke-{name}": SmokeChecks(deployment=one, requests=requests) for name, one in each.items()}
    verified: Verification[Deployments] = Verification(
        deployment=deploy, checks=tuple(Check(evidence=one, rule=all_probes_passed) for one in smoke.values())
    )
    deployed = {f"deployed-{name}": one for name, one in each.items()}
    named: dict[str, Any] = {**dict(zip(ports, services, strict=True)), **deployed, **smoke}
    return Pipeline("pair", checks=gate.checks, deploy=deploy, verification=verified.checks, verified=verified, **named)


PROGRAM = "import sys; from tests.stages.delivery.pair import main; sys.exit(main(*sys.argv[1:]))"


def deploy_in_another_process(
    project: Project, store: Store, ports: Mapping[str, int], version: str, strategy: str, die_at: int
) -> warm.Process:
    words = (project.root, project.home, store.root, *(ports[name] for name in NAMES), version, strategy, die_at)
    return warm.start(["-c", PROGRAM, *map(str, words)], cwd=TOP, env=os.environ)


def main(root: str, home: str, store: str, front: str, back: str, version: str, strategy: str, die_at: str) -> int:
    pipeline = pair({"front": int(front), "back": int(back)}, version, strategy)
    return run_and_die(pipeline, root, home, store, int(die_at))
