"""The delivery of the camera counting service: from the working copy to a verified deployment behind HAProxy."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

from gates import Check, QualityGate, Verification, WithinBudget, all_passed, all_probes_passed
from pipeline import Pipeline
from stages.delivery.deploy import Deploy, RunOnce
from stages.delivery.haproxy import HAProxy
from stages.delivery.local import LocalProcesses
from stages.delivery.strategy import BlueGreen
from stages.environment import PythonEnvironment
from stages.image import BuildImage, Placed
from stages.journey import UserJourney
from stages.local_service import Bound, LocalService
from stages.postgres import PostgresService
from stages.probe import WatchService
from stages.pytest import UnitTests
from stages.smoke import Request, SmokeChecks
from stages.source import SourceProvenance, WorkingCopy
from stages.wheel import BuildDistributions, InstalledWheel

if TYPE_CHECKING:
    import httpx

# Sources: what is shipped, what tests it, and each lock on its own, so that an edit runs only what it touches.
code = WorkingCopy(include=("src", "pyproject.toml", "README.md"))
tested = WorkingCopy(include=("src", "tests", "pyproject.toml"))
runtime_lock = WorkingCopy(include=("requirements.lock",))
test_lock = WorkingCopy(include=("test.lock",))
build_lock = WorkingCopy(include=("build.lock",))
provenance = SourceProvenance()

# Environments: the only stages that reach the network.
runtime = PythonEnvironment(source=runtime_lock, lock="requirements.lock")
test_environment = PythonEnvironment(source=test_lock, lock="test.lock")
build_environment = PythonEnvironment(source=build_lock, lock="build.lock")

# Build.
wheel = BuildDistributions(source=code, environment=build_environment)
installed = InstalledWheel(wheel=wheel)
image = BuildImage(
    layers=(Placed(tree=runtime, at="app/site"), Placed(tree=installed, at="app/lib")),
    entrypoint=("python", "-m", "camera_counting", "serve"),
    env=(("PYTHONPATH", "/app/lib:/app/site"),),
    ports=(8000,),
)

# Test.
unit = UnitTests(source=tested, environment=test_environment, packages=(installed,), tests=("tests/unit",))
database = PostgresService()
integration = UnitTests(
    source=tested, environment=test_environment, packages=(installed,), tests=("tests/integration",), services=(database,)
)

gate = QualityGate(
    artifact=image,
    checks=(Check(evidence=unit, rule=all_passed), Check(evidence=integration, rule=all_passed)),
)

# Deploy: instances of the image as processes of this machine, behind HAProxy, with a PostgreSQL that stays.
target = LocalProcesses(name="camera-counting")
local_database = LocalService(service=database, keep=(("PGDATA", "pgdata"),))
database_url = Bound(
    address=local_database, variable="DATABASE_URL", template="postgresql://postgres@{host}:{port}/postgres"
)
migrate = RunOnce(release=gate, target=target, command=("python", "-m", "camera_counting", "migrate"), bindings=(database_url,))
deploy = Deploy(
    release=gate,
    target=target,
    router=HAProxy(name="camera-counting", port=int(os.environ.get("CAMERA_COUNTING_PORT", "8080"))),
    strategy=BlueGreen(),
    bindings=(database_url,),
    after=(migrate,),
    instances=2,
)

# Verify where it runs; when a check fails, the deployment goes back.
FRAMES = Path(__file__).parent / "journey"


async def count_people(client: httpx.AsyncClient) -> AsyncIterator[str]:
    """A camera is set up, sends a frame with four people, and its total is shown."""
    camera = "/cameras/verification"
    empty, people = (FRAMES / "empty.jpg").read_bytes(), (FRAMES / "four_people.jpg").read_bytes()
    answer = await client.put(f"{camera}/background", params={"person_width": 30, "person_height": 92}, content=empty)
    assert answer.status_code == 204, answer.text
    yield "a camera gets its background"
    answer = await client.post(f"{camera}/frames", content=people)
    assert answer.json()["count"] == 4, answer.text
    yield "four people are counted"
    cameras = (await client.get("/cameras")).json()["cameras"]
    assert any(one["id"] == "verification" and one["last_count"] == 4 for one in cameras), cameras
    yield "the total is shown"


smoke = SmokeChecks(
    deployment=deploy,
    requests=(
        Request(path="/healthz"),
        Request(path="/readyz"),
        Request(path="/", contains="<html"),
        Request(path="/metrics", contains="camera_counting"),
    ),
)
journey = UserJourney(deployment=deploy, journey=count_people)
watch = WatchService(deployment=deploy, paths=("/cameras", "/readyz"), rate=20, seconds=3)
verified = Verification(
    deployment=deploy,
    checks=(
        Check(evidence=smoke, rule=all_probes_passed),
        Check(evidence=journey, rule=all_probes_passed),
        Check(evidence=watch, rule=WithinBudget(p95=250, errors=0.0, requests=50)),
    ),
)

pipeline = Pipeline(
    "camera-counting",
    code=code,
    tested=tested,
    runtime_lock=runtime_lock,
    test_lock=test_lock,
    build_lock=build_lock,
    runtime=runtime,
    test_environment=test_environment,
    build_environment=build_environment,
    wheel=wheel,
    installed=installed,
    layers=image.layers,
    image=image,
    unit=unit,
    integration=integration,
    checks=gate.checks,
    gate=gate,
    database=database,
    local_database=local_database,
    database_url=database_url,
    migrate=migrate,
    deploy=deploy,
    smoke=smoke,
    journey=journey,
    watch=watch,
    verification_checks=verified.checks,
    verified=verified,
)
