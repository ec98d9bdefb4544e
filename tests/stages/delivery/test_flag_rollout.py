"""Flags rolled out by themselves, in a real service that reads them through OpenFeature's own provider."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as some

from gates import Check, Verification, all_probes_passed
from gates.judge import Business, ErrorRate, Judge, SlowAnswers
from pipeline import Journal, Pipeline, Project, Stage, StageFailed, Store, WiringError, Work
from pipeline.engines.local import free_port
from pipeline.journal import Event
from pipeline.order import Order, give
from pipeline.rollouts import all_rollouts
from pipeline.run import Outcome
from stages.delivery.audience import HasCookie
from stages.delivery.deploy import Deploy
from stages.delivery.flag_rollout import FlagRolledOut, RolloutFlag, Shares
from stages.delivery.haproxy import HAProxy
from stages.delivery.live_flags import ROLLED_OUT, LiveFile, shares_of, with_share, with_shares
from stages.delivery.local import LocalProcesses
from stages.delivery.model import Deployment, Group, State
from stages.delivery.step import Split
from stages.delivery.strategy import Canary
from stages.environment import PythonEnvironment
from stages.image import BuildImage, Placed
from stages.smoke import Request, SmokeChecks
from stages.source import WorkingCopy
from tests import warm
from tests.conftest import RunStage
from tests.running import run_pipeline
from tests.stages.delivery.flagged import KILLED, PROGRAM, Service, ask, delivery, flags, live, requests, rollout, service, users
from tests.stages.delivery.small import TOP, gated

LOCK = Path(__file__).parents[1] / "locks" / "flags.lock"


class Desk:
    """A project whose service runs and reads the live flags."""

    def __init__(self, project: Project, store: Store, journal: Journal, site: Path) -> None:
        self.project, self.store, self.journal, self.site, self.port = project, store, journal, site, free_port()
        self.define(flags())
        assert self.run(Pipeline("flagged", flags=live())).failed == {}

    @property
    def file(self) -> LiveFile:
        return LiveFile(self.project.home / "state" / "flags" / "app" / "flags.json")

    def define(self, found: dict[str, Any]) -> None:
        (self.project.root / "flags.json").write_text(json.dumps(found))

    def run(self, pipeline: Pipeline) -> Outcome:
        fresh = replace(self.project)  # a project knows its files from when it was first asked
        return run_pipeline(pipeline, fresh, self.store, self.journal)[0]

    def roll(self, *shares: int, judge: Judge | None = None, **more: Any) -> Outcome:
        about = {"judge": judge, **more} if judge else more
        with users(self.port):
            return self.run(delivery(rollout(self.port, *shares, **about)))

    def steps(self) -> list[str]:
        return [event.data["step"] for event in self.journal.events(kind="rollout.done", stage="ramp")]

    def order_when(self, step: str, *orders: Order) -> threading.Thread:
        """Operators give orders, one after the other, as soon as a step is intended."""

        def watch() -> None:
            journal = Journal(self.project.home / "journal.db")
            end = time.monotonic() + 60
            while not (found := [one for one in journal.events(kind="rollout.intended") if one.data["step"].startswith(step)]):
                assert time.monotonic() < end
                time.sleep(0.02)
            for order in orders:
                give(journal, order._replace(number=found[-1].data["left"]), found[-1].run, "ramp", {})
            journal.close()

        thread = threading.Thread(target=watch)
        thread.start()
        return thread


@pytest.fixture
def journal(project: Project) -> Iterator[Journal]:
    """Where other processes of the project find it."""
    found = Journal(project.home / "journal.db")
    yield found
    found.close()


@pytest.fixture
def site(project: Project, store: Store, run_stage: RunStage, tmp_path: Path) -> Path:
    """OpenFeature's provider, installed."""
    shutil.copy(LOCK, project.root / "requirements.lock")
    tree = run_stage(PythonEnvironment(source=WorkingCopy(include=("requirements.lock",))))
    place = tmp_path / "site"
    store.lay_out(tree, place)
    return place


@pytest.fixture
def desk(project: Project, store: Store, journal: Journal, site: Path) -> Desk:
    return Desk(project, store, journal, site)


def served(desk: Desk, **env: str) -> Any:
    return service(desk.site, desk.file.path, desk.port, **env)


def test_a_flag_is_on_for_more_and_more_users_and_in_the_end_for_all(desk: Desk) -> None:
    with served(desk):
        assert desk.roll(20, 50).failed == {}
    assert desk.steps() == [
        "send 20 % to on, 80 % to off",
        "weigh on against off, at most 60 s",
        "send 50 % to on, 50 % to off",
        "weigh on against off, at most 60 s",
        "send 100 % to on",
    ]
    assert desk.file.shares("new-detector") == {"on": 100, "off": 0}
    judged = list(desk.journal.events(kind="rollout.judged"))
    assert [event.data["advice"] for event in judged] == ["promote", "promote"]
    assert "errors: 0 of" in judged[0].data["said"]
    (past,) = all_rollouts(desk.journal)
    assert (past.group, past.state, past.share) == ("on", "verified", 100)


def test_who_has_the_new_variant_keeps_it_at_every_step(desk: Desk) -> None:
    with served(desk) as found:
        seen: list[set[str]] = [found.on()]
        for share in (1, 5, 10, 25, 50, 75, 90, 100):
            anyio.run(desk.file.give, "new-detector", {"on": share, "off": 100 - share})
            seen.append(until_read(found, share))
        assert seen[0] == set()
        assert seen[-1] == {f"u{number}" for number in range(200)}
        assert all(few <= more for few, more in itertools.pairwise(seen))
        assert found.on(site="hall") == seen[-1]


def until_read(found: Service, share: int) -> set[str]:
    """Who has it, once the service has read the file: two looks in which the provider read it in between are the same."""
    end = time.monotonic() + 30
    before: set[str] | None = None
    while (now := found.on()) != before or (share == 100 and len(now) < 200):
        assert time.monotonic() < end
        before = now
        time.sleep(0.2)
    return now


def test_a_variant_that_fails_goes_back_at_once_with_the_evidence(desk: Desk) -> None:
    judge = Judge(measures=(ErrorRate(budget=0),), warm_up=0, at_most=60)
    with served(desk, FAILS="5") as found:
        failed = desk.roll(50, judge=judge).failed["ramp"]
        assert "on may not go on: abort" in failed
        assert found.until(0) == set()
    assert desk.file.shares("new-detector") == {"on": 0, "off": 100}


def test_without_a_request_nothing_is_promoted(desk: Desk) -> None:
    judge = Judge(measures=(ErrorRate(),), warm_up=0, at_least=0, at_most=1)
    with served(desk):
        failed = desk.run(delivery(rollout(desk.port, 50, judge=judge, paused=0))).failed["ramp"]
    assert "inconclusive" in failed
    assert "missing: 100 requests more to the new release" in failed
    assert desk.file.shares("new-detector") == {"on": 0, "off": 100}


def test_a_source_that_does_not_answer_is_no_good_news(desk: Desk) -> None:
    judge = Judge(measures=(ErrorRate(),), warm_up=0, at_least=0, at_most=60, blind=1)
    failed = desk.run(delivery(rollout(desk.port, 50, judge=judge, paused=0))).failed["ramp"]
    assert "missing: metrics, for" in failed
    assert desk.file.shares("new-detector") == {"on": 0, "off": 100}


def test_operators_pause_promote_and_abort_it_as_any_rollout(desk: Desk) -> None:
    slow = Judge(measures=(ErrorRate(budget=0.2),), warm_up=0, floor=10, at_least=3600, at_most=7200)
    with served(desk) as found:
        about = Order(verb="pause", by="anna"), Order(verb="promote", by="anna", of="all")
        thread = desk.order_when("weigh", *about)
        assert desk.roll(30, 60, judge=slow).failed == {}
        thread.join()
        assert found.until(100)
        assert "rollout.promoted" in {event.kind for event in desk.journal.events(stage="ramp")}
        desk.define(flags(on=0, metadata={"second": True}))
        desk.file.path.write_text(json.dumps(flags()))
        last = max(event.seq for event in desk.journal.events(stage="ramp"))
        before = len(list(desk.journal.events(kind="rollout.intended", stage="ramp")))

        def abort() -> None:
            journal = Journal(desk.project.home / "journal.db")
            end = time.monotonic() + 60
            while True:
                fresh = [one for one in journal.events(kind="rollout.intended") if one.seq > last]
                if any(one.data["step"].startswith("weigh") for one in fresh):
                    break
                assert time.monotonic() < end
                time.sleep(0.02)
            give(journal, Order(verb="abort", by="ben", why="enough"), fresh[-1].run, "ramp", {})
            journal.close()

        second = threading.Thread(target=abort)
        second.start()
        failed = desk.roll(30, 60, judge=slow).failed["ramp"]
        second.join()
        assert "ben aborted the rollout of on: enough" in failed
        assert len(list(desk.journal.events(kind="rollout.intended", stage="ramp"))) == before + 3
        assert found.until(0) == set()


class Fails(Stage[FlagRolledOut]):
    """What comes after a flag was rolled out, and finds that it should not have been."""

    ramp: Stage[FlagRolledOut]

    async def run(self, work: Work) -> FlagRolledOut:
        raise StageFailed("it should not be on")


def test_what_fails_below_gives_the_shares_back_that_were_before(desk: Desk) -> None:
    desk.define(flags(on=10))
    desk.run(Pipeline("flagged", flags=live()))
    with served(desk) as found:
        few = found.until(10)
        with users(desk.port):
            ramp = rollout(desk.port, 50)
            assert list(desk.run(delivery(ramp, check=Fails(ramp=ramp))).failed) == ["check"]
        assert desk.file.shares("new-detector") == {"on": 10, "off": 90}
        end = time.monotonic() + 30
        while found.on() != few:
            assert time.monotonic() < end
            time.sleep(0.05)
    assert [step for step in desk.steps() if step.startswith("send")] == [
        "send 50 % to on, 50 % to off",
        "send 100 % to on",
        "send 90 % to off, 10 % to on",
    ]


class LeavesOpen(Stage[FlagRolledOut]):
    """A way back of the other variant was begun before, and nothing says that it came to its end."""

    ramp: Stage[FlagRolledOut]

    async def run(self, work: Work) -> FlagRolledOut:
        journal = Journal(work.project.home / "journal.db")
        back = {"group": "off", "groups": ["off", "on"], "weights": {"on": 100}}
        journal.append(Event(run=work.run, kind="rollout.back", stage="ramp", data=back))
        journal.close()
        raise StageFailed("it should not be on")


def test_the_way_back_of_another_variant_is_not_taken_for_its_own(desk: Desk) -> None:
    with served(desk), users(desk.port):
        ramp = rollout(desk.port, 50)
        assert list(desk.run(delivery(ramp, check=LeavesOpen(ramp=ramp))).failed) == ["check"]
    assert desk.file.shares("new-detector") == {"on": 0, "off": 100}


@pytest.mark.parametrize("die_at", [1, 2, 3, 4, 5, 6, 11, 12, 13, 14])
def test_a_run_that_is_killed_at_any_step_is_taken_back_by_the_next_one_which_rolls_it_out(die_at: int, desk: Desk) -> None:
    with served(desk) as found:
        words = (desk.project.root, desk.project.home, desk.store.root, desk.port, die_at)
        with users(desk.port):
            process = warm.start(["-c", KILLED, *map(str, words)], cwd=TOP, env=os.environ)
            assert process.wait() == -signal.SIGKILL, process.output
        assert desk.roll(50).failed == {}
        assert found.until(100)
    backs = list(desk.journal.events(kind="rollout.back"))
    assert [{name: share for name, share in event.data["weights"].items() if share} for event in backs] == [{"off": 100}]
    assert desk.file.shares("new-detector") == {"on": 100, "off": 0}


def test_the_next_run_leaves_a_share_as_it_was_rolled_out_until_the_definition_has_none(desk: Desk) -> None:
    with served(desk) as found:
        assert desk.roll(50).failed == {}
        desk.define(flags(on=0, defaultVariant="on"))
        assert desk.roll(50).failed == {}
        assert desk.file.read()["flags"]["new-detector"]["defaultVariant"] == "on"
        assert found.until(100)
        assert desk.steps()[-1] == "send 100 % to on"
        desk.define(flags(targeting={}, defaultVariant="off"))
        desk.run(Pipeline("flagged", flags=live()))
        assert found.until(0) == set()


def test_a_release_that_is_deployed_meanwhile_reads_the_same_file(desk: Desk) -> None:
    """The flags are in the environment by their path, so that the group is the same whatever the shares are."""
    root = desk.project.root
    (root / "service.py").write_text(PROGRAM)
    code, lock = WorkingCopy(include=("service.py",)), WorkingCopy(include=("requirements.lock",))
    image = BuildImage(
        layers=(Placed(tree=PythonEnvironment(source=lock), at="/site"), Placed(tree=code, at="/app")),
        entrypoint=("python", "/app/service.py"),
        env=(("PYTHONPATH", "/site"), ("FLAGD_RESOLVER", "file"), ("FLAGD_OFFLINE_POLL_MS", "50")),
    )
    read = live()
    deploy = Deploy(
        release=gated(image),
        target=LocalProcesses(name="app", patience=10),
        router=HAProxy(name="app", port=desk.port),
        bindings=(read,),
    )
    smoke = SmokeChecks(deployment=deploy, requests=(Request(path="/"),))
    verified: Verification[Deployment] = Verification(deployment=deploy, checks=(Check(evidence=smoke, rule=all_probes_passed),))
    ramp = RolloutFlag(
        flags=read,
        deployment=deploy,
        flag="new-detector",
        variant="on",
        requests=requests(desk.port),
        strategy=rollout(desk.port, 50).strategy,
        after=(verified,),
    )
    gate: Any = deploy.release
    names: dict[str, Any] = {
        "code": code,
        "lock": lock,
        "source": read.source,
        "flags": read,
        "layers": image.layers,
        "checks": gate.checks,
        "verification": verified.checks,
    }
    with users_after(desk):
        assert desk.run(Pipeline("flagged", **names, deploy=deploy, verified=verified, ramp=ramp)).failed == {}
    (group,) = {event.data["group"] for event in desk.journal.events(kind="rollout.started", stage="deploy")}
    assert desk.run(Pipeline("flagged", **names, deploy=deploy, verified=verified)).failed == {}
    assert desk.file.shares("new-detector") == {"on": 100, "off": 0}
    assert {event.data["group"] for event in desk.journal.events(kind="rollout.started", stage="deploy")} == {group}


class users_after:  # noqa: N801 - reads as the function beside it
    """Users come as soon as somebody answers them."""

    def __init__(self, desk: Desk) -> None:
        self._end, self._port = threading.Event(), desk.port

    def __enter__(self) -> None:
        self._thread = threading.Thread(target=self._come)
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()

    def _come(self) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)) as connection:
            for number in itertools.count():
                if self._end.wait(0.002):
                    return
                try:
                    ask(connection, user=f"u{number % 300}")
                except (OSError, http.client.HTTPException):
                    connection.close()
                    self._end.wait(0.05)


@pytest.mark.parametrize(
    ("more", "flag", "problem"),
    [
        ({"flag": "old-detector"}, flags(), "there is no flag 'old-detector'"),
        ({"variant": "half"}, flags(), "new-detector has no share of half"),
        ({}, flags(state="DISABLED"), "new-detector is DISABLED"),
        ({}, flags(targeting={}), "new-detector has shares of nothing"),
        ({}, flags(targeting={"fractional": [["on", 0]]}), "new-detector has shares of on"),
        ({}, flags(targeting={"fractional": [["on", 0], ["off", 0]]}), "new-detector has shares of on, off"),
        (
            {},
            flags(targeting={"if": [{"fractional": [["on"], ["off"]]}, {"fractional": [["on"], ["off"]]}]}),
            "shares of nothing",
        ),
    ],
)
def test_a_flag_that_cannot_be_rolled_out_says_why(more: dict[str, Any], flag: dict[str, Any], problem: str, desk: Desk) -> None:
    desk.define(flag)
    assert problem in desk.run(delivery(rollout(desk.port, 50, **more))).failed["ramp"]


def test_what_a_flag_cannot_be_weighed_by_is_refused_when_the_pipeline_is_built() -> None:
    with pytest.raises(WiringError, match="nobody knows how long answers take"):
        rollout(1, 50, judge=Judge(measures=(SlowAnswers(),)))
    with pytest.raises(WiringError, match="the judge weighs 'orders', and no source counts it"):
        rollout(1, 50, judge=Judge(measures=(Business(of="orders"),)))
    with pytest.raises(WiringError, match="the strategy has an audience"):
        RolloutFlag(
            flags=live(),
            deployment=rollout(1).deployment,
            flag="a",
            variant="on",
            requests=requests(1),
            strategy=Canary(judge=Judge(measures=(ErrorRate(),)), audience=HasCookie(name="beta"), whole=True),
        )


PERCENT = some.integers(0, 100)


@given(PERCENT, PERCENT, some.lists(some.text(min_size=1), max_size=20))
def test_a_share_that_grows_takes_the_variant_from_nobody(low: int, high: int, names: list[str]) -> None:
    few, many = sorted((low, high))
    for name in names:
        assert chosen(few, name) != "on" or chosen(many, name) == "on"


def chosen(percent: int, name: str) -> str:
    """Whose bucket a user falls into, by the arithmetic of flagd's `fractional`, from any even hash of the name."""
    import hashlib

    found = with_share(flags(), "new-detector", {"on": percent, "off": 100 - percent})
    shares = found["flags"]["new-detector"]["targeting"]["if"][2]["fractional"][1:]
    total = sum(weight for _, weight in shares)
    bucket = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") * total >> 32
    edges = itertools.accumulate(weight for _, weight in shares)
    return next(str(variant) for (variant, _), edge in zip(shares, edges, strict=True) if bucket < edge)


@given(PERCENT)
def test_the_steps_never_take_a_share_away_and_end_with_everybody(has: int) -> None:
    groups = {name: Group(name, ()) for name in ("on", "off")}
    now = State(groups=groups, weights={"on": has, "off": 100 - has})
    steps = Shares(Canary(judge=Judge(measures=(ErrorRate(),)))).forward(now, "on")
    shares = [dict(step.weights).get("on", 0) for step in steps if isinstance(step, Split)]
    assert shares == sorted(shares)
    assert shares[-1] == 100
    assert has == 100 or all(share > has for share in shares)


@given(PERCENT, PERCENT)
def test_a_definition_keeps_its_shares_until_a_rollout_gave_it_others(defined: int, given_: int) -> None:
    fresh = flags(on=defined)
    assert with_shares(fresh, flags(on=given_)) == fresh
    rolled = with_share(flags(), "new-detector", {"on": given_, "off": 100 - given_})
    found = with_shares(fresh, rolled)
    assert shares_of(found, "new-detector") == {"on": given_, "off": 100 - given_}
    assert found["flags"]["new-detector"]["metadata"] == {ROLLED_OUT: True}
    assert fresh == flags(on=defined)
