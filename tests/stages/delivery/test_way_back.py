"""Ways back that meet something else than what the rollout left: other runs, releases that are gone, releases that hang."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Iterator

import anyio
import pytest

from pipeline import Project, Store
from pipeline.engines.local import free_port
from pipeline.lock import Lock
from stages.delivery import process
from stages.delivery.envoy_admin import admin
from stages.delivery.envoy_xds import SERVICE
from stages.delivery.haproxy import alive
from tests import warm
from tests.stages.delivery.conftest import envoy, haproxy
from tests.stages.delivery.desk import Desk, delivering, hanging, weighing
from tests.stages.delivery.load import Load
from tests.stages.delivery.place import local_target
from tests.stages.delivery.small import TOP
from tests.web import get


@pytest.fixture
def desk(project: Project) -> Iterator[Desk]:
    with delivering(project) as found:
        yield found


@pytest.fixture(params=["blue-green", "envoy blue-green"])
def strategy(request: pytest.FixtureRequest, desk: Desk) -> str:
    """By which one release was deployed and then another, behind each router."""
    found: str = request.param
    desk("run", STRATEGY=found)
    desk("run", version="two", STRATEGY=found)
    return found


def groups(desk: Desk) -> list[str]:
    """Those that rollouts were of, in order."""
    return [one.group for one in desk.rollouts]


def remove(desk: Desk, group: str) -> None:
    target = local_target(desk.project, Store(desk.project.home / "store"))
    anyio.run(target.stop, group)


def instances(desk: Desk, group: str) -> list[process.Process]:
    found = list(process.running(f"{desk.project.home / 'state' / 'deploy' / 'app'}:{group}:"))
    assert found
    return found


def router_of(desk: Desk) -> list[process.Process]:
    found = list(process.running(f"{desk.project.home / 'state' / 'router' / 'app'}:"))
    assert found
    return found


def kill_router(desk: Desk) -> None:
    for one in router_of(desk):
        anyio.run(process.stop, one)


def kill_instances(desk: Desk, group: str) -> None:
    for one in instances(desk, group):
        os.kill(one.pid, signal.SIGKILL)
        anyio.run(process.stop, one)


def until_found_dead(desk: Desk, group: str, strategy: str = "") -> None:
    """Until HAProxy has, or Envoy where the strategy is behind it."""
    end = time.monotonic() + 60
    while group in (well_by_envoy(desk) if strategy.startswith("envoy ") else well_by_haproxy(desk)):
        assert time.monotonic() < end
        time.sleep(0.1)


def well_by_haproxy(desk: Desk) -> set[str]:
    router = haproxy(desk.project, port=desk.port)
    return set(alive(anyio.run(router._ask, "show servers state"), router._kept()))


def well_by_envoy(desk: Desk) -> set[str]:
    async def ask() -> set[str]:
        async with admin(envoy(desk.project, port=desk.port)._socket) as asked:
            return {host.group for host in (await asked.hosts())[SERVICE] if host.well}

    return anyio.run(ask)


def running(desk: Desk) -> set[str]:
    return set(anyio.run(local_target(desk.project, Store(desk.project.home / "store")).groups))


def killed_while_verifying(desk: Desk, *words: str, version: str, many: int) -> str:
    """The run that deployed a version and was killed before anybody verified it."""
    run = desk.start("run", *words, version=version, VERIFIES="600")
    desk.until_noted("effect.done", many)
    kill(run)
    return desk.rollouts[-1].run


def killed_in_its_canary(desk: Desk, *, version: str, many: int) -> None:
    run = desk.start("run", version=version, STRATEGY="slow")
    desk.until(weighing, many=many)
    kill(run)


def kill(run: warm.Process) -> None:
    run.kill()
    assert run.wait() == -signal.SIGKILL


def cut_off_undo(desk: Desk, at: int) -> None:
    desk("run")
    desk("run", version="two")
    assert desk.start("undo", version="two", DIES_AT=str(at)).wait() == -signal.SIGKILL


def move(desk: Desk) -> int:
    """Settings of the router that name another port, as those of somebody with other environment variables do."""
    file, other = desk.project.root / "operated.py", free_port()
    file.write_text(file.read_text().replace(str(desk.port), str(other)))
    return other


def edit(desk: Desk, group: str, old: str, new: str) -> None:
    """Change what a group's instances do when they are started."""
    place = desk.project.home / "state" / "deploy" / "app" / group / "rootfs" / "app" / "serve.py"
    text = place.read_text()
    assert old in text
    place.write_text(text.replace(old, new, 1))


def test_no_order_and_no_way_back_moves_the_router_where_other_settings_have_it(desk: Desk, strategy: str) -> None:
    other = move(desk)
    told = desk("deployments", version="two", STRATEGY=strategy)
    assert f" runs, and not on 127.0.0.1:{other}: the next deployment moves it there" in told
    desk("undo", version="two", STRATEGY=strategy)
    assert desk.answer() == "one"
    desk("run", version="three", UNREADY="1", code=1, STRATEGY=strategy)
    assert desk.answer() == "one"
    desk("run", version="two", STRATEGY=strategy)
    assert get(f"http://127.0.0.1:{other}").text == "two"


@pytest.mark.parametrize("order", ["drain", "recover"])
def test_a_rollout_that_was_cut_off_ends_where_its_users_are_whatever_the_settings_of_who_ends_it(desk: Desk, order: str) -> None:
    desk("run")
    killed_in_its_canary(desk, version="two", many=2)
    move(desk)
    desk(order, *([groups(desk)[1]] if order == "drain" else []), version="two", STRATEGY="slow")
    assert {desk.answer() for _ in range(10)} == {"one"}


def test_on_a_way_back_instances_are_asked_as_they_were_and_on_the_same_address_whatever_the_settings(
    desk: Desk, strategy: str
) -> None:
    with Load(desk.port, posts=False) as load:
        desk("undo", version="two", STRATEGY=strategy, STATUS="204")
        load.more(200)
    assert load.failures == []
    assert desk.answer() == "one"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", desk.port))


def test_a_canary_that_was_cut_off_ends_where_the_settings_ask_instances_otherwise_by_now(desk: Desk) -> None:
    desk("run")
    killed_in_its_canary(desk, version="two", many=2)
    with Load(desk.port, posts=False) as load:
        desk("drain", groups(desk)[1], version="two", STRATEGY="slow", STATUS="204")
        load.more(100)
        assert "deployed with ready='/readyz' first" in desk("run", version="three", STRATEGY="slow", STATUS="204", code=1)
        load.more(100)
    assert load.failures == []
    assert desk.answer() == "one"


def test_what_cannot_be_taken_back_as_the_router_does_not_answer_stays_open_until_it_does(desk: Desk) -> None:
    desk("run")
    killed_while_verifying(desk, version="two", many=2)
    with hanging(router_of(desk)):
        assert "HAProxy does not answer" in desk("recover", version="two", code=2)
    assert "left open was taken back" in desk("recover", version="two")
    assert desk.answer() == "one"


def test_what_was_verified_since_it_could_not_be_taken_back_stays(desk: Desk) -> None:
    desk("run")
    cut_off = killed_while_verifying(desk, version="two", many=2)
    first, second = groups(desk)
    with hanging(instances(desk, first)):
        desk("recover", version="two", code=2)
        desk("run", version="two", STRATEGY="rolling")
    again = desk.rollouts[-1].run
    said = desk("recover", version="two", STRATEGY="rolling")
    assert f"what run {cut_off} left open stays: run {again} has rolled {second} out since, and that stands" in said
    assert desk.answer() == "two"


def test_a_release_that_fails_while_the_router_does_not_answer_is_taken_back_when_it_does(desk: Desk) -> None:
    desk("run")
    run = desk.start("run", version="two", STRATEGY="slow")
    desk.until(weighing, many=2)
    with hanging(router_of(desk)):
        desk("abort")
        assert run.wait() == 1
    assert "deploy does not go back: HAProxy does not answer" in run.output
    desk("recover", version="two", STRATEGY="slow")
    assert {desk.answer() for _ in range(10)} == {"one"}


def test_nobody_is_promoted_to_a_release_that_the_router_has_found_dead(desk: Desk) -> None:
    desk("run")
    run = desk.start("run", version="two", STRATEGY="slow")
    desk.until(weighing, many=2)
    first, second = groups(desk)
    with hanging(instances(desk, second)):
        until_found_dead(desk, second)
        with Load(desk.port, posts=False) as load:
            desk("promote", version="two", STRATEGY="slow")
            assert run.wait() == 1
    assert f"{second} cannot get traffic: no instance answers HAProxy on /readyz" in run.output
    assert (load.failures, set(load.answers)) == ([], {"one"})
    assert running(desk) == {first}


def test_a_rolling_update_gives_way_to_what_served_before_of_which_an_instance_hangs(desk: Desk) -> None:
    desk("run")
    run = desk.start("run", version="two", STRATEGY="slow rolling", WITHIN="5")
    desk.until(weighing, many=2)
    first, _ = groups(desk)
    with hanging(instances(desk, first)[:1]):
        desk("abort")
        assert run.wait() == 1
        assert f"{first} was not ready within 5 s: /readyz takes more than 2 s; the others serve" in desk("logs", "deploy")
        assert desk.rollouts[-1].state == "taken back"
    assert {desk.answer() for _ in range(10)} == {"one"}


def test_a_release_that_was_killed_over_itself_is_said_to_stay(desk: Desk) -> None:
    desk("run")
    killed_while_verifying(desk, version="one", many=2)
    said = desk("recover")
    assert re.search(r"what run \S+ left open stays: \S+ served before this run too", said)
    assert desk.answer() == "one"


def test_a_router_that_died_after_all_was_done_is_told_of_and_started_again_by_recover(desk: Desk, strategy: str) -> None:
    kill_router(desk)
    told = desk("deployments", version="two", STRATEGY=strategy)
    assert "has died, and its users find nobody: `recover` or a deployment starts it again" in told
    said = desk("recover", version="two", STRATEGY=strategy)
    assert re.search(r"the router had died, and was started again at 127\.0\.0\.1:\d+ for r-\w+", said)
    assert desk.answer() == "two"
    assert "nothing was left open" in desk("recover", version="two", STRATEGY=strategy)


def test_a_router_that_died_is_started_again_by_recover_also_where_nothing_can_be_taken_back(desk: Desk) -> None:
    desk("run")
    killed_while_verifying(desk, version="two", many=2)
    first, second = groups(desk)
    kill_router(desk)
    with hanging(instances(desk, first)):
        said = desk("recover", version="two", code=2)
    assert re.search(
        rf"the router had died, and was started again at \S+ for {second}; .*{second} goes on serving: {first} cannot", said
    )
    assert desk.answer() == "two"


def test_a_second_recover_takes_nothing_away_from_who_has_the_traffic_again(desk: Desk) -> None:
    desk("run")
    killed_while_verifying(desk, version="two", many=2)
    assert desk.start("recover", version="two", DIES_AT="1").wait() == -signal.SIGKILL
    assert "left open was taken back" in desk("recover", version="two")
    assert "nothing was left open" in desk("recover", version="two")
    assert (desk.answer(), running(desk)) == ("one", {groups(desk)[0]})


def test_one_recover_ends_a_run_that_was_cut_off_and_the_undo_it_was_begun_over(desk: Desk) -> None:
    cut_off_undo(desk, 1)
    waits = Lock(desk.project.home / "state" / "deploy" / ".lock")
    assert waits.try_take()
    run = desk.start("run", version="three")
    desk.until_noted("effect.intended", 3)
    kill(run)
    waits.give_back()
    desk("recover", version="two")
    assert desk.answer() == "one"


def test_where_what_was_undone_to_does_not_get_ready_another_release_can_be_deployed(desk: Desk) -> None:
    desk("run")
    desk("run", version="two")
    first, _ = groups(desk)
    kill_instances(desk, first)
    edit(desk, first, "import os\n", "import os\nos.environ['UNREADY'] = '1'\n")
    assert "was not ready within 2 s" in desk("undo", version="two", code=2, WITHIN="2")
    assert desk.answer() == "two"
    assert "deploy does not go back: the way back from " in desk("run", version="three", WITHIN="2")
    assert desk.answer() == "three"


def test_what_ended_as_it_was_started_again_for_a_way_back_is_started_when_that_is_tried_once_more(desk: Desk) -> None:
    desk("run")
    desk("run", version="two")
    first, _ = groups(desk)
    kill_instances(desk, first)
    edit(desk, first, "import os\n", "import os\nraise SystemExit('the database is away')\n")
    desk("undo", version="two", code=2, WITHIN="2")
    assert desk.answer() == "two"
    edit(desk, first, "raise SystemExit('the database is away')\n", "")
    desk("undo", version="two")
    assert desk.answer() == "one"


def test_a_release_that_was_rolled_out_over_its_own_cut_off_rollout_and_fails_is_not_said_to_be_taken_back(desk: Desk) -> None:
    desk("run")
    killed_in_its_canary(desk, version="two", many=2)
    first, second = groups(desk)
    remove(desk, first)
    told = desk("run", "--again", "deploy", version="two", WRONG="1", code=1)
    assert f"{second} goes on serving, as before this run; it has no release to go back to: there is none\n" in told
    assert desk.rollouts[-1].state == "deployed"


@pytest.mark.parametrize("how", ["abort", "SIGINT"])
def test_a_rollout_that_is_ended_while_what_served_before_hangs_leaves_users_where_they_get_answers(desk: Desk, how: str) -> None:
    desk("run")
    run = desk.start("run", version="two", STRATEGY="slow")
    desk.until(weighing, many=2)
    first, second = groups(desk)
    with hanging(instances(desk, first)):
        with Load(desk.port, posts=False) as load:
            desk("abort") if how == "abort" else os.kill(run.pid, signal.SIGINT)
            assert run.wait() != 0
            before = load.answers.copy()
            load.more(20)
        assert f"deploy does not go back: {second} goes on serving: {first} cannot: " in run.output
        assert set(load.answers - before) == {"two"}
    desk("recover", version="two", STRATEGY="slow")
    assert {desk.answer() for _ in range(10)} == {"one"}


def test_what_could_not_go_back_as_the_other_hung_stays_open_until_it_can(desk: Desk) -> None:
    desk("run")
    killed_while_verifying(desk, version="two", many=2)
    first, second = groups(desk)
    with hanging(instances(desk, first)):
        assert "goes on serving" in desk("recover", version="two", code=2)
        assert f"not taken back yet: {second} goes on serving: {first} cannot" in desk("deployments", version="two")
        desk("run", version="three", UNREADY="1", code=1)
    assert desk.answer() == "two"
    told = desk("recover", version="two")
    assert "left open was taken back" in told
    assert desk.answer() == "one", told


def test_an_undo_while_nobody_is_well_leads_to_what_served_before_which_serves_when_it_is_well_again(
    desk: Desk, strategy: str
) -> None:
    first, second = groups(desk)
    with hanging(instances(desk, first)):
        until_found_dead(desk, first, strategy)
        kill_instances(desk, second)
        desk("undo", version="two", STRATEGY=strategy)
    end = time.monotonic() + 30
    while desk.answer() != "one":
        assert time.monotonic() < end


def test_a_router_that_has_died_is_started_where_it_was_and_where_the_settings_say_if_somebody_else_is_there(desk: Desk) -> None:
    desk("run")
    desk("run", version="two")
    other = move(desk)
    kill_router(desk)
    desk("drain", groups(desk)[0], version="two")
    assert desk.answer() == "two"
    kill_router(desk)
    with socket.create_server(("127.0.0.1", desk.port)):
        desk("undo", version="two")
        assert get(f"http://127.0.0.1:{other}").text == "one"


def test_an_order_is_refused_where_nothing_tells_where_users_find_a_router_that_is_not_where_the_settings_say(desk: Desk) -> None:
    desk("run")
    place = desk.project.home / "state" / "router" / "app" / "entrance.json"
    place.unlink()  # as of a router that was started before this was written down
    desk("run", version="two")
    assert place.exists()
    place.unlink()
    move(desk)
    assert "nothing tells where its users find it" in desk("undo", version="two", code=2)
    assert desk.answer() == "two"


def test_a_run_that_is_resumed_rolls_nothing_out_over_what_another_run_has_deployed_since(desk: Desk) -> None:
    desk("run")
    run = desk.start("run", version="two", WARM="600")
    desk.until(lambda one: one.state == "verified", many=2)
    kill(run)
    cut_off = desk.rollouts[-1].run
    desk("run", version="three")
    last = desk.rollouts[-1].run
    assert f"run {last} has done deploy since" in desk("resume", cut_off, version="two", WARM="600", code=1)
    assert desk.answer() == "three"


def test_nothing_is_taken_down_while_a_deployment_is_verified(desk: Desk) -> None:
    desk("run")
    run = desk.start("run", version="two", VERIFIES="600")
    desk.until(lambda one: one.state == "deployed", many=2)
    taken = warm.run(["-m", "stages.delivery.down", str(desk.project.root)], cwd=TOP, env={**os.environ, "PYTHONPATH": str(TOP)})
    assert taken.returncode == 1
    assert "a rollout is going on or about to be verified, which would start again what is taken down" in taken.stderr
    assert desk.answer() == "two"
    kill(run)


def test_nobody_is_sent_back_to_a_release_that_hangs(desk: Desk, strategy: str) -> None:
    first, second = groups(desk)
    with hanging(instances(desk, first)), Load(desk.port, posts=False) as load:
        said = desk("undo", version="two", code=2, STRATEGY=strategy)
        load.more(20)
    assert f"{second} goes on serving: {first} cannot: " in said
    assert (load.failures, set(load.answers)) == ([], {"two"})
    assert desk("undo", version="two", STRATEGY=strategy).endswith(f"{first} has the traffic again\n")


def test_a_release_that_fails_gives_way_to_one_of_which_only_some_instances_hang(desk: Desk) -> None:
    desk("run")
    with hanging(instances(desk, groups(desk)[0])[:1]):
        desk("run", version="two", WRONG="1", code=1)
        assert desk.rollouts[-1].state == "taken back"
    assert desk.answer() == "one"


def test_a_release_that_got_no_user_yet_is_taken_back_however_ill_the_others_are(desk: Desk) -> None:
    desk("run")
    run = desk.start("run", version="two", UNREADY="1", STRATEGY="slow")
    desk.until(lambda one: one.open and one.step.text.startswith("wait"), many=2)
    kill(run)
    with hanging(instances(desk, groups(desk)[0])):
        desk("recover", version="two", STRATEGY="slow")
    assert running(desk) == {groups(desk)[0]}


def test_an_undo_that_was_refused_half_way_is_recovered_once_what_served_before_is_well(desk: Desk) -> None:
    cut_off_undo(desk, 1)
    first, second = groups(desk)
    with hanging(instances(desk, first)):
        assert f"{second} goes on serving: {first} cannot: " in desk("recover", version="two", code=2)
    assert f"{second} is taken back: {first} has the traffic again" in desk("recover", version="two")
    assert desk.answer() == "one"


@pytest.mark.parametrize("router", ["", "envoy "])
def test_what_served_before_is_started_again_on_the_way_back_where_it_has_died(desk: Desk, router: str) -> None:
    desk("run", STRATEGY=f"{router}blue-green")
    run = desk.start("run", version="two", STRATEGY=f"{router}slow")
    desk.until(weighing, many=2)
    first = groups(desk)[0]
    kill_instances(desk, first)
    desk("abort", "--why", "one is gone")
    assert run.wait() == 1
    assert f"start {first} again" in run.output
    assert desk.answer() == "one"
    assert running(desk) == {first}
    assert desk.rollouts[-1].state == "taken back"


def test_an_undo_starts_a_release_again_that_was_kept_warm_and_has_died(desk: Desk) -> None:
    desk("run")
    desk("run", version="two")
    first, _ = groups(desk)
    kill_instances(desk, first)
    assert f"{first}: rests, to be started again for a way back" in desk("deployments")
    with Load(desk.port, posts=False) as load:
        desk("undo", version="two")
        load.more(20)
    assert (load.failures, desk.answer()) == ([], "one")


def test_an_undo_that_was_cut_off_is_gone_to_its_end_while_deployments_are_frozen(desk: Desk) -> None:
    cut_off_undo(desk, 2)
    desk("freeze", "--why", "something is wrong")
    assert "has frozen deployments" in desk("run", version="three", code=1)
    assert desk.answer() == "one"
    assert "cut off" not in desk("deployments", version="two")


def test_an_undo_that_was_cut_off_is_not_forgotten_as_a_run_has_failed_since(desk: Desk) -> None:
    cut_off_undo(desk, 1)
    first, second = groups(desk)
    remove(desk, first)
    desk("run", version="three", UNREADY="1", code=1)
    assert desk.answer() == "two"
    assert f"{second} goes on serving: " in desk("recover", version="two", code=2)


def test_an_undo_that_was_cut_off_is_not_forgotten_as_a_run_of_the_same_release_has_failed_since(desk: Desk) -> None:
    cut_off_undo(desk, 1)
    first, _ = groups(desk)
    with hanging(instances(desk, first)):
        desk("freeze")
        desk("run", version="two", code=1)
        desk("freeze", "--end")
    assert f"{first} has the traffic again" in desk("recover", version="two")
    assert desk.answer() == "one"


def test_an_undo_that_was_cut_off_leads_nowhere_where_what_served_is_gone_and_the_next_run_goes_on(desk: Desk) -> None:
    cut_off_undo(desk, 1)
    first, second = groups(desk)
    remove(desk, first)
    said = desk("recover", version="two", code=2)
    assert f"{second} goes on serving: there is nothing to go back to, as {first} was removed" in said
    desk("run", version="three")
    assert f"{second} goes on serving: " in desk("logs", "deploy")
    assert desk.answer() == "three"


def test_a_canary_that_was_cut_off_and_has_nothing_to_go_back_to_needs_people_who_say_that_it_may_serve(desk: Desk) -> None:
    desk("run")
    killed_in_its_canary(desk, version="two", many=2)
    first, second = groups(desk)
    remove(desk, first)
    nowhere = f"{second} goes on serving: there is nothing to go back to, as {first} was removed"
    for words, code in ((("recover",), 2), (("run",), 1)):
        said = desk(*words, version="two", code=code)
        assert nowhere in said
        assert "run --again deploy\n" in said
    desk("run", "--again", "deploy", version="three")
    assert desk.answer() == "three"


def test_a_deployment_that_cannot_be_taken_back_is_not_said_to_be(desk: Desk) -> None:
    desk("run")
    killed_while_verifying(desk, version="two", many=2)
    first, second = groups(desk)
    remove(desk, first)
    assert f"{second} goes on serving: there is nothing to go back to" in desk("recover", version="two", code=2)
    assert desk.answer() == "two"


def test_a_release_whose_second_run_was_interrupted_can_still_be_undone(desk: Desk) -> None:
    desk("run")
    desk("run", version="two")
    run = desk.start("run", version="two", VERIFIES="600")
    desk.until(lambda one: one.state == "deployed", many=3)
    os.kill(run.pid, signal.SIGINT)
    assert run.wait() == 130
    assert "it stays" in run.output
    desk("undo", version="two")
    assert desk.answer() == "one"
    assert "nothing of deploy to take back" in desk("undo", version="two", code=2)


@pytest.mark.parametrize("in_its_canary", [True, False])
def test_a_run_that_is_resumed_takes_no_other_runs_rollout_for_its_own(desk: Desk, in_its_canary: bool) -> None:
    desk("run")
    if in_its_canary:
        killed_in_its_canary(desk, version="two", many=2)
    else:
        killed_while_verifying(desk, version="two", many=2)
    cut_off = desk.rollouts[-1].run
    desk("run", version="three")
    desk("resume", cut_off, version="two")
    assert [one.state for one in desk.rollouts] == ["verified", "taken back", "verified", "verified"]
    assert desk.answer() == "two"
    _, second, third, again = groups(desk)
    assert second == again
    assert re.search(f"{second} is taken back: {third} has the traffic again", desk("undo", version="two"))


def test_what_failed_in_a_run_that_is_resumed_takes_back_no_other_runs_release(desk: Desk) -> None:
    desk("run")
    cut_off = killed_while_verifying(desk, version="two", many=2)
    desk("run", version="three")
    desk("resume", cut_off, version="two", WRONG="1", code=1)
    assert desk.answer() == "three"
