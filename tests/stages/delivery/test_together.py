"""Several services in lockstep, on real routers and under load."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import anyio
import pytest

from gates import Judge
from pipeline import Journal, Pipeline, Project, StageFailed, Store, WiringError
from pipeline.engines.local import free_port
from pipeline.errors import Exit
from pipeline.order import operator
from pipeline.rollouts import all_rollouts
from pipeline.run import Outcome
from stages.delivery import process
from stages.delivery.course import NothingLeft
from stages.delivery.deploy import Opens
from stages.delivery.envoy import Envoy
from stages.delivery.haproxy import HAProxy
from stages.delivery.local import LocalProcesses
from stages.delivery.shadow import Shadow
from stages.delivery.strategy import BlueGreen, Canary
from stages.delivery.together import Deployments, DeployTogether, Service, _broken
from tests.running import run_pipeline
from tests.stages.delivery.desk import Desk, at_desk, hanging, weighing
from tests.stages.delivery.load import Load
from tests.stages.delivery.pair import NAMES, Env, deploy_in_another_process, pair
from tests.stages.delivery.place import local_target
from tests.stages.delivery.small import gated, image_stage
from tests.web import get


@dataclass
class Pair:
    """Two services that are deployed together again and again."""

    project: Project
    store: Store
    journal: Journal
    ports: dict[str, int]

    def run(self, pipeline: Pipeline) -> tuple[Outcome, dict[str, Any]]:
        return run_pipeline(pipeline, self.project, self.store, self.journal)

    def deploy(self, version: str, strategy: str = "blue-green", **env: Env) -> Deployments:
        outcome, found = self.run(pair(self.ports, version, strategy, env))
        assert outcome.failed == {}
        result: Deployments = found["deploy"]
        return result

    def fails(self, version: str, strategy: str = "blue-green", *, wanted: str | None = None, **env: Env) -> Outcome:
        outcome, _ = self.run(pair(self.ports, version, strategy, env, wanted))
        assert outcome.exit == Exit.FAILED
        return outcome

    def answers(self) -> list[str]:
        return [get(f"http://127.0.0.1:{self.ports[name]}").text for name in NAMES]

    def groups(self, name: str) -> set[str]:
        return set(anyio.run(local_target(self.project, self.store, name).groups))

    @contextlib.contextmanager
    def load(self, pause: float = 0.02) -> Iterator[list[Load]]:
        """Users of both; none of them may lose a request."""
        with contextlib.ExitStack() as stack:
            users = [stack.enter_context(Load(self.ports[name], posts=False, pause=pause)) for name in NAMES]
            yield users
            for one in users:
                one.more(20)
        assert [one.failures for one in users] == [[], []]

    def told(self, outcome: Outcome, *kinds: str) -> list[tuple[str, str, Any]]:
        """Events of a rollout in order: kind, service, and what was switched."""
        events = self.journal.events(outcome.run, stage="deploy", kind=kinds)
        return [(event.kind, event.data.get("service", ""), event.data.get("weights")) for event in events]


@pytest.fixture
def services(project: Project, store: Store) -> Iterator[Pair]:
    journal = Journal(project.home / "journal.db")
    yield Pair(project, store, journal, {name: free_port() for name in NAMES})
    journal.close()


def test_both_services_are_switched_together_and_nobody_loses_a_request(services: Pair) -> None:
    one = services.deploy("one")
    with services.load():
        two = services.deploy("two")
        assert services.answers() == ["two", "two"]
    for name in NAMES:
        assert services.groups(name) == {one.services[name].group, two.services[name].group}
        assert two.services[name].previous == one.services[name].group
    assert "front: r-" in two.summary()


def test_nobody_waits_for_a_service_whose_rollout_cannot_even_begin(services: Pair) -> None:
    services.deploy("one")
    with services.load():
        outcome = services.fails("two", back={"READY": "/another"})
    assert "back: " in outcome.failed["deploy"]
    assert "by /another" in outcome.failed["deploy"]
    assert services.answers() == ["one", "one"]


@pytest.mark.parametrize("strategy", ["blue-green", "canary"])
def test_nothing_is_switched_where_one_is_never_ready(services: Pair, strategy: str) -> None:
    one = services.deploy("one")
    with services.load() as users:
        outcome = services.fails("two", strategy, back={"UNREADY": "1"})
    assert "back: " in outcome.failed["deploy"]
    assert "was not ready within 10 s" in outcome.failed["deploy"]
    assert [set(user.answers) for user in users] == [{"one"}, {"one"}]
    assert [services.groups(name) for name in NAMES] == [{one.services[name].group} for name in NAMES]


def test_a_canary_grows_for_both_at_once_and_is_promoted_for_both(services: Pair) -> None:
    services.deploy("one")
    with services.load(pause=0.005):
        outcome, found = services.run(pair(services.ports, "two", "canary"))
    assert outcome.failed == {}
    switched = [(service, weights[found["deploy"].services[service].group]) for _, service, weights in _splits(services, outcome)]
    assert [sorted(switched[:2]), sorted(switched[2:])] == [[("back", 40), ("front", 40)], [("back", 100), ("front", 100)]]
    assert services.answers() == ["two", "two"]


def test_when_the_canary_of_one_does_harm_both_go_back(services: Pair) -> None:
    one = services.deploy("one")
    with contextlib.ExitStack() as stack:
        for name in NAMES:
            stack.enter_context(Load(services.ports[name], posts=False, pause=0.005))
        outcome = services.fails("two", "canary", back={"FAILS": "2"})
    assert outcome.failed["deploy"].startswith("back: ")
    assert "abort after" in outcome.failed["deploy"]
    assert services.answers() == ["one", "one"]
    assert [services.groups(name) for name in NAMES] == [{one.services[name].group} for name in NAMES]
    shares = {weights.get(one.services[service].group) for _, service, weights in _splits(services, outcome)}
    assert shares == {60, 100}  # the other one never got more than its first share
    states = {rollout.service: rollout.state for rollout in all_rollouts(services.journal)[-2:]}
    assert states == {"front": "taken back", "back": "taken back"}


def test_who_waits_for_the_other_is_still_judged(services: Pair) -> None:
    """Nobody uses `front`, so that there is nothing to go on; `back` is fine until it waits, and then it is not."""
    services.deploy("one")
    with Load(services.ports["back"], posts=False, pause=0.005):
        outcome = services.fails("two", "canary", back={"SOURS": "400"})
    assert "back: " in outcome.failed["deploy"]
    assert "abort after" in outcome.failed["deploy"]
    advices = [event.data for event in services.journal.events(outcome.run, stage="deploy", kind=("rollout.looked",))]
    harmless = [data["measures"]["errors"] for data in advices if data["service"] == "back"]
    needed = advices[-1]["needed"][1]
    assert any(measure[5] >= needed for measure in harmless)  # it might have gone on


def test_a_verification_that_fails_takes_both_back(services: Pair) -> None:
    services.deploy("one")
    with services.load():
        outcome = services.fails("two", wanted="something else")
    assert sorted(outcome.failed) == ["verified"]
    assert services.answers() == ["one", "one"]


def test_a_service_whose_release_did_not_change_stays_when_the_others_go_back(services: Pair) -> None:
    same = {"VERSION": "same"}
    outcome, found = services.run(pair(services.ports, "one", "blue-green", {"front": same}, wanted=""))
    assert outcome.failed == {}
    one = found["deploy"]
    outcome = services.fails("two", wanted="something else", front=same)
    assert sorted(outcome.failed) == ["verified"]
    assert services.answers() == ["same", "one"]
    assert services.groups("front") == {one.services["front"].group}


def test_a_service_that_is_new_gets_its_users_when_the_canary_of_the_other_gets_all(services: Pair) -> None:
    only = Pair(services.project, services.store, services.journal, services.ports)
    only.deploy("one")
    anyio.run(local_target(services.project, services.store, "front").stop, next(iter(services.groups("front"))))
    with Load(services.ports["back"], posts=False, pause=0.005):
        outcome, _ = services.run(pair(services.ports, "two", "canary"))
    assert outcome.failed == {}
    first, *others = [service for _, service, _ in _splits(services, outcome)]
    assert (first, sorted(others)) == ("back", ["back", "front"])


@pytest.mark.parametrize(("strategy", "events", "first"), [("blue-green", 22, 2), ("canary", 32, 8)])
def test_killed_at_any_point_the_services_are_of_one_version_again_after_the_next_run(
    services: Pair, strategy: str, events: int, first: int
) -> None:
    """Of each service two events of the rollout and two of each of four or six steps, what was judged, and the end."""
    services.deploy("a")
    with services.load():
        for point in range(first, events, 12):
            other = deploy_in_another_process(services.project, services.store, services.ports, f"v{point}", strategy, point)
            assert other.wait() == -signal.SIGKILL, other.output
            outcome = services.fails("bad", strategy, wanted="something else")
            assert sorted(outcome.failed) == ["verified"]
            assert services.answers() == ["a", "a"]


def test_where_what_served_before_cannot_serve_for_one_none_of_those_goes_back_that_were_cut_off(services: Pair) -> None:
    one = services.deploy("one")
    killed = deploy_in_another_process(services.project, services.store, services.ports, "two", "blue-green", 16)
    assert killed.wait() == -signal.SIGKILL
    assert services.answers() == ["two", "two"]
    old = one.services["back"].group
    ill = list(process.running(f"{services.project.home / 'state' / 'deploy' / 'back'}:{old}:"))
    with hanging(ill):
        outcome = services.fails("three")
        assert f"goes on serving: {old} cannot: " in outcome.failed["deploy"]
        assert services.answers() == ["two", "two"]
    services.deploy("three")
    assert services.answers() == ["three", "three"]


def test_what_fails_for_another_reason_than_that_nobody_is_left_is_told_first() -> None:
    nowhere, silent = NothingLeft("r-1 goes on serving"), StageFailed("HAProxy does not answer")
    assert str(_broken({"front": nowhere, "back": silent}, "front", {})).startswith("back: HAProxy does not answer")
    assert isinstance(_broken({"front": nowhere}, "front", {}), NothingLeft)


FILE = """
import os
from gates import ErrorRate, Judge
from stages.delivery.strategy import Canary
from tests.stages.delivery.pair import pair
from tests.stages.delivery.small import STRATEGIES, die_on_the_way_back
if "DIES_AT" in os.environ:
    die_on_the_way_back(int(os.environ["DIES_AT"]))
slow = Judge(measures=(ErrorRate(budget=0.2),), warm_up=0, floor=10, at_least=3600, at_most=7200)
STRATEGIES["slow"] = Canary(shares=(50, 100), judge=slow, tick=0.1, ready=30)
ports = {name: PORTS[name] for name in os.environ.get("SERVICES", "front back").split()}
pipeline = pair(ports, os.environ["VERSION"], os.environ.get("STRATEGY", "blue-green"), wanted=os.environ.get("WANTED"))
"""


@pytest.fixture
def ports() -> dict[str, int]:
    return {name: free_port() for name in NAMES}


@pytest.fixture
def desk(project: Project, ports: dict[str, int]) -> Iterator[Desk]:
    with at_desk(project, FILE.replace("PORTS", str({**ports, "third": free_port()})), ports["back"]) as found:
        yield found


def test_the_router_of_one_service_that_died_is_started_again_by_recover(desk: Desk, ports: dict[str, int]) -> None:
    desk("run")
    for one in list(process.running(f"{desk.project.home / 'state' / 'router' / 'front'}:")):
        anyio.run(process.stop, one)
    said = desk("recover")
    assert "front: the router had died, and was started again at " in said
    assert "back: " not in said
    assert [get(f"http://127.0.0.1:{ports[name]}").text for name in NAMES] == ["one", "one"]


def test_operators_see_each_service_and_promote_and_undo_both(desk: Desk) -> None:
    desk("run")
    lines = desk("run", "--dry-run", "--output", "json", version="two", STRATEGY="slow").splitlines()
    (steps,) = (found["steps"] for found in map(json.loads, lines) if found["kind"] == "steps")
    assert [step.partition(", ")[0].partition(" r-")[0] for step in steps] == [
        "front: start green",
        "front: wait until green is ready",
        "back: start green",
        "back: wait until green is ready",
        "front: send 50 % to green",
        "front: weigh green against",
        "back: send 50 % to green",
        "back: weigh green against",
        "front: send 100 % to green",
        "front: drain",
        "back: send 100 % to green",
        "back: drain",
    ]
    run = desk.start("run", version="two", STRATEGY="slow")
    for number in (3, 4):
        desk.until(weighing, many=number)
    told = [json.loads(line) for line in desk("deployments", "--output", "json").splitlines()]
    assert [(one["service"], one["share"], one["state"]) for one in told] == [(name, 50, "going on") for name in NAMES]
    assert "deploy front  " in desk("deployments")
    desk("promote", "--why", "nobody is there")
    assert run.wait() == 0, run.output
    for name in NAMES:
        assert re.search(rf"  deploy {name} step 3 of 6: send 50 % to r-", run.output)
    assert desk.answer() == "two"
    desk("undo", version="two")
    assert desk.answer() == "one"


@pytest.mark.parametrize(("at", "then"), [(2, "run"), (8, "recover"), (12, "run")])
def test_an_undo_of_both_that_was_killed_leaves_none_behind(desk: Desk, ports: dict[str, int], at: int, then: str) -> None:
    """Sixteen events: of each service the way back is begun, three steps are intended and done, the way back is finished."""
    desk("run")
    desk("run", version="two")
    with contextlib.ExitStack() as loads:
        met = [loads.enter_context(Load(port, posts=False)) for port in ports.values()]
        assert desk.start("undo", version="two", DIES_AT=str(at)).wait() == -signal.SIGKILL
        assert "recover takes it back" in desk("deployments", version="two")
        if then == "recover":
            assert re.search(
                r"deploy: (front|back): r-\w+ is taken back: r-\w+ has the traffic again", desk("recover", version="two")
            )
        else:
            desk("run", version="three", WANTED="never", code=1)
        for load in met:
            load.more(20)
    assert [load.failures for load in met] == [[], []]
    assert [get(f"http://127.0.0.1:{port}").text for port in ports.values()] == ["one", "one"]


THREE = "front back third"


@pytest.mark.parametrize("then", ["run", "recover"])
def test_what_nobody_verified_is_taken_back_also_where_another_service_has_come(
    desk: Desk, ports: dict[str, int], then: str
) -> None:
    desk("run")
    assert desk.start("run", version="two", DIES_AT="20").wait() == -signal.SIGKILL
    assert answers(ports) == ["two", "two"]
    if then == "recover":
        desk("run", "third", version="two", SERVICES=THREE)
        assert "was taken back" in desk("recover", version="two", SERVICES=THREE)
    else:
        desk("run", version="three", WANTED="never", SERVICES=THREE, code=1)
    assert answers(ports) == ["one", "one"]


def test_a_deployment_that_was_verified_after_its_run_was_resumed_is_not_taken_back(desk: Desk, ports: dict[str, int]) -> None:
    desk("run")
    run = desk.start("run", version="two", STRATEGY="slow")
    weigh_both(desk, 3)
    run.kill()
    assert run.wait() == -signal.SIGKILL
    again = desk.start("resume", desk.rollouts[-1].run, version="two", STRATEGY="slow")
    weigh_both(desk, 5)
    desk("promote")
    assert again.wait() == 0, again.output
    with contextlib.ExitStack() as loads:
        met = [loads.enter_context(Load(port, posts=False)) for port in ports.values()]
        desk("run", version="three")
    assert [(load.failures, set(load.answers)) for load in met] == [([], {"two", "three"})] * 2


def test_a_run_that_is_killed_while_it_goes_a_way_back_to_its_end_leaves_it_to_the_next(
    desk: Desk, ports: dict[str, int]
) -> None:
    desk("run")
    desk("run", version="two")
    assert desk.start("undo", version="two", DIES_AT="1").wait() == -signal.SIGKILL
    assert desk.start("run", version="three", DIES_AT="6").wait() == -signal.SIGKILL
    desk("recover", version="two")
    assert answers(ports) == ["one", "one"]
    assert "cut off" not in desk("deployments", version="two")
    desk("recover", version="two")
    assert answers(ports) == ["one", "one"]


def test_an_undo_that_was_cut_off_and_leads_nowhere_does_not_keep_the_next_release_away(
    desk: Desk, ports: dict[str, int]
) -> None:
    desk("run")
    desk("run", version="two")
    assert desk.start("undo", version="two", DIES_AT="1").wait() == -signal.SIGKILL
    olds = {one.service: one.group for one in desk.rollouts[:2]}
    for name, group in olds.items():
        anyio.run(local_target(desk.project, Store(desk.project.home / "store"), name).stop, group)
    assert "there is nothing to go back to" in desk("recover", version="two", code=2)
    desk("run", version="three")
    assert answers(ports) == ["three", "three"]


def test_where_one_cannot_go_back_none_does(desk: Desk, ports: dict[str, int]) -> None:
    desk("run")
    desk("run", version="two")
    target = local_target(desk.project, Store(desk.project.home / "store"), "back")
    anyio.run(target.stop, next(one.group for one in desk.rollouts if one.service == "back"))
    said = desk("undo", version="two", code=2)
    assert re.search(r"back: r-\w+ goes on serving: there is nothing to go back to, as r-\w+ was removed", said)
    assert [get(f"http://127.0.0.1:{port}").text for port in ports.values()] == ["two", "two"]


def test_where_one_port_is_taken_nothing_is_started(desk: Desk, ports: dict[str, int]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports["back"]))
        taken.listen()
        assert f"HAProxy could not listen on 127.0.0.1:{ports['back']}" in desk("run", code=1)
        assert "deploy would fail: " in desk("run", "--dry-run", code=1)
    assert desk.rollouts == []


def test_while_deployments_are_frozen_a_dry_run_says_so(desk: Desk) -> None:
    desk("freeze", "--why", "a holiday")
    assert re.search("deploy would fail: .* has frozen deployments: a holiday", desk("run", "--dry-run", code=1))


def test_operators_abort_both(desk: Desk) -> None:
    desk("run")
    run = desk.start("run", version="two", STRATEGY="slow")
    for number in (3, 4):
        desk.until(weighing, many=number)
    desk("abort", "--why", "wrong release")
    assert run.wait() == 1
    assert f"{operator()} aborted the rollout" in run.output
    assert [one.state for one in desk.rollouts] == ["verified", "verified", "taken back", "taken back"]


def test_services_that_share_what_each_needs_for_itself_are_refused() -> None:
    gate = gated(image_stage())

    def service(name: str, target: Opens, port: int) -> Service:
        return Service(name=name, release=gate, target=target, router=HAProxy(name=name or "c", port=port))

    one, two = LocalProcesses(name="one"), LocalProcesses(name="two")
    with pytest.raises(WiringError, match="fewer than two"):
        DeployTogether(services=(service("a", one, 1000),))
    with pytest.raises(WiringError, match="the same name"):
        DeployTogether(services=(service("a", one, 1000), service("a", two, 1001)))
    with pytest.raises(WiringError, match="the same target"):
        DeployTogether(services=(service("a", one, 1000), service("b", LocalProcesses(name="one", patience=3), 1001)))
    with pytest.raises(WiringError, match="the same port"):
        DeployTogether(services=(service("a", one, 1000), service("b", two, 1000)))
    with pytest.raises(WiringError, match="or one none"):
        DeployTogether(services=(service("a", one, 1000), service("", two, 1001)))
    with pytest.raises(WiringError, match="a Shadow is of one router"):
        DeployTogether(
            services=(service("a", one, 1000), service("b", two, 1001)),
            strategy=Shadow(router=Envoy(name="a", port=1000), then=BlueGreen()),
        )


def test_the_chance_of_a_false_alarm_is_shared_among_the_services() -> None:
    gate = gated(image_stage())
    services = tuple(
        Service(name=name, release=gate, target=LocalProcesses(name=name), router=HAProxy(name=name, port=1000 + number))
        for number, name in enumerate("abcd")
    )
    strategy = DeployTogether(services=services, strategy=Canary(judge=Judge(alpha=0.02)))._strategy
    assert isinstance(strategy, Canary)
    assert strategy.judge.alpha == 0.005


def answers(ports: dict[str, int]) -> list[str]:
    return [get(f"http://127.0.0.1:{port}").text for port in ports.values()]


def weigh_both(desk: Desk, first: int) -> None:
    """Until the rollout of that number and the next are weighed."""
    for number in (first, first + 1):
        desk.until(weighing, many=number)


def _splits(services: Pair, outcome: Outcome) -> list[tuple[str, str, Any]]:
    """The changes of traffic, in order; not those of the way back."""
    return [one for one in services.told(outcome, "rollout.done") if one[2]]
