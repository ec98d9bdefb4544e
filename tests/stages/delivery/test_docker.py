"""Rollouts on a real Docker daemon, and what becomes of them when the daemon ends."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from pipeline import Project, Store, WiringError
from stages.delivery.docker import Docker, limited
from stages.delivery.docker_api import Daemon, frames
from stages.delivery.limits import Limits
from stages.delivery.model import Address
from stages.delivery.probe import CommandProbe
from stages.image import Image
from tests.conftest import RunStage
from tests.stages.delivery.conftest import docker_target, release, up
from tests.stages.delivery.daemon import RUNNING, container_image, started
from tests.web import get


@pytest.fixture
def container(run_stage: RunStage) -> Image:
    built: Image = run_stage(container_image())
    return built


def said(one: Address) -> str:
    return get(one.url).text


def test_after_the_daemon_ended_its_containers_are_found_and_started_again(
    project: Project, store: Store, docker_host: str, container: Image
) -> None:
    """`docker_host` is asked for so that the test is skipped where no daemon can be had: this one has its own, to end it."""
    if docker_host == RUNNING:
        pytest.skip("a Docker daemon runs: another one would take its bridge away (--bridge=none), and it is not ours to end")
    place = Path(tempfile.mkdtemp(prefix="lockgate-dockerd-"))
    if os.geteuid() != 0 or not shutil.which("dockerd"):
        pytest.skip("to end a Docker daemon, the test has to start one: it takes root, and dockerd (Debian: docker.io)")
    once, always = release(container), replace(release(container, version="always"), restart="always")

    async def before(host: str) -> None:
        target = docker_target(project, store, host)
        await up(target, once)
        await up(target, always)

    async def after(host: str) -> None:
        target = docker_target(project, store, host)
        with anyio.fail_after(30):
            while await target.unready(always.group, always.ready) is not None:
                await anyio.sleep(0.05)
        assert list(await target.groups()) == [always.group]
        assert "1 of 1 instances ended" in (await target.ended(once) or "")
        (one,) = (await up(target, once)).instances
        assert said(one) == "one"
        assert len(await target.down()) == 2

    try:
        for then in (before, after):
            with started(place) as host:
                anyio.run(then, host)
    finally:
        (project.home / "state" / "deploy" / "app" / "docker.json").unlink(missing_ok=True)  # that daemon is gone
        shutil.rmtree(place, ignore_errors=True)


def test_a_command_that_does_not_end_is_ended_in_the_container(
    project: Project, store: Store, docker_host: str, container: Image
) -> None:
    hangs = CommandProbe(("python", "-c", "import time; time.sleep(600)"), within=0.5)

    async def main() -> None:
        target = docker_target(project, store, docker_host)
        wanted = release(container)
        await up(target, wanted)
        (one,) = await target._containers(wanted.group)
        for _ in range(2):
            assert "takes more than 0.5 s" in (await target.unready(wanted.group, hangs) or "")
        with anyio.fail_after(10):
            while "sleep" in str(await target._daemon.get(f"/containers/{one['Id']}/top")):
                await anyio.sleep(0.05)
        await target.down()

    anyio.run(main)


def test_an_instance_with_a_network_of_its_own_is_published_on_loopback(
    project: Project, store: Store, docker_host: str, container: Image
) -> None:
    async def main() -> None:
        target = docker_target(project, store, docker_host)
        target = replace(target, config=replace(target.config, network="bridge"))
        if await target._daemon.get("/networks/bridge") is None:
            pytest.skip("the Docker daemon has no bridge: the tests start theirs without, to leave the machine's network alone")
        wanted = release(container, instances=2)
        found = await up(target, wanted)
        assert [said(one) for one in found.instances] == ["one", "one"]
        assert {one.host for one in found.instances} == {"127.0.0.1"}
        await target.stop(wanted.group)

    anyio.run(main)


def test_an_image_that_no_group_has_any_more_is_removed(
    project: Project, store: Store, docker_host: str, container: Image
) -> None:
    async def main() -> None:
        target = docker_target(project, store, docker_host)
        one, two = release(container), release(container, version="two")
        await up(target, one)
        await up(target, two)
        named = f"/images/{target.reference(container)}/json"
        await target.stop(one.group)
        assert await target._daemon.get(named) is not None
        await target.stop(two.group)
        assert await target._daemon.get(named) is None

    anyio.run(main)


def test_limits_are_said_as_the_daemon_takes_them() -> None:
    assert limited(Limits()) == {}
    assert limited(Limits(memory=1, cpu=1.5)) == {"Memory": 1 << 20, "MemorySwap": 1 << 20, "NanoCpus": 1_500_000_000}


def test_the_pieces_of_both_streams_are_put_together() -> None:
    assert frames(b"\x01\0\0\0\0\0\0\x02ab\x02\0\0\0\0\0\0\x01c") == b"abc"
    assert frames(b"") == b""


@pytest.mark.parametrize("host", ["tcp://10.0.0.1:2375", "/var/run/docker.sock", "ssh://somebody@host", "unix://docker.sock"])
def test_a_daemon_that_could_not_be_reached_safely_is_refused(host: str) -> None:
    with pytest.raises(WiringError, match="the Docker daemon's host is"):
        Daemon(Docker(name="app", host=host).host)
