"""What holds for every target: processes of this machine, containers of a real Docker daemon, units of a real systemd."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import anyio
import httpx
import pytest

from gates.judge import ErrorRate, Judge
from pipeline import Project, StageFailed, Store
from pipeline.engines.local import free_port
from stages.delivery.docker import DockerTarget
from stages.delivery.down import down
from stages.delivery.files import ReleaseFile
from stages.delivery.limits import Limits
from stages.delivery.local import LocalTarget
from stages.delivery.model import Address, Release
from stages.delivery.probe import CommandProbe, HttpProbe, Probe, TcpProbe
from stages.delivery.rollout import Rollout
from stages.delivery.strategy import BlueGreen, Canary
from stages.delivery.systemd import SystemdTarget
from stages.image import BuildImage, Image
from tests import web
from tests.conftest import RunStage
from tests.stages.delivery.bench import Make, Notes
from tests.stages.delivery.conftest import docker_target, release, systemd_target, up
from tests.stages.delivery.daemon import container_image
from tests.stages.delivery.load import Load
from tests.stages.delivery.place import local_target
from tests.web import browser

CANARY = Canary(
    shares=(20, 50, 100),
    judge=Judge(measures=(ErrorRate(budget=0.2),), beta=0.2, warm_up=0, floor=20, at_least=0, at_most=30, blind=3),
    tick=0.2,
)
"""By a judge that is soon sure of a release that never fails: how sure judges are is tested elsewhere."""

AnyTarget = LocalTarget | DockerTarget | SystemdTarget


@dataclass
class Place:
    """A kind of target: opens one of the same state each time, as another run does."""

    open: Callable[[], AnyTarget]
    image: Image


@pytest.fixture(params=["processes", "docker", "systemd"])
def place(request: pytest.FixtureRequest, project: Project, store: Store, run_stage: RunStage) -> Place:
    if request.param == "processes":
        return Place(lambda: local_target(project, store), request.getfixturevalue("image"))
    if request.param == "systemd":
        machine = request.getfixturevalue("machine")
        return Place(lambda: systemd_target(project, store, machine), run_stage(container_image()))
    host = request.getfixturevalue("docker_host")
    return Place(lambda: docker_target(project, store, host), run_stage(container_image()))


def changed(target: Any, **settings: Any) -> AnyTarget:
    """The same target with other settings."""
    found: AnyTarget = (
        replace(target, **settings)
        if isinstance(target, LocalTarget)
        else replace(target, config=replace(target.config, **settings))
    )
    return found


def get(one: Address, path: str = "/") -> str:
    return web.get(one.url + path).text


def dies(one: Address) -> None:
    with pytest.raises(httpx.HTTPError):
        get(one, "/exit?3")


async def until_ended(target: AnyTarget, wanted: Release) -> str:
    with anyio.fail_after(20):
        while (said := await target.ended(wanted)) is None:
            await anyio.sleep(0.02)
    return said


def test_a_release_runs_as_so_many_instances_and_another_run_finds_it(place: Place) -> None:
    async def main() -> None:
        wanted = release(place.image, instances=2)
        found = await up(place.open(), wanted)
        assert await place.open().groups() == {wanted.group: found}
        assert [get(one) for one in found.instances] == ["one", "one"]
        assert await place.open().ended(wanted) is None

    anyio.run(main)


def test_starting_again_starts_only_what_is_missing(place: Place) -> None:
    async def main() -> None:
        target, wanted = place.open(), release(place.image, instances=2)
        first = await up(target, wanted)
        assert await target.start(wanted) == first
        gone, stays = first.instances
        dies(gone)
        assert "1 of 2 instances ended" in await until_ended(target, wanted)
        again = await up(place.open(), wanted)
        assert len(again.instances) == 2
        assert stays in again.instances

    anyio.run(main)


def test_an_instance_tells_who_it_is(place: Place) -> None:
    async def main() -> None:
        wanted = release(place.image)
        (one,) = (await up(place.open(), wanted)).instances
        assert get(one, "/env?RELEASE_GROUP") == wanted.group
        assert get(one, "/env?OTEL_RESOURCE_ATTRIBUTES") == f"release.group={wanted.group},service.instance.id={one.summary()}"

    anyio.run(main)


def test_the_last_words_of_an_instance_that_ended_are_told_without_secrets(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "a-secret-of-some-length")

    async def main() -> None:
        wanted = replace(release(place.image, CRASHES="1"), secrets=("TOKEN",))
        target = place.open()
        await target.start(wanted)
        assert await until_ended(target, wanted) == "1 of 1 instances ended; last words: cannot go on***"

    anyio.run(main)


def test_a_group_that_is_stopped_leaves_nothing_and_stops_no_other(place: Place) -> None:
    async def main() -> None:
        target = place.open()
        one, two = release(place.image), release(place.image, version="two")
        await up(target, one)
        left = await up(target, two)
        await target.stop(one.group)
        await target.stop(one.group)
        assert await target.groups() == {two.group: left}
        assert not (target.state / one.group).exists()
        assert get(left.instances[0]) == "two"

    anyio.run(main)


def test_a_request_in_flight_is_answered_before_its_instance_ends(place: Place) -> None:
    async def main() -> None:
        target, wanted = place.open(), release(place.image)
        (one,) = (await up(target, wanted)).instances
        answers: list[str] = []

        async def ask() -> None:
            async with browser() as client:
                answers.append((await client.get(f"{one.url}/slow?1", headers={"Connection": "close"})).text)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await anyio.sleep(0.5)  # it has the request by then, or is refused, which fails the test
            await target.stop(wanted.group)
        assert answers == ["one"]

    anyio.run(main)


def test_what_ignores_that_it_is_asked_to_end_is_killed(place: Place) -> None:
    async def main() -> None:
        target = changed(place.open(), patience=1.0)
        wanted = release(place.image, STUBBORN="1")
        await up(target, wanted)
        await target.stop(wanted.group)
        assert await target.groups() == {}

    anyio.run(main)


def test_a_group_rests_and_comes_back_with_its_files_and_secrets(
    place: Place, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "a-secret-of-some-length")
    flags = ReleaseFile(variable="FLAGS", name="flags.json", content=store.put(b"{}"), env={"READS": "file"})

    async def main() -> None:
        target = place.open()
        wanted = replace(release(place.image), secrets=("TOKEN",), files=(flags,))
        await up(target, wanted)
        await target.rest(wanted.group)
        assert await target.groups() == {}
        assert await place.open().resting() == {wanted.group}
        (one,) = (await place.open().again(wanted.group)).instances
        assert (await up(target, wanted)).instances == (one,)
        assert await target.resting() == frozenset()
        assert get(one, "/env?READS") == "file"
        assert get(one, "/env?TOKEN") == "a-secret-of-some-length"
        reads = CommandProbe(("python", "-c", "import os; assert open(os.environ['FLAGS']).read() == '{}'"))
        assert await target.unready(wanted.group, reads) is None

    anyio.run(main)


def test_who_is_unknown_cannot_come_back(place: Place) -> None:
    async def main() -> None:
        with pytest.raises(StageFailed, match="cannot be started again"):
            await place.open().again("r-unknown")
        with pytest.raises(StageFailed, match="nothing is known"):
            await place.open().rest("r-unknown")

    anyio.run(main)


def test_some_instances_of_a_group_are_retired(place: Place) -> None:
    async def main() -> None:
        target, wanted = place.open(), release(place.image, instances=3)
        first, *rest = (await up(target, wanted)).instances
        await target.retire(wanted.group, [first])
        await target.retire(wanted.group, [first])
        assert (await target.groups())[wanted.group].instances == tuple(rest)

    anyio.run(main)


def test_zones_get_their_instances(place: Place) -> None:
    async def main() -> None:
        target = changed(place.open(), zones=("a", "b"))
        wanted = release(place.image, instances=3)
        await up(target, wanted)
        found = (await target.groups())[wanted.group].instances
        assert sorted(one.zone for one in found) == ["a", "a", "b"]
        assert {get(one, "/env?ZONE") == one.zone for one in found} == {True}

    anyio.run(main)


@pytest.mark.parametrize(
    ("asked", "well"),
    [
        (HttpProbe("/readyz"), False),
        (HttpProbe("/livez"), True),
        (TcpProbe(), True),
        (CommandProbe(("python", "-c", "import os; assert os.environ['VERSION'] == 'one'")), True),
        (CommandProbe(("python", "-c", "import sys; sys.exit('not well')")), False),
        (CommandProbe(("no-such-program",)), False),
    ],
    ids=str,
)
def test_instances_are_asked_as_the_probe_says(place: Place, asked: Probe, *, well: bool) -> None:
    async def main() -> None:
        target, wanted = place.open(), release(place.image, UNREADY="1")
        await target.start(wanted)
        with anyio.fail_after(20):
            while await target.unready(wanted.group, TcpProbe()) is not None:
                await anyio.sleep(0.02)
        reason = await target.unready(wanted.group, asked)
        assert (reason is None) == well, reason

    anyio.run(main)


def test_how_a_group_says_that_it_is_ready_is_known_to_later_runs(place: Place) -> None:
    async def main() -> None:
        wanted = replace(release(place.image), ready=TcpProbe(every=2))
        await up(place.open(), wanted)
        assert await place.open().readiness(wanted.group) == TcpProbe(every=2)
        assert await place.open().readiness("r-unknown") is None

    anyio.run(main)


def test_a_command_of_the_image_runs_to_its_end(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "a-secret-of-some-length")

    async def main() -> None:
        target, wanted = place.open(), replace(release(place.image), secrets=("TOKEN",))
        says = "import os, sys; print(os.environ['VERSION'], os.environ['TOKEN']); sys.exit(7)"
        assert await target.run_once(wanted, ("python", "-c", says)) == (7, "one ***\n")
        assert await target.groups() == {}

    anyio.run(main)


def test_a_command_that_is_cancelled_ends(place: Place) -> None:
    async def main() -> None:
        target = place.open()
        with anyio.move_on_after(2) as scope:
            await target.run_once(release(place.image), ("python", "-c", "import time; time.sleep(600)"))
        assert scope.cancelled_caught
        if isinstance(target, DockerTarget):
            assert await target._containers(kinds=("once",)) == []

    anyio.run(main)


@pytest.mark.parametrize(("policy", "again"), [("no", False), ("on-failure", True), ("always", True)])
def test_an_instance_that_dies_is_started_again_as_its_policy_says(place: Place, policy: Any, *, again: bool) -> None:
    async def main() -> None:
        target, wanted = place.open(), replace(release(place.image), restart=policy)
        (one,) = (await up(target, wanted)).instances
        dies(one)
        if again:
            with anyio.fail_after(20):
                while await target.unready(wanted.group, wanted.ready) is not None:
                    await anyio.sleep(0.02)
            assert (await target.groups())[wanted.group].instances == (one,)
        else:
            await until_ended(target, wanted)
            assert await target.groups() == {}

    anyio.run(main)


def test_an_instance_that_only_hangs_is_started_again(place: Place) -> None:
    lives = CommandProbe(("python", "-c", "import sys; sys.exit('it hangs')"), every=0.2, failures=10, within=30)

    async def main() -> None:
        target, wanted = place.open(), replace(release(place.image), restart="always", liveness=lives)
        (one,) = (await up(target, wanted)).instances
        with anyio.fail_after(60):
            while not any(act.did == "ended" and "it hangs" in act.why for act in target.acts(wanted.group).all()):
                await anyio.sleep(0.05)
            while await target.unready(wanted.group, wanted.ready) is not None:
                await anyio.sleep(0.02)
        assert (await target.groups())[wanted.group].instances == (one,)
        await target.stop(wanted.group)
        assert await target.groups() == {}

    anyio.run(main)


def test_everything_is_taken_down(place: Place, project: Project) -> None:
    async def main() -> None:
        await up(place.open(), release(place.image, instances=2))
        assert len(await down(project)) == 2
        assert await place.open().groups() == {}
        assert await down(project) == []

    anyio.run(main)


def test_secrets_are_in_the_environment_of_containers_and_nowhere_else(
    project: Project, store: Store, docker_host: str, run_stage: RunStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "a-secret-of-some-length")
    image = run_stage(container_image())

    async def main() -> None:
        target = docker_target(project, store, docker_host)
        wanted = replace(release(image), secrets=("TOKEN",))
        await up(target, wanted)
        (container,) = await target._containers()
        told = await target._daemon.get(f"/containers/{container['Id']}/json")
        assert "TOKEN=a-secret-of-some-length" in told["Config"].pop("Env")
        assert "a-secret" not in json.dumps(told)
        kept = [path.read_text() for path in target.state.rglob("*") if path.is_file()]
        assert kept
        assert not any("a-secret" in text for text in kept)

    anyio.run(main)


def test_containers_are_held_to_their_limits(project: Project, store: Store, docker_host: str, run_stage: RunStage) -> None:
    image = run_stage(container_image())

    async def main() -> None:
        target = docker_target(project, store, docker_host)
        limits = Limits(memory=128, cpu=0.5, pids=40, open_files=256)
        wanted = replace(release(image), limits=limits)
        assert await target.unlimited(wanted) == {}
        await up(target, wanted)
        (container,) = await target._containers()
        host = (await target._daemon.get(f"/containers/{container['Id']}/json"))["HostConfig"]
        assert (host["Memory"], host["MemorySwap"], host["NanoCpus"], host["PidsLimit"]) == (
            128 << 20,
            128 << 20,
            500_000_000,
            40,
        )
        says = CommandProbe(("python", "-c", "import resource as r; assert r.getrlimit(r.RLIMIT_NOFILE) == (256, 256)"))
        assert await target.unready(wanted.group, says) is None
        eats = CommandProbe(("python", "-c", "bytearray(300 << 20)"), within=30)
        assert "ends with 137" in (await target.unready(wanted.group, eats) or "")

    anyio.run(main)


def test_an_image_of_another_content_under_the_name_is_not_run(
    project: Project, store: Store, docker_host: str, run_stage: RunStage
) -> None:
    image, another = run_stage(container_image()), run_stage(other_image())

    async def main() -> None:
        target = docker_target(project, store, docker_host)
        wanted = release(image)
        await target._have_image(another)
        name, tag = target.reference(wanted.image).split(":")
        await target._daemon.post(f"/images/{target.reference(another)}/tag", repo=name, tag=tag)
        (one,) = (await up(target, wanted)).instances
        assert get(one, "/env?OTHER") == ""

    anyio.run(main)


def other_image() -> BuildImage:
    stage = container_image()
    return replace(stage, env=(*stage.env, ("OTHER", "1")))


def test_a_daemon_that_is_not_there_is_told(project: Project, store: Store, image: Image) -> None:
    async def main() -> None:
        target = docker_target(project, store, "unix:///nowhere/docker.sock")
        with pytest.raises(StageFailed, match="the Docker daemon does not answer") as caught:
            await target.start(release(image))
        assert "docker -H unix:///nowhere/docker.sock version" in str(caught.value)

    anyio.run(main)


@pytest.mark.long
@pytest.mark.parametrize(("place", "make"), [("docker", "haproxy"), ("systemd", "envoy")], indirect=True)
def test_a_canary_gets_all_the_traffic_and_nobody_loses_a_request(place: Place, make: Make) -> None:
    target, router, notes = place.open(), make(port=free_port()), Notes()

    async def main() -> None:
        one, two, three = (release(place.image, instances=2, version=name) for name in ("one", "two", "three"))
        await Rollout(target, router, one, notes).forward(BlueGreen())
        with Load(router.address.port, posts=False, pause=0.01) as load:
            for wanted in (two, three):
                await Rollout(target, router, wanted, notes).forward(CANARY)
            await anyio.to_thread.run_sync(load.more, 20)
        assert load.failures == []
        assert set(load.answers) == {"one", "two", "three"}
        assert sorted(await target.groups()) == sorted([two.group, three.group])

    anyio.run(main)


@pytest.mark.long
@pytest.mark.parametrize(("place", "make"), [("docker", "haproxy"), ("systemd", "envoy")], indirect=True)
def test_what_never_gets_ready_goes_back_and_nobody_loses_a_request(place: Place, make: Make) -> None:
    target, router, notes = place.open(), make(port=free_port()), Notes()

    async def main() -> None:
        one = release(place.image, instances=2)
        await Rollout(target, router, one, notes).forward(BlueGreen())
        with Load(router.address.port, posts=False) as load:
            with pytest.raises(StageFailed, match="cannot go on"):
                await Rollout(target, router, release(place.image, CRASHES="1"), notes).forward(BlueGreen(ready=30))
            await anyio.to_thread.run_sync(load.more, 20)
        assert load.failures == []
        assert list(await target.groups()) == [one.group]

    anyio.run(main)
