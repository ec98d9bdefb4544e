"""Releases that are looked at without users before any traffic moves, and what is kept warm for a while."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import anyio
import pytest

from gates import Check, QualityGate, Verification, Verified, all_probes_passed
from pipeline import Effect, Journal, Pipeline, Project, Result, Stage, Store, Work
from pipeline.engines.local import free_port
from pipeline.run import Outcome
from stages.delivery.clean_up import CleanUp, idle
from stages.delivery.deploy import Deploy, Preview
from stages.delivery.haproxy import HAProxy
from stages.delivery.local import LocalProcesses, LocalTarget
from stages.delivery.model import Deployment, Group, Previewed, State
from stages.smoke import Request, SmokeChecks
from tests.running import run_pipeline
from tests.stages.delivery.load import Load
from tests.stages.delivery.small import gated, image_stage
from tests.web import get


class Looked:
    """A project whose releases are previewed, deployed and verified on one port."""

    def __init__(self, project: Project, store: Store, journal: Journal, target: LocalTarget) -> None:
        self.project, self.store, self.journal, self.target, self.port = project, store, journal, target, free_port()

    def run(
        self,
        version: str,
        *,
        seen: str = "",
        verified: str = "",
        other: str = "",
        warm: float | None = None,
        shared: bool = False,
    ) -> tuple[Outcome, dict[str, Any]]:
        """Deploy a version whose preview has to say `seen`; `other` is an environment that only the deployment has.

        `shared`: traffic is shared with what served before when it is time to clean up.
        """
        where: Any = {"target": LocalProcesses(name="app", patience=10), "router": HAProxy(name="app", port=self.port)}
        release = gated(image_stage())
        env = (("VERSION", version),)
        preview = Preview(release=release, env=env, **where)
        look = SmokeChecks(deployment=preview, requests=(Request(path="/", contains=seen),))
        cleared: QualityGate[Previewed] = QualityGate(artifact=preview, checks=(Check(evidence=look, rule=all_probes_passed),))
        more = (("OTHER", other),) if other else ()
        deploy = Deploy(release=release, env=(*env, *more), preview=cleared, **where)
        smoke = SmokeChecks(deployment=deploy, requests=(Request(path="/", contains=verified),))
        verification: Verification[Deployment] = Verification(
            deployment=deploy, checks=(Check(evidence=smoke, rule=all_probes_passed),)
        )
        gate: Any = release
        named: dict[str, Stage[Any]] = {"share": Share(verified=verification, **where)} if shared else {}
        if warm is not None:
            named["clean_up"] = CleanUp(verified=verification, warm=warm, after=tuple(named.values()), **where)
        pipeline = Pipeline(
            "looked",
            checks=gate.checks,
            preview=preview,
            look=look,
            seen=cleared.checks,
            cleared=cleared,
            deploy=deploy,
            smoke=smoke,
            verification=verification.checks,
            verified=verification,
            **named,
        )
        return run_pipeline(pipeline, self.project, self.store, self.journal)

    def answer(self) -> str:
        return get(f"http://127.0.0.1:{self.port}").text

    @property
    def groups(self) -> set[str]:
        return set(anyio.run(self.target.groups))


@pytest.fixture
def looked(project: Project, store: Store, journal: Journal, target: LocalTarget) -> Looked:
    return Looked(project, store, journal, target)


def test_a_release_that_looks_well_without_users_is_deployed_as_it_was_seen(looked: Looked) -> None:
    outcome, found = looked.run("one", seen="one", verified="one")
    assert outcome.failed == {}
    assert found["preview"].group == found["deploy"].group
    assert found["preview"].address.port != looked.port
    assert found["preview"].summary() == f"{found['deploy'].group} runs without users at {found['preview'].address.url}"
    assert looked.answer() == "one"


def test_a_release_that_does_not_look_well_gets_no_user_and_is_ended(looked: Looked) -> None:
    looked.run("one", seen="one")
    before = looked.groups
    with Load(looked.port, posts=False) as load:
        outcome, _ = looked.run("two", seen="something else")
        load.more(10)
    assert sorted(outcome.failed) == ["cleared"]
    assert (load.failures, set(load.answers)) == ([], {"one"})
    assert looked.groups == before
    assert list(looked.journal.events(outcome.run, kind="rollout.started")) == []


def test_a_release_that_fails_among_users_is_ended_though_it_ran_before_them(looked: Looked) -> None:
    looked.run("one", seen="one")
    before = looked.groups
    outcome, _ = looked.run("two", seen="two", verified="something else")
    assert sorted(outcome.failed) == ["verified"]
    assert looked.answer() == "one"
    assert looked.groups == before


def test_what_is_deployed_has_to_be_what_was_seen(looked: Looked) -> None:
    outcome, _ = looked.run("one", seen="one", other="1")
    assert "was previewed, and r-" in outcome.failed["deploy"]
    assert looked.groups == set()


def test_the_release_that_serves_already_is_previewed_as_it_runs(looked: Looked) -> None:
    looked.run("one", seen="one")
    before = looked.groups
    outcome, found = looked.run("one", seen="something else")
    assert sorted(outcome.failed) == ["cleared"]
    assert not found["preview"].started
    assert (looked.groups, looked.answer()) == (before, "one")


def test_what_served_before_is_ended_when_its_time_is_over(looked: Looked) -> None:
    looked.run("one")
    (one,) = looked.groups
    outcome, found = looked.run("two", warm=0)
    assert outcome.failed == {}
    assert found["clean_up"].groups == (one,)
    assert looked.groups == {found["deploy"].group}
    assert not (looked.project.home / "state" / "deploy" / "app" / one).exists()
    assert looked.answer() == "two"


class Shares(Result):
    """The share of each group."""

    weights: dict[str, int]


class Share(Stage[Shares]):
    """Another rollout goes on: what served before has half of the traffic."""

    effect: ClassVar[Effect] = Effect.RETRYABLE

    verified: Stage[Verified[Deployment]]
    target: LocalProcesses
    router: HAProxy

    async def run(self, work: Work) -> Shares:
        groups = await self.target.open(work).groups()
        shares = dict.fromkeys(groups, 100 // len(groups))
        await self.router.open(work, "/readyz").split(shares, groups)
        return Shares(weights=shares)


def test_what_served_before_is_kept_warm_also_while_another_rollout_shares_the_traffic(looked: Looked) -> None:
    looked.run("one")
    (one,) = looked.groups
    _, found = looked.run("two", warm=0.1, shared=True)
    said = "".join(log.read_text() for log in looked.project.home.glob("logs/*/clean_up/*"))
    assert f"what served before {found['deploy'].group} is kept warm until" in said
    assert found["clean_up"].groups == ()
    assert looked.groups == {one, found["deploy"].group}


def test_nothing_is_ended_while_another_serves_or_shares_the_traffic() -> None:
    groups = {name: Group(name, ()) for name in "abc"}
    now = State(groups=groups, weights={"a": 100, "b": 0}, resting=frozenset("d"))
    every = ("b", "c", "d")
    assert idle(now, "a", every) == every
    assert idle(now, "a", ("b", "gone")) == ("b",)
    assert idle(now, "b", every) == ()
    assert idle(replace(now, weights={"a": 50, "b": 50}), "a", every) == ()
