"""The delivery of the camera counting service: from the working copy to a verified deployment behind HAProxy.

python -m pipeline plan       what would run, and why
python -m pipeline run        all of it
python -m pipeline run gate   up to the quality gate: no deployment
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

from gates import (
    AllowedLicences,
    Check,
    Compare,
    Compatible,
    CoverageReport,
    ErrorRate,
    Judge,
    MaxComplexity,
    MaxFindings,
    MaxSize,
    MinCoverage,
    NoDrop,
    QualityGate,
    Severity,
    SlowAnswers,
    Verification,
    WithinBudget,
    all_passed,
    all_probes_passed,
    no_findings,
    valid,
)
from pipeline import Only, Pipeline, WiringError
from stages.acceptance import AcceptanceTests
from stages.assets import OptimizeAssets, WithAssets
from stages.bandit import Bandit
from stages.baseline import Baseline, KeepBaseline
from stages.compatibility import Compatibility
from stages.compilation import ByteCompiled
from stages.coverage import Coverage
from stages.delivery.deploy import Deploy
from stages.delivery.envoy import Envoy
from stages.delivery.haproxy import HAProxy
from stages.delivery.local import LocalProcesses
from stages.delivery.migration import Migrate
from stages.delivery.preflight import Preflight
from stages.delivery.strategy import Canary
from stages.delivery.visitors import Visitors
from stages.environment import PythonEnvironment, Tool
from stages.image import BuildImage, ImageSize, Placed
from stages.image_validation import ValidateImage
from stages.journey import UserJourney
from stages.licences import Licences
from stages.load import LoadTest, PerformanceTest
from stages.local_service import Bound, LocalService
from stages.metrics import Metrics
from stages.mypy import TypeCheck
from stages.notify import Notify
from stages.pip_audit import PipAudit
from stages.postgres import PostgresService
from stages.probe import WatchService
from stages.pytest import IntegrationTests, UnitTests
from stages.rootfs import ImageService, Rootfs
from stages.ruff import Formatted, Lint
from stages.smoke import Request, SmokeChecks
from stages.source import Deployed, SourceProvenance, WorkingCopy
from stages.storage import StoreArtifact
from stages.tag import TagImage
from stages.trivy import TrivyImage, TrivySecrets
from stages.validation import ValidateDistributions
from stages.wheel import BuildDistributions, InstalledWheel

if TYPE_CHECKING:
    import httpx

STATIC = "src/camera_counting/static"

# Source. Code, tests and each lock are taken on their own, so that an edit runs only what it touches.
provenance = SourceProvenance()
code = WorkingCopy(include=("src", "pyproject.toml", "README.md"))
tested = WorkingCopy(include=("src", "tests", "pyproject.toml"))
runtime_lock = WorkingCopy(include=("requirements.lock",))
test_lock = WorkingCopy(include=("test.lock",))
build_lock = WorkingCopy(include=("build.lock",))
baselines = WorkingCopy(include=("baselines",))

# Environments: only these stages reach the network.
# What is shipped is the same wherever it is made, and so holds no byte code of whichever Python made it.
runtime = PythonEnvironment(source=runtime_lock, lock="requirements.lock", byte_code=False)
testing = PythonEnvironment(source=test_lock, lock="test.lock")
building = PythonEnvironment(source=build_lock, lock="build.lock")

# Build: assets, wheel, image, its tags; and whether all of them are what they should be.
assets = OptimizeAssets(source=code, tool=Tool(name="assets"), directory=STATIC)
shipped = WithAssets(source=code, assets=assets, directory=STATIC)
wheel = BuildDistributions(source=shipped, environment=building)
installed = InstalledWheel(wheel=wheel)
compiled = ByteCompiled(source=installed)
valid_wheel = ValidateDistributions(
    distributions=wheel, installed=installed, environment=runtime, twine=Tool(name="twine")
)
image = BuildImage(
    layers=(Placed(tree=runtime, at="app/site"), Placed(tree=compiled, at="app/lib")),
    entrypoint=("python", "-m", "camera_counting", "serve"),
    env=(("PYTHONPATH", "/app/lib:/app/site"),),
    ports=(8000,),
)
tags = TagImage(provenance=provenance, source=code)
rootfs = Rootfs(image=image)
valid_image = ValidateImage(image=image, rootfs=rootfs, provided=("python",))

# Test: the code, the code with a real PostgreSQL, and the started image with one.
database = PostgresService()
unit = UnitTests(
    source=tested,
    environment=testing,
    packages=(installed,),
    tests=("tests/unit",),
    cover=("camera_counting",),
    reruns=2,
)
integration = IntegrationTests(
    source=tested,
    environment=testing,
    packages=(installed,),
    tests=("tests/integration",),
    services=(database,),
    cover=("camera_counting",),
    reruns=2,
)
# What serves goes on while the new release starts, on the schema that the new one has migrated to.
before = Deployed(include=("src", "tests", "pyproject.toml"))
before_lock = Deployed(include=("test.lock",))
# With the same lock it is the same environment, which is there by then.
testing_before = PythonEnvironment(source=before_lock, lock="test.lock", after=(testing,))
compatibility = Compatibility(
    before=before,
    now=tested,
    environment=testing,
    before_environment=testing_before,
    database=database,
    migrate=("python", "-m", "camera_counting", "migrate"),
    tests=("tests/integration/test_counts.py",),
)
coverage = Coverage(tests=(unit, integration), source=tested, environment=testing)
coverage_before = Baseline(model=CoverageReport, source=baselines, path="baselines/coverage.json")
app = ImageService(
    image=image,
    rootfs=rootfs,
    env=(
        ("DATABASE_URL", "postgresql://postgres@{DB_HOST}:{DB_PORT}/postgres"),
        ("CAMERA_COUNTING_MIGRATE", "1"),
    ),
    ready="/readyz",
)
acceptance = AcceptanceTests(
    source=tested, environment=testing, paths=("tests",), service=app, services=(database,)
)
performance = PerformanceTest(
    source=tested,
    environment=testing,
    paths=("tests",),
    service=app,
    services=(database,),
    users=2,
    seconds=8,
    after=(integration,),  # no load on a build that does not work
)
load = LoadTest(
    source=tested,
    environment=testing,
    paths=("tests",),
    service=app,
    services=(database,),
    users=4,
    rate=4,
    seconds=10,
    after=(performance,),
)

# Quality and security.
lint = Lint(source=tested)
formatted = Formatted(source=tested)
types = TypeCheck(source=tested, environment=testing)
metrics = Metrics(source=tested)
bandit = Bandit(source=code)
secrets = TrivySecrets(source=tested)
image_secrets = TrivyImage(image=rootfs, scanners=("secret",))
licences = Licences(environment=runtime)
size = ImageSize(image=image)
audit = PipAudit(
    source=runtime_lock, only=Only(event=("schedule",))
)  # asks a service on the internet: every night, not here

ALLOWED = frozenset(
    {
        "MIT",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "Apache-2.0",
        "PSF-2.0",
        "ISC",
        "Zlib",
        "CC0-1.0",
        "0BSD",
        "HPND",
        "MIT-CMU",
    }
)

gate = QualityGate(
    artifact=image,
    checks=(
        Check(evidence=unit, rule=all_passed),
        Check(evidence=integration, rule=all_passed),
        Check(evidence=acceptance, rule=all_passed),
        Check(evidence=compatibility, rule=Compatible(migrated_first=True)),
        Check(evidence=coverage, rule=MinCoverage(total=90, each_file=75)),
        Compare(evidence=coverage, baseline=coverage_before, rule=NoDrop(points=0.5)),
        Check(evidence=performance, rule=WithinBudget(p95=1000, requests=2)),
        Check(evidence=load, rule=WithinBudget(p95=2000, errors=0.0, requests=10, held=0.5)),
        Check(evidence=lint, rule=no_findings),
        Check(evidence=formatted, rule=no_findings),
        Check(evidence=types, rule=no_findings),
        Check(evidence=metrics, rule=MaxComplexity(each=10, duplicated=0.05)),
        Check(evidence=bandit, rule=MaxFindings(severity=Severity.MEDIUM)),
        Check(evidence=secrets, rule=no_findings),
        Check(evidence=image_secrets, rule=MaxFindings(severity=Severity.HIGH)),
        Check(
            evidence=licences,
            rule=AllowedLicences(
                ALLOWED, exceptions=frozenset({"psycopg", "psycopg-binary", "psycopg-pool"})
            ),
        ),
        Check(evidence=size, rule=MaxSize(total=200_000_000)),
        Check(evidence=valid_wheel, rule=valid),
        Check(evidence=valid_image, rule=valid),
    ),
)
stored = StoreArtifact(artifact=gate, name="camera-counting")

# Deploy: instances of the image as processes of this machine, behind HAProxy, with a PostgreSQL that stays.
target = LocalProcesses(name="camera-counting")
# Either router is this one line; by the variable the other one can be tried without an edit.
ROUTERS = {"haproxy": HAProxy, "envoy": Envoy}
wanted = os.environ.get("CAMERA_COUNTING_ROUTER", "haproxy")
if wanted not in ROUTERS:
    raise WiringError(f"CAMERA_COUNTING_ROUTER is {wanted!r}", right=" or ".join(ROUTERS))
router = ROUTERS[wanted](
    name="camera-counting", port=int(os.environ.get("CAMERA_COUNTING_PORT", "8080"))
)
# A taken port is found at once, not after the migration.
preflight = Preflight(router=router, target=target)
local_database = LocalService(service=database, keep=(("PGDATA", "pgdata"),))
database_url = Bound(
    address=local_database,
    variable="DATABASE_URL",
    template="postgresql://postgres@{host}:{port}/postgres",
)
database_password = Bound(
    address=local_database, variable="PGPASSFILE", template="{data}/pgdata/pgpass"
)
migrate = Migrate(
    release=gate,
    target=target,
    command=("python", "-m", "camera_counting", "migrate"),
    bindings=(database_url, database_password),
    after=(preflight,),
)
# An example has few users: while a release is judged, some of our own ask for what theirs would.
canary = Canary(
    shares=(25, 50, 100),
    judge=Judge(measures=(ErrorRate(), SlowAnswers(quantile=0.95)), warm_up=10, at_least=5),
    visitors=Visitors(paths=("/", "/cameras", "/readyz"), rate=100),
)
deploy = Deploy(
    release=gate,
    target=target,
    router=router,
    strategy=canary,
    bindings=(database_url, database_password),
    after=(migrate,),
    instances=2,
)

# Verify where it runs; when a check fails, the deployment goes back.
FRAMES = Path(__file__).parent / "journey"


async def count_people(client: httpx.AsyncClient) -> AsyncIterator[str]:
    """A camera is set up, sends a frame with four people, and its total is shown."""
    camera = "/cameras/verification"
    empty, people = (FRAMES / "empty.jpg").read_bytes(), (FRAMES / "four_people.jpg").read_bytes()
    answer = await client.put(
        f"{camera}/background", params={"person_width": 30, "person_height": 92}, content=empty
    )
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
        Check(evidence=watch, rule=WithinBudget(p95=500, errors=0.0, requests=50)),
    ),
)
# A new baseline to commit: python -m pipeline run keep_coverage --event baseline
keep_coverage = KeepBaseline(
    evidence=coverage, file="baselines/coverage.json", only=Only(event=("baseline",))
)
notice = Notify(subject=verified, title="camera-counting is deployed", optional=True)

pipeline = Pipeline(
    "camera-counting",
    provenance=provenance,
    code=code,
    tested=tested,
    runtime_lock=runtime_lock,
    test_lock=test_lock,
    build_lock=build_lock,
    baselines=baselines,
    runtime=runtime,
    testing=testing,
    building=building,
    assets_tool=assets.tool,
    assets=assets,
    shipped=shipped,
    wheel=wheel,
    installed=installed,
    compiled=compiled,
    twine=valid_wheel.twine,
    valid_wheel=valid_wheel,
    layers=image.layers,
    image=image,
    tags=tags,
    rootfs=rootfs,
    valid_image=valid_image,
    database=database,
    unit=unit,
    integration=integration,
    before=before,
    before_lock=before_lock,
    testing_before=testing_before,
    compatibility=compatibility,
    coverage=coverage,
    coverage_before=coverage_before,
    app=app,
    acceptance=acceptance,
    performance=performance,
    load=load,
    lint=lint,
    formatted=formatted,
    types=types,
    metrics=metrics,
    bandit=bandit,
    secrets=secrets,
    image_secrets=image_secrets,
    licences=licences,
    size=size,
    audit=audit,
    checks=gate.checks,
    gate=gate,
    stored=stored,
    preflight=preflight,
    local_database=local_database,
    database_url=database_url,
    database_password=database_password,
    migrate=migrate,
    deploy=deploy,
    smoke=smoke,
    journey=journey,
    watch=watch,
    verify=verified.checks,
    verified=verified,
    keep_coverage=keep_coverage,
    notice=notice,
)
