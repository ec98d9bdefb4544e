"""Deploy as a stage: releases one after the other, failures, and runs that are killed; all under load."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sqlite3
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import anyio
import pytest

from gates import Passed
from gates.probes import Probe, ProbeReport
from pipeline import Effect, Journal, Pipeline, Project, Stage, StageFailed, Store, Work
from pipeline.engines.local import free_port
from pipeline.errors import Exit
from pipeline.history import one
from pipeline.run import Outcome
from stages.delivery import process
from stages.delivery.deploy import Deploy, RunOnce
from stages.delivery.local import LocalProcesses, LocalTarget
from stages.delivery.lock import alone
from stages.delivery.model import Deployment, Group, Release, State
from stages.delivery.private import sockets
from stages.delivery.rollout import Rollout
from stages.delivery.step import Step
from stages.delivery.strategy import BlueGreen
from stages.image import Image
from tests import warm
from tests.pipeline.toys import Constant, Fails
from tests.running import run_pipeline
from tests.stages.delivery.conftest import need_envoy
from tests.stages.delivery.load import Load
from tests.stages.delivery.place import state
from tests.stages.delivery.small import TOP, delivery, deploy_in_another_process, deployment, gated, image_stage
from tests.web import browser, get


@dataclass
class Bench:
    """A project that is deployed again and again on one port."""

    project: Project
    store: Store
    journal: Journal
    target: LocalTarget
    port: int

    def run(self, pipeline: Pipeline) -> tuple[Outcome, dict[str, Any]]:
        return run_pipeline(pipeline, self.project, self.store, self.journal)

    def deploy(self, version: str, strategy: str = "blue-green") -> Deployment:
        """Deploy and verify a release that is fine."""
        outcome, found = self.run(delivery(deployment(self.port, version, strategy=strategy), version))
        assert outcome.failed == {}
        result: Deployment = found["deploy"]
        return result

    def die(self, version: str, event: int, strategy: str = "blue-green") -> None:
        """Deploy in a process that is killed at that event of the rollout."""
        other = deploy_in_another_process(self.project, self.store, self.port, version, event, strategy)
        assert other.wait() == -signal.SIGKILL, other.output

    def answer(self) -> str:
        return get(f"http://127.0.0.1:{self.port}").text

    def groups(self) -> set[str]:
        return set(anyio.run(self.target.groups))

    def processes(self) -> list[int]:
        return [one.pid for one in process.running(str(self.project.home))]


@pytest.fixture
def bench(project: Project, store: Store, target: LocalTarget, tmp_path: Path) -> Any:
    journal = Journal(project.home / "journal.db")
    yield Bench(project, store, journal, target, free_port())
    journal.close()


def test_the_first_deployment_serves(bench: Bench) -> None:
    result = bench.deploy("one")
    assert bench.answer() == "one"
    assert (result.previous, result.before, result.started) == ("", {}, True)
    assert bench.groups() == {result.group}
    assert result.summary() == f"{result.group} serves at http://127.0.0.1:{bench.port}"


def test_a_second_release_keeps_the_first_warm_and_a_third_ends_it(bench: Bench) -> None:
    one = bench.deploy("one")
    with Load(bench.port, posts=False) as load:
        two = bench.deploy("two")
        assert (two.previous, two.before) == (one.group, {one.group: 100})
        assert bench.groups() == {one.group, two.group}
        three = bench.deploy("three")
        assert bench.groups() == {two.group, three.group}
        load.more(20)
    assert load.failures == []
    assert set(load.answers) == {"one", "two", "three"}


def test_the_same_release_again_starts_nothing(bench: Bench) -> None:
    first = bench.deploy("one")
    running = bench.processes()
    again = bench.deploy("one")
    assert bench.processes() == running
    assert (again.group, again.started, again.before) == (first.group, False, {first.group: 100})


def test_the_release_before_is_back_without_starting_anything(bench: Bench) -> None:
    bench.deploy("one")
    bench.deploy("two")
    running = bench.processes()
    bench.deploy("one")
    assert bench.processes() == running
    assert bench.answer() == "one"


def test_a_release_that_is_never_ready_is_not_switched_to_and_removed(bench: Bench) -> None:
    one = bench.deploy("one")
    with Load(bench.port, posts=False) as load:
        outcome, _ = bench.run(delivery(deployment(bench.port, "bad", ("UNREADY", "1"), ready=1)))
        load.more(20)
    assert (outcome.exit, sorted(outcome.failed)) == (Exit.FAILED, ["deploy"])
    assert "was not ready within 1 s" in outcome.failed["deploy"]
    assert (set(load.answers), load.failures) == ({"one"}, [])
    assert bench.groups() == {one.group}


def test_a_verification_that_fails_goes_back_and_users_see_no_error_of_the_way_back(bench: Bench) -> None:
    one = bench.deploy("one")
    with Load(bench.port, posts=False) as load:
        outcome, _ = bench.run(delivery(deployment(bench.port, "two"), "something else"))
        load.more(20)
    assert sorted(outcome.failed) == ["verified"]
    assert load.failures == []
    assert bench.answer() == "one"
    assert bench.groups() == {one.group}
    kinds = [event.kind for event in bench.journal.events(outcome.run, stage="deploy")]
    assert kinds.count("rollout.back") == kinds.count("undo.done") == 1


def test_the_first_deployment_ever_that_fails_its_verification_leaves_nothing_running(bench: Bench) -> None:
    outcome, _ = bench.run(delivery(deployment(bench.port, "one"), "something else"))
    assert sorted(outcome.failed) == ["verified"]
    assert bench.processes() == []


def test_a_release_that_served_before_goes_back_to_the_one_kept_warm(bench: Bench) -> None:
    bench.deploy("one")
    bench.deploy("two")
    outcome, _ = bench.run(delivery(deployment(bench.port, "two"), "something else"))
    assert sorted(outcome.failed) == ["verified"]
    assert bench.answer() == "one"


def test_a_release_with_nothing_to_go_back_to_goes_on_serving_and_says_so(bench: Bench) -> None:
    one = bench.deploy("one")
    outcome, _ = bench.run(delivery(deployment(bench.port, "one"), "something else"))
    assert f"{one.group} goes on serving, as before this run" in outcome.failed["deploy"]
    assert bench.answer() == "one"


class Meanwhile(Stage[ProbeReport]):
    """While this deployment is verified somebody else rolls out another release; then the verification fails."""

    effect: ClassVar[Effect] = Effect.RETRYABLE

    deploy: Deploy
    release: Stage[Passed[Image]]

    async def run(self, work: Work) -> ProbeReport:
        deploy = self.deploy
        newer = Release(image=work[self.release].artifact, env={"VERSION": "newer"}, instances=1, ready=deploy.ready)
        await Rollout(deploy.target.open(work), deploy.router.open(work, deploy.ready), newer, work.record).forward(BlueGreen())
        return ProbeReport(url="", probes=(Probe(name="it", passed=False, said="is bad"),))


def test_going_back_leaves_a_newer_deployment_alone(bench: Bench) -> None:
    bench.deploy("one")
    deploy = deployment(bench.port, "two")
    outcome, _ = bench.run(delivery(deploy, watch=Meanwhile(deploy=deploy, release=deploy.release)))
    assert sorted(outcome.failed) == ["verified"]
    assert bench.answer() == "newer"


class Beside(Stage[ProbeReport]):
    """While this deployment is verified, another run wants to deploy; what it said until it was seen to wait."""

    effect: ClassVar[Effect] = Effect.RETRYABLE

    deployment: Stage[Deployment]
    port: int
    others: list[warm.Process] = dataclasses.field(default_factory=list)

    async def run(self, work: Work) -> ProbeReport:
        self.others.append(deploy_in_another_process(work.project, work.store, self.port, "newer"))
        logs = work.project.home / "logs"
        with anyio.fail_after(60):
            while not any("that are not confirmed yet" in log.read_text() for log in logs.glob("*/deploy/*")):
                await anyio.sleep(0.02)
        url = f"http://127.0.0.1:{self.port}"
        async with browser() as client:
            said = (await client.get(url)).text
        return ProbeReport(url=url, probes=(Probe(name="it", passed=said == "two", said=said),))


def test_another_deployment_waits_until_the_one_before_it_is_verified(bench: Bench) -> None:
    bench.deploy("one")
    deploy = deployment(bench.port, "two")
    beside = Beside(deployment=deploy, port=bench.port)
    outcome, _ = bench.run(delivery(deploy, watch=beside))
    assert outcome.failed == {}
    (other,) = beside.others
    assert other.wait() == 0, other.output
    assert bench.answer() == "newer"


def test_two_runs_at_once_deploy_one_after_the_other(bench: Bench) -> None:
    bench.deploy("one")
    with Load(bench.port, posts=False) as load:
        others = [deploy_in_another_process(bench.project, bench.store, bench.port, version) for version in ("two", "three")]
        assert [other.wait() for other in others] == [0, 0], [other.output for other in others]
        load.more(20)
    assert load.failures == []
    events = [
        (event.run, event.kind)
        for event in bench.journal.events(stage="deploy")
        if event.kind in {"rollout.started", "rollout.finished"}
    ]
    assert [kind for _, kind in events] == ["rollout.started", "rollout.finished"] * 3
    assert all(events[number][0] == events[number + 1][0] for number in (0, 2, 4))
    assert len(bench.groups()) == 2


def test_a_run_waits_while_another_one_deploys(bench: Bench) -> None:
    async def main() -> None:
        async with alone(state(bench.project, "deploy", "."), print):
            other = deploy_in_another_process(bench.project, bench.store, bench.port, "one")
            with anyio.fail_after(60):
                while not any("another run is at work" in log.read_text() for log in bench.project.home.glob("logs/*/deploy/*")):
                    await anyio.sleep(0.02)
            assert list(bench.journal.events(kind="rollout.started")) == []
        assert await anyio.to_thread.run_sync(other.wait) == 0, other.output

    anyio.run(main)
    assert bench.answer() == "one"


def test_what_runs_outlives_the_run_and_is_taken_down_on_request(bench: Bench) -> None:
    assert deploy_in_another_process(bench.project, bench.store, bench.port, "one").wait() == 0
    assert bench.answer() == "one"
    env = {**os.environ, "PIPELINE_HOME": str(bench.project.home)}

    def down(*options: str) -> subprocess.CompletedProcess[str]:
        return warm.run(["-m", "stages.delivery.down", str(bench.project.root), *options], cwd=TOP, env=env)

    assert down("--check").returncode == 0
    assert bench.answer() == "one"  # to ask takes nothing down
    done = [down().stdout for _ in range(2)]
    assert down("--check").returncode == 1
    assert done == ["took down 3 processes\n", "nothing was running\n"]
    assert not sockets(state(bench.project, "router")).exists()
    assert bench.processes() == []


# Secrets.


def with_token(port: int) -> Deploy:
    return dataclasses.replace(deployment(port, "one"), secrets=("TOKEN",))


def test_another_value_of_a_secret_is_another_release(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = []
    for value in ("s3cret-s3cret", "another-one", "s3cret-s3cret"):
        monkeypatch.setenv("TOKEN", value)
        outcome, found = bench.run(delivery(with_token(bench.port), "one"))
        assert outcome.failed == {}
        groups.append(found["deploy"].group)
        instances = process.running(f"{bench.target.state}:{groups[-1]}:")
        assert [one.env["TOKEN"] for one in instances] == [value, value]
    assert groups[0] == groups[2] != groups[1]
    (bench.project.home / "state" / "deploy" / ".key").unlink()
    outcome, found = bench.run(delivery(with_token(bench.port), "one"))
    assert found["deploy"].group not in groups  # who has not the key finds no value by its name


class Forgets(Stage[ProbeReport]):
    """The secret is gone when the verification fails."""

    effect: ClassVar[Effect] = Effect.RETRYABLE

    deployment: Stage[Deployment]

    async def run(self, work: Work) -> ProbeReport:
        del os.environ["TOKEN"]
        return ProbeReport(url="", probes=(Probe(name="it", passed=False, said="is bad"),))


def test_the_way_back_needs_no_secret(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    before = bench.deploy("one")
    monkeypatch.setenv("TOKEN", "s3cret-s3cret")
    deploy = with_token(bench.port)
    outcome, _ = bench.run(delivery(deploy, watch=Forgets(deployment=deploy)))
    assert sorted(outcome.failed) == ["verified"]
    assert bench.groups() == {before.group}


# Runs that are killed.


def no_request_is_lost_around(bench: Bench, points: Sequence[int], strategy: str) -> None:
    """Runs that are killed at these points of their rollout; each is taken up by the next one."""
    begin = f"{strategy.rpartition(' ')[0]} blue-green"
    before = [bench.deploy("a", begin), bench.deploy("b", begin)][-1]
    with Load(bench.port, posts=False) as load:
        for point in points:
            bench.die(f"v{point}", point, strategy)
            load.more(10)
            after = bench.deploy(f"v{point}", strategy)
            assert bench.groups() | anyio.run(bench.target.resting) == {before.group, after.group}
            served = {name: share for name, share in after.before.items() if share}
            assert (after.previous, served) == (before.group, {before.group: 100})
            before = after
            load.more(10)
    print(f"{load.sent} requests, {len(load.failures)} lost around {len(points)} killed runs")
    assert load.failures == []


@pytest.mark.parametrize("first", [1, 4])
def test_a_run_killed_at_some_point_of_a_rollout_is_taken_up_by_the_next_and_no_request_is_lost(bench: Bench, first: int) -> None:
    """Fifteen points: the rollout is started, six steps are intended and done, the rollout is finished, and its stage.

    Here and below, of the points every third; `./dev bench kills` has all of them.
    """
    no_request_is_lost_around(bench, range(first, 15, 6), "blue-green")


@pytest.mark.parametrize("first", [2, 5])
def test_a_canary_killed_at_some_point_is_taken_up_by_the_next_run_and_no_request_is_lost(bench: Bench, first: int) -> None:
    """Twenty points: as above, with a share and what its judge said in between, and the end of an older release."""
    no_request_is_lost_around(bench, range(first, 19, 6), "canary")


@pytest.mark.parametrize("first", [1, 4])
def test_a_rolling_update_killed_at_some_point_is_taken_up_by_the_next_run_and_no_request_is_lost(
    bench: Bench, first: int
) -> None:
    """Twenty-seven points: twelve steps for two instances, begin and end, and the end of the stage; blue rests then."""
    no_request_is_lost_around(bench, range(first, 28, 6), "rolling")
    (group,) = anyio.run(bench.target.groups).values()
    assert len(group.instances) == 2


@pytest.mark.parametrize(
    ("strategy", "points"), [("envoy canary", (7, 10, 14)), ("envoy shadow", (5, 9, 12)), ("envoy shadow", (18, 22))]
)
def test_behind_envoy_too_no_request_is_lost_when_a_run_is_killed(bench: Bench, strategy: str, points: tuple[int, ...]) -> None:
    """Where traffic or copies begin, are judged, and have just been switched."""
    need_envoy()
    no_request_is_lost_around(bench, points, strategy)


@pytest.mark.parametrize("first", [1, 4])
def test_a_recreation_killed_at_some_point_is_taken_up_by_the_next_run_and_users_are_told_to_wait(
    bench: Bench, first: int
) -> None:
    """Fifteen points: six steps, how long nobody served, and begin and end."""
    before = bench.deploy("a")
    with Load(bench.port, posts=False) as load:
        for point in range(first, 16, 6):
            bench.die(f"v{point}", point, "recreate")
            outcome, _ = bench.run(delivery(deployment(bench.port, "bad", strategy="recreate"), "something else"))
            assert sorted(outcome.failed) == ["verified"]
            assert bench.answer() == "a"
            assert bench.groups() == {before.group}
    assert {failure[:24] for failure in load.failures} <= {"GET: 503 '<!doctype html"}


@pytest.mark.parametrize("point", [18, 19, 21])
def test_a_run_killed_on_the_way_back_of_a_recreation_leaves_it_to_the_next(bench: Bench, point: int) -> None:
    """Sixteen points as above; then the way back: traffic to nobody, green drained and ended, blue started again."""
    before = bench.deploy("a")
    words = (bench.project, bench.store, bench.port, "bad", point, "recreate", 0, "something else")
    other = deploy_in_another_process(*words)
    assert other.wait() == -signal.SIGKILL, other.output
    outcome, _ = bench.run(delivery(deployment(bench.port, "worse", strategy="recreate"), "something else"))
    assert sorted(outcome.failed) == ["verified"]
    assert bench.answer() == "a"
    assert bench.groups() == {before.group}


@dataclass(frozen=True, kw_only=True)
class Blind(LocalTarget):
    """Tells nothing of its groups while a file is there."""

    async def groups(self) -> dict[str, Group]:
        if (self.state / "blind").exists():
            raise StageFailed("nobody can see anything here")
        return await super().groups()


@dataclass(frozen=True)
class BlindProcesses(LocalProcesses):
    def open(self, work: Work) -> Blind:
        return Blind(**vars(super().open(work)))


def test_a_release_that_serves_and_cannot_be_looked_at_is_not_taken_for_one_that_does_not(bench: Bench) -> None:
    one = bench.deploy("one")
    blind = bench.target.state / "blind"
    bench.journal.listen(lambda event: blind.touch() if event.kind == "rollout.finished" and not event.data.get("back") else None)
    deploy = dataclasses.replace(deployment(bench.port, "two"), target=BlindProcesses(name="app", patience=10))
    outcome, _ = bench.run(delivery(deploy, "two"))
    assert "was rolled out, and what runs now cannot be looked at" in outcome.failed["deploy"]
    blind.unlink()
    stopped: Any = Fails(of=Constant(value=1))
    outcome, _ = bench.run(delivery(dataclasses.replace(deploy, after=(stopped,)), "two"))
    assert bench.answer() == "one"
    assert bench.groups() == {one.group}


@pytest.mark.parametrize("point", [1, 3, 4, 6, 8])
def test_a_first_deployment_killed_at_some_point_is_still_a_first_one(bench: Bench, point: int) -> None:
    """Eight points: started, three steps intended and done, finished. Nobody verified it, so it is taken back."""
    bench.die("one", point)
    outcome, found = bench.run(delivery(deployment(bench.port, "one"), "something else"))
    assert sorted(outcome.failed) == ["verified"]
    assert (found["deploy"].started, found["deploy"].before) == (True, {})
    assert bench.processes() == []


def test_a_release_that_fails_when_deployed_again_goes_back_to_the_one_that_rests(bench: Bench) -> None:
    """It served before too, and the one before it was ended by the rollout: that is started again."""
    one = bench.deploy("one")
    bench.deploy("two", "rolling")
    outcome, _ = bench.run(delivery(deployment(bench.port, "two", strategy="rolling"), "something else"))
    assert sorted(outcome.failed) == ["verified"]
    assert bench.answer() == "one"
    assert one.group in bench.groups()


def test_a_run_killed_before_its_verification_is_taken_back_by_the_next_though_that_never_deploys(bench: Bench) -> None:
    one = bench.deploy("one")
    with Load(bench.port, posts=False) as load:
        bench.die("two", 11)  # started, four steps, finished; deployed, and not verified
        assert bench.answer() == "two"
        deploy = deployment(bench.port, "three")
        stopped: Any = Fails(of=Constant(value=1))
        outcome, _ = bench.run(delivery(dataclasses.replace(deploy, after=(stopped,))))
        load.more(10)
    assert sorted(outcome.failed) == ["fails"]
    assert load.failures == []
    assert bench.answer() == "one"
    assert bench.groups() == {one.group}
    undone = [event.kind for event in bench.journal.events(outcome.run, stage="deploy") if event.kind.startswith("undo.")]
    assert undone == ["undo.intended", "undo.done"]


@dataclass(frozen=True)
class Stuck(BlueGreen):
    """Whose way back fails as long as there is a file."""

    file: str = ""

    def back(self, before: State, green: str) -> tuple[Step, ...]:
        if Path(self.file).exists():
            raise StageFailed("nobody gets through")
        return super().back(before, green)


def test_a_rollout_whose_way_back_failed_too_is_taken_back_by_the_next_run_though_that_never_deploys(
    bench: Bench, tmp_path: Path
) -> None:
    one = bench.deploy("one")
    stuck = tmp_path / "stuck"
    stuck.touch()
    bad = deployment(bench.port, "bad", ("UNREADY", "1"))
    bad = dataclasses.replace(bad, strategy=Stuck(ready=1, file=str(stuck)))
    outcome, _ = bench.run(delivery(bad))
    assert "failed: nobody gets through" in outcome.failed["deploy"]
    assert len(bench.groups()) == 2
    stuck.unlink()
    outcome, _ = bench.run(delivery(dataclasses.replace(bad, after=(Fails(of=Constant(value=1)),))))
    assert sorted(outcome.failed) == ["fails"]
    assert (bench.answer(), bench.groups()) == ("one", {one.group})


def test_a_deployment_that_nobody_verified_goes_back_also_when_its_result_is_lost(bench: Bench) -> None:
    one = bench.deploy("one")
    bench.die("two", 11)
    assert bench.answer() == "two"
    result = list(bench.journal.events(kind="effect.done"))[-1].data["result"]
    with contextlib.closing(sqlite3.connect(bench.store.root / "results.db", isolation_level=None)) as results:
        assert results.execute("delete from text where digest = ?", (result,)).rowcount == 1
    bench.run(delivery(dataclasses.replace(deployment(bench.port, "three"), after=(Fails(of=Constant(value=1)),))))
    assert (bench.answer(), bench.groups()) == ("one", {one.group})


def test_an_interrupted_verification_leaves_a_release_that_served_before(bench: Bench) -> None:
    """Nothing was found wrong with it; one that failed its verification would go back to the release kept warm."""
    bench.deploy("one")
    bench.deploy("two")
    bench.die("two", 9)  # the same release again: started, three steps, finished; deployed, and not verified
    outcome, _ = bench.run(delivery(dataclasses.replace(deployment(bench.port, "two"), after=(Fails(of=Constant(value=1)),))))
    assert bench.answer() == "two"
    (undone,) = bench.journal.events(outcome.run, kind="undo.done")
    assert undone.data["said"].endswith("served before this run too, and nothing was found wrong with it: it stays")
    history = one(bench.journal, outcome.run)
    assert history is not None
    assert history.stages["deploy"].undone == undone.data["said"]


def test_another_release_after_a_killed_run_keeps_the_one_that_was_whole(bench: Bench) -> None:
    whole = bench.deploy("whole")
    with Load(bench.port, posts=False) as load:
        bench.die("half", 7)  # switched, and nothing more
        assert bench.answer() == "half"
        next_ = bench.deploy("next")
        load.more(10)
    assert load.failures == []
    assert next_.previous == whole.group
    assert bench.groups() == {whole.group, next_.group}


# Commands of a release.


def once(*command: str) -> Pipeline:
    gate = gated(image_stage())
    return Pipeline("small", once=RunOnce(release=gate, target=LocalProcesses(name="app"), command=command))


def test_a_command_of_the_release_runs_once_and_its_output_is_kept(bench: Bench) -> None:
    outcome, found = bench.run(once("python", "-c", "print('migrated')"))
    assert outcome.failed == {}
    assert (found["once"].output, found["once"].summary()) == ("migrated\n", "migrated")
    assert bench.processes() == []


def test_a_command_of_the_release_that_fails_stops_what_comes_after_it(bench: Bench) -> None:
    gate = gated(image_stage())
    migrate = RunOnce(release=gate, target=LocalProcesses(name="app"), command=("python", "-c", "raise SystemExit('no schema')"))
    base = deployment(bench.port, "one")
    deploy = Deploy(release=gate, target=base.target, router=base.router, after=(migrate,), env=base.env)
    outcome, _ = bench.run(Pipeline("small", deploy=deploy, migrate=migrate))
    assert "ended with exit code 1: no schema" in outcome.failed["migrate"]
    assert bench.processes() == []
