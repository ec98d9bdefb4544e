"""Fixtures of delivery: a project with a state directory of its own, an image of a small service, a target and a router."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from pipeline import Project, StageFailed, Store
from pipeline.engines.local import free_port
from pipeline.settings import Settings
from stages.delivery.docker import Docker, DockerTarget
from stages.delivery.down import down
from stages.delivery.envoy import Envoy, EnvoyRouter, program
from stages.delivery.haproxy import HAProxy, HAProxyRouter
from stages.delivery.local import LocalTarget
from stages.delivery.model import Group, Release
from stages.delivery.systemd import Systemd, SystemdTarget
from stages.delivery.target import Target
from stages.delivery.tls import Pair, nothing
from stages.image import Image
from tests.conftest import RunStage
from tests.stages.delivery.bench import AnyRouter, Bench, Make
from tests.stages.delivery.daemon import daemon
from tests.stages.delivery.machine import Machine
from tests.stages.delivery.machine import machine as own_machine
from tests.stages.delivery.place import local_target, state
from tests.stages.delivery.small import image_stage

SERVE = Path(__file__).with_name("serve.py")


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A project of the small service; whatever it left running is taken down."""
    root = tmp_path / "project"
    root.mkdir()
    shutil.copy(SERVE, root)
    (root / "pyproject.toml").write_text("[project]\nname = 'small'\nversion = '1'\n")
    subprocess.run(["git", "init", "-q", "-b", "main", root], check=True)
    found = Project(root=root, home=tmp_path / "home", settings=Settings())
    found.home.mkdir()
    yield found
    anyio.run(down, found)


@pytest.fixture
def image(run_stage: RunStage) -> Image:
    built: Image = run_stage(image_stage())
    return built


@pytest.fixture
def posts(tmp_path: Path) -> Path:
    """The file in which the instances note every POST."""
    return tmp_path / "posts"


@pytest.fixture
def target(project: Project, store: Store) -> LocalTarget:
    return local_target(project, store)


@pytest.fixture(params=["haproxy", "envoy"])
def make(request: pytest.FixtureRequest, project: Project) -> Make:
    """Makes routers of one kind."""
    if request.param == "envoy":
        need_envoy()
        return partial(envoy, project)
    return partial(haproxy, project)


@pytest.fixture
def router(project: Project) -> AnyRouter:
    return haproxy(project, port=free_port())


@pytest.fixture
def bench(target: LocalTarget, router: AnyRouter) -> Bench:
    return Bench(target, router)


def need_envoy() -> None:
    """Skip where there is none: its wheel is for Linux only."""
    try:
        program()
    except StageFailed as error:
        pytest.skip(error.what)


def envoy(project: Project, *, port: int, name: str = "app", pair: Callable[[], Pair] = nothing, **more: Any) -> EnvoyRouter:
    place = state(project, "router", name)
    return EnvoyRouter(config=Envoy(name=name, port=port, **more), ready="/readyz", state=place, pair=pair)


def haproxy(project: Project, *, port: int, name: str = "app", pair: Callable[[], Pair] = nothing, **more: Any) -> HAProxyRouter:
    place = state(project, "router", name)
    return HAProxyRouter(config=HAProxy(name=name, port=port, **more), ready="/readyz", state=place, pair=pair)


def release(image: Image, posts: Path | None = None, *, instances: int = 1, version: str = "one", **env: str) -> Release:
    noted = {"POSTS": str(posts)} if posts else {}
    return Release(image=image, env={"VERSION": version, **noted, **env}, instances=instances)


async def up(target: Target, wanted: Release) -> Group:
    """Start a release; returns when it is ready."""
    await target.start(wanted)
    with anyio.fail_after(30):
        while await target.unready(wanted.group, wanted.ready) is not None:
            await anyio.sleep(0.05)
    return (await target.groups())[wanted.group]


async def blue_and_green(target: Target, image: Image, *, instances: int = 1) -> tuple[Group, Group, dict[str, Group]]:
    """Two groups that are ready, of the versions blue and green, and both by their names."""
    blue = await up(target, release(image, version="blue", instances=instances))
    green = await up(target, release(image, version="green", instances=instances))
    return blue, green, {blue.name: blue, green.name: green}


@pytest.fixture(scope="module")
def docker_host() -> Iterator[str]:
    """Where a Docker daemon listens, which takes a hundredth of a processor until it ends."""
    with daemon() as host:
        yield host


@pytest.fixture(scope="session")
def machine() -> Iterator[Machine]:
    """Another machine with systemd."""
    with own_machine() as found:
        yield found


def systemd_target(project: Project, store: Store, machine: Machine, **more: Any) -> SystemdTarget:
    settings = {"host": machine.host, "address": "127.0.0.1", "ssh_config": str(machine.config), "patience": 10.0, **more}
    return SystemdTarget(
        state=state(project, "deploy"),
        store=store,
        secret=os.environ.__getitem__,
        config=Systemd(name="app", **settings),
    )


def docker_target(project: Project, store: Store, host: str, **more: Any) -> DockerTarget:
    config = Docker(name="app", host=host, network="host", patience=10.0, **more)
    return DockerTarget(
        state=state(project, "deploy", "app"), store=store, secret=lambda variable: os.environ[variable], config=config
    )
