"""Who looks after instances after the run."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from pipeline import Project, StageFailed, Store
from stages.delivery import process
from stages.delivery.acts import Acts, act
from stages.delivery.down import down, left
from stages.delivery.kept import Kept
from stages.delivery.local import LocalTarget
from stages.delivery.model import Address, Release, Restart
from stages.delivery.probe import CommandProbe, HttpProbe, Probe
from stages.delivery.strategy import BlueGreen
from stages.delivery.supervisor import Backoff, ill, restarts
from stages.image import Image
from tests import web
from tests.stages.delivery.bench import Bench
from tests.stages.delivery.conftest import release, up
from tests.stages.delivery.place import local_target


def kept(image: Image, restart: Restart = "always", instances: int = 1, **more: Any) -> Release:
    env = more.pop("env", {})
    return replace(release(image, instances=instances, **env), restart=restart, **more)


def get(one: Address, path: str) -> str:
    return web.get(one.url + path).text


async def until(true: Callable[[], Any]) -> None:
    with anyio.fail_after(20):
        while not true():
            await anyio.sleep(0.02)


async def pid_of(one: Address, other: str = "") -> str:
    """The number of the process that answers there, once it is another one."""
    with anyio.fail_after(20):
        while True:
            try:
                found = get(one, "/pid")
            except httpx.HTTPError:
                found = other
            if found != other:
                return found
            await anyio.sleep(0.02)


def ended(target: LocalTarget, group: str) -> bool:
    return any(what == "ended" for _, what in did(target, group))


def did(target: LocalTarget, group: str) -> list[tuple[int, str]]:
    return [(act.port, act.did) for act in target.acts(group).all()]


def test_an_instance_that_dies_is_started_again_where_it_was(target: LocalTarget, image: Image) -> None:
    async def main() -> None:
        wanted = kept(image)
        (one,) = (await up(target, wanted)).instances
        first = await pid_of(one)
        os.kill(int(first), signal.SIGKILL)
        assert await pid_of(one, first) != first
        assert (await target.groups())[wanted.group].instances == (one,)
        assert did(target, wanted.group) == [(one.port, what) for what in ("started", "ended", "restarts", "started")]
        assert [act.why for act in target.acts(wanted.group).all()][1] == "it ended with -9"

    anyio.run(main)


@pytest.mark.parametrize(
    ("policy", "code", "again"),
    [("always", 0, True), ("always", 3, True), ("on-failure", 3, True), ("on-failure", 0, False)],
)
def test_a_policy_says_after_what_end_an_instance_is_started_again(
    target: LocalTarget, image: Image, policy: Restart, code: int, *, again: bool
) -> None:
    async def main() -> None:
        wanted = kept(image, policy)
        (one,) = (await up(target, wanted)).instances
        with pytest.raises(httpx.HTTPError):
            get(one, f"/exit?{code}")
        await until(lambda: ended(target, wanted.group))
        if again:
            await pid_of(one)
        else:
            await until(lambda: not list(process.running(f"{target.state}/")))  # nothing is left to look after
            assert await target.groups() == {}

    anyio.run(main)


def test_an_instance_that_only_hangs_is_started_again(target: LocalTarget, image: Image, tmp_path: Path) -> None:
    hangs = tmp_path / "hangs"

    async def main() -> None:
        alive = HttpProbe("/livez", every=0.05, failures=40)  # enough for it to start in
        wanted = kept(image, liveness=alive, env={"HANGS": str(hangs)})
        (one,) = (await up(target, wanted)).instances
        first = await pid_of(one)
        hangs.touch()
        await until(lambda: (one.port, "restarts") in did(target, wanted.group))
        hangs.unlink()
        assert await pid_of(one, first) != first
        assert "/livez answers 503" in next(act.why for act in target.acts(wanted.group).all() if act.did == "restarts")

    anyio.run(main)


def test_who_starts_slowly_is_given_the_time_of_its_startup_probe(target: LocalTarget, image: Image, tmp_path: Path) -> None:
    """Liveness would end it at once: what it asks for comes only with what the startup probe waits for."""
    started, seen = tmp_path / "started", tmp_path / "seen"
    startup = CommandProbe(("sh", "-c", f"test -e {started} && touch {seen}"), every=0.05, failures=10_000)
    alive = CommandProbe(("test", "-e", str(started)), every=0.05, failures=1)

    async def main() -> None:
        wanted = kept(image, startup=startup, liveness=alive)
        (one,) = (await up(target, wanted)).instances
        first = await pid_of(one)
        started.touch()
        await until(seen.exists)
        assert did(target, wanted.group) == [(one.port, "started")]
        started.unlink()
        await pid_of(one, first)
        assert (one.port, "restarts") in did(target, wanted.group)

    anyio.run(main)


def test_what_happened_to_instances_of_a_release_while_it_is_rolled_out_is_journalled(bench: Bench, image: Image) -> None:
    async def main() -> None:
        wanted = kept(image, liveness=HttpProbe("/nowhere", (404, 404), every=0.05, failures=40))
        wanted = replace(wanted, ready=HttpProbe("/readyz", (500, 599)))
        rollout = bench.rollout(wanted)

        async def until_it_fails() -> None:
            with suppress(StageFailed):  # an instance that ends before it is ready may end the rollout too
                await rollout.forward(BlueGreen())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(until_it_fails)
            with anyio.fail_after(40):
                while "ended" not in bench.notes.kinds() and not ended(bench.target, wanted.group):
                    await anyio.sleep(0.02)
            tasks.cancel_scope.cancel()
        told = [data for kind, data in bench.notes.events if kind == "rollout.ended"]
        assert told
        assert "/nowhere answers 200" in told[0]["why"]

    anyio.run(main)


@pytest.mark.parametrize("how", ["stop", "rest", "retire"])
def test_what_is_ended_on_purpose_is_never_started_again(target: LocalTarget, image: Image, how: str) -> None:
    """However often it dies meanwhile: the instances are killed all the time, so that they are being started again."""

    async def main() -> None:
        for number in range(4):
            wanted = kept(image, instances=3, env={"VERSION": str(number)})
            instances = (await up(target, wanted)).instances
            for one in process.running(f"{target.state}:"):
                os.kill(one.pid, signal.SIGKILL)
            await anyio.sleep(0.04 * number)
            if how == "retire":
                await target.retire(wanted.group, instances)
            else:
                await getattr(target, how)(wanted.group)
            assert await target.groups() == {}
            assert not list(process.running(str(target.state)))

    anyio.run(main)


def test_of_a_group_that_shrinks_the_rest_is_looked_after(target: LocalTarget, image: Image) -> None:
    async def main() -> None:
        wanted = kept(image, instances=2)
        gone, stays = (await up(target, wanted)).instances
        await target.retire(wanted.group, [gone])
        first = await pid_of(stays)
        os.kill(int(first), signal.SIGKILL)
        await pid_of(stays, first)
        assert (await target.groups())[wanted.group].instances == (stays,)

    anyio.run(main)


def test_starting_again_replaces_what_is_being_started_again(target: LocalTarget, image: Image) -> None:
    async def main() -> None:
        wanted = kept(image, env={"CRASHES": "1"})
        await target.start(wanted)
        await target.start(wanted)
        with anyio.fail_after(10):
            while await target.ended(wanted) != "1 of 1 instances ended; last words: cannot go on":
                await anyio.sleep(0.02)
        assert len(target.wanted(wanted.group).read()) == 1

    anyio.run(main)


def test_instances_whose_supervisor_was_killed_go_on_and_get_another_one(target: LocalTarget, image: Image) -> None:
    async def main() -> None:
        wanted = kept(image)
        (one,) = (await up(target, wanted)).instances
        first = await pid_of(one)
        (supervisor,) = Kept(target.state).supervisors(wanted.group)
        os.kill(supervisor.pid, signal.SIGKILL)
        await until(lambda: not Kept(target.state).supervisors(wanted.group))
        assert get(one, "/pid") == first
        assert (await target.start(wanted)).instances == (one,)
        assert get(one, "/pid") == first
        os.kill(int(first), signal.SIGKILL)
        assert await pid_of(one, first) != first

    anyio.run(main)


def test_a_group_that_rests_comes_back_with_its_supervisor(
    target: LocalTarget, image: Image, project: Project, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "a-secret-of-some-length")

    async def main() -> None:
        wanted = kept(image, secrets=("TOKEN",))
        await up(target, wanted)
        await target.rest(wanted.group)
        assert await target.resting() == {wanted.group}
        (one,) = (await local_target(project, store).again(wanted.group)).instances
        first = await pid_of(one)
        os.kill(int(first), signal.SIGKILL)
        await pid_of(one, first)
        assert get(one, "/env?TOKEN") == "a-secret-of-some-length"

    anyio.run(main)


def test_a_supervisor_is_taken_down_before_its_instances(target: LocalTarget, image: Image, project: Project) -> None:
    async def main() -> None:
        await up(target, kept(image, instances=2))
        assert [one.mark.endswith(":supervisor") for one in left(project)] == [True, False, False]
        await down(project)
        assert not left(project)

    anyio.run(main)


def test_files_of_a_group_whose_instances_are_all_being_started_again_stay(target: LocalTarget, image: Image) -> None:
    async def main() -> None:
        crashes, other = kept(image, env={"CRASHES": "1"}), release(image, version="other")
        await target.start(crashes)
        await up(target, other)
        await target.stop(other.group)
        assert (target.state / crashes.group / "rootfs").exists()

    anyio.run(main)


def test_each_wait_is_twice_as_long_until_an_instance_ran_for_a_while() -> None:
    waits, backoff = [], Backoff()
    for _ in range(12):
        waits.append(backoff.wait)
        backoff = backoff.after(1.0)
    assert waits[:4] == [0.1, 0.2, 0.4, 0.8]
    assert waits[-1] == 60.0
    assert backoff.after(10.0) == Backoff()


def test_policies_are_those_of_docker() -> None:
    said = {policy: [restarts(policy, code) for code in (0, 1, -9, None)] for policy in ("no", "on-failure", "always")}
    assert said == {"no": [False] * 4, "on-failure": [False, True, True, True], "always": [True] * 4}


def test_only_failures_in_a_row_count() -> None:
    answers = iter(["no", "no", None, "no", "no", "no"])
    asked: list[Probe] = []

    async def ask(probe: Probe) -> str | None:
        asked.append(probe)
        return next(answers)

    alive = HttpProbe("/livez", every=0.001, failures=3)
    assert anyio.run(ill, None, alive, ask) == "no"
    assert len(asked) == 6


def test_until_it_has_started_only_startup_is_asked() -> None:
    answers = iter(["no", "no", None, "hangs"])
    asked: list[Probe] = []

    async def ask(probe: Probe) -> str | None:
        asked.append(probe)
        return next(answers)

    startup, alive = HttpProbe("/s", every=0.001, failures=3), HttpProbe("/l", every=0.001, failures=1)
    assert anyio.run(ill, startup, alive, ask) == "hangs"
    assert asked == [startup, startup, startup, alive]


def test_what_was_done_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    acts = Acts(tmp_path / "acts.jsonl")
    acts.note(act(1, "started"))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (acts.file.stat().st_size + 10, limit[1]))
        with pytest.raises(OSError, match=str(acts.file)):
            acts.note(act(2, "started"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    acts.note(act(3, "started"))
    assert [one.port for one in acts.all()] == [1, 3]
