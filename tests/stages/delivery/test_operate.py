"""Operators at work: the commands, on a project whose service is deployed by canary, and the run that is going on."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from pipeline import Journal, Project, Store
from pipeline.order import operator
from stages.delivery import process
from stages.delivery.down import down
from tests import warm
from tests.stages.delivery.desk import Desk, delivering, weighing
from tests.stages.delivery.load import Load
from tests.stages.delivery.place import local_target
from tests.stages.delivery.small import TOP


@pytest.fixture
def desk(project: Project) -> Iterator[Desk]:
    with delivering(project) as found:
        yield found


def test_a_dry_run_prints_the_steps_from_what_serves_and_does_none(desk: Desk) -> None:
    said = desk("run", "--dry-run")
    steps = "    1  start green\n    2  wait until green is ready, at most 30 s\n    3  send 100 % to green\n"
    assert f"deploy, 3 steps to what is new:\n{steps}" in said
    assert desk.rollouts == []
    desk("run")
    group = desk.rollouts[0].group
    told = [
        json.loads(line)
        for line in desk("run", "--dry-run", "--output", "json", version="two", STRATEGY="canary").splitlines()
        if '"steps"' in line
    ]
    assert told == [
        {
            "kind": "steps",
            "stage": "deploy",
            "steps": [
                "start green",
                "wait until green is ready, at most 30 s",
                f"send 40 % to green, 60 % to {group}",
                f"weigh green against {group}, at most 60 s",
                "send 100 % to green",
                f"drain {group}, at most 30 s",
            ],
            "fails": "",
        }
    ]
    desk("freeze")
    assert f"deploy would fail: {operator()} has frozen deployments" in desk("run", "--dry-run", version="two", code=1)
    assert desk.answer() == "one"


def test_a_rollout_is_shown_promoted_and_verified(desk: Desk) -> None:
    desk("run")
    with Load(desk.port, posts=False) as load:
        run = desk.start("run", version="two", STRATEGY="slow")
        desk.until(weighing, many=2)
        first = desk.rollouts[0].group
        said = desk("deployments", version="two", STRATEGY="slow")
        assert "going on" in said
        assert "step 4 of 6: weigh" in said
        desk.until_said(
            r"    hold after \d+ s: missing: 3\d\d\d s with this share; errors: 0 of [\d,]+ \(0.00%\), before 0 of [\d,]+"
        )
        running = re.findall(r"^    (r-\w+): 2 instances, (\d+) % of the traffic$", said, flags=re.MULTILINE)
        assert dict(running) == {first: "50", desk.rollouts[1].group: "50"}
        assert f"    HAProxy listens on 127.0.0.1:{desk.port}\n" in said
        told = json.loads(desk("deployments", "--output", "json"))
        assert (told["share"], told["state"], told["step"]["number"]) == (50, "going on", 4)
        assert desk("pause", "--why", "a look").startswith("deploy: the rollout of r-")
        desk.until(lambda one: one.state == "paused", many=2)
        said = desk("deployments")
        assert re.search(rf"    by {operator()} since \d\d:\d\d:\d\d: a look\n    hold after \d+ s: missing: ", said)
        desk("promote", "--why", "all is well")
        assert run.wait() == 0, run.output
        load.more(20)
    assert load.failures == []
    assert desk.answer() == "two"
    assert "  deploy step 4 of 6: weigh " in run.output
    assert f"‖ deploy is paused by {operator()}: a look; python -m pipeline promote goes on, and abort goes back\n" in run.output
    assert "▶ deploy goes on\n" in run.output
    said = desk("logs", "deploy")
    assert "step 4 of 6: weigh" in said
    assert f"paused by {operator()}: a look" in said
    said = desk("deployments")
    assert "verified" in said
    assert f"    {first}: 2 instances, no traffic\n" in said
    past = desk("history")
    assert f"{operator()}: promote, all is well" in past
    assert f"{operator()}: pause, a look" in past
    assert [one["state"] for one in map(json.loads, desk("history", "--output", "json").splitlines())] == ["verified"] * 2


def test_an_aborted_rollout_fails_its_run_which_says_who_did_it(desk: Desk) -> None:
    desk("run")
    run = desk.start("run", version="two", STRATEGY="slow")
    desk.until(weighing, many=2)
    desk("abort", "--why", "wrong release")
    assert run.wait() == 1
    assert f"{operator()} aborted the rollout" in run.output
    assert f"↩ deploy goes back: 100 % to {desk.rollouts[0].group}\n" in run.output
    assert desk.answer() == "one"
    assert "taken back" in desk("deployments")
    assert "wrong release" in desk("history")
    desk("abort", code=2)  # nothing goes on any more
    desk("retry", version="two")
    assert desk.answer() == "two"


def test_nothing_is_taken_down_while_a_rollout_goes_on(desk: Desk) -> None:
    desk("run")
    run = desk.start("run", version="two", STRATEGY="slow")
    desk.until(weighing, many=2)
    taken = warm.run(["-m", "stages.delivery.down", str(desk.project.root)], cwd=TOP, env={**os.environ, "PYTHONPATH": str(TOP)})
    assert taken.returncode == 1
    assert "a rollout is going on or about to be verified, which would start again what is taken down" in taken.stderr
    assert desk.answer() in ("one", "two")
    desk("abort")
    assert run.wait() == 1
    assert desk.answer() == "one"


def test_a_rollout_that_waits_for_instances_to_get_ready_cannot_be_promoted(desk: Desk) -> None:
    desk("run", STRATEGY="rolling")
    run = desk.start("run", version="two", STRATEGY="rolling", UNREADY="1")
    desk.until(lambda one: one.state == "paused", many=2)
    second = desk.rollouts[-1].group
    assert f"{second} cannot go on before {second} is ready" in desk("promote", code=2)
    desk("abort")
    assert run.wait() == 1
    assert f"; it goes on once {second} is ready, and python -m pipeline abort goes back\n" in run.output
    assert desk.answer() == "one"


def test_orders_to_a_rollout_whose_run_was_killed_are_refused(desk: Desk) -> None:
    desk("run")
    run = desk.start("run", version="two", STRATEGY="slow")
    desk.until(weighing, many=2)
    run.kill()
    run.wait()
    said = desk("promote", code=2)
    assert "no rollout is going on: its run has ended in the middle of it" in said
    assert re.search(r"next: .* recover deploy\n", said)
    assert "cut off" in desk("deployments")
    said = desk("undo", code=2, version="two", STRATEGY="slow")  # of which deployment nobody could tell
    assert f"run {desk.rollouts[1].run} was cut off, and left deploy open" in said
    assert re.search(r"next: .* recover deploy\n", said)
    assert desk.answer() in ("one", "two")
    desk("run", version="two")
    assert desk.answer() == "two"


def test_what_a_killed_run_left_of_a_rollout_can_be_taken_back_at_once(desk: Desk) -> None:
    desk("run")
    assert desk("recover") == "deploy: nothing was left open\n"
    run = desk.start("run", version="two", STRATEGY="slow")
    desk.until(weighing, many=2)
    run.kill()
    run.wait()
    with Load(desk.port, posts=False) as load:
        said = desk("recover", version="two", STRATEGY="slow")
        load.more(20)
    assert said.endswith(f"\ndeploy: what run {desk.rollouts[1].run} left open was taken back\n")
    assert f": stop {desk.rollouts[1].group}\n" in said
    assert load.failures == []
    assert (desk.answer(), desk.rollouts[1].state) == ("one", "taken back")


def test_a_run_that_does_not_react_is_taken_over_and_can_do_nothing_more(desk: Desk) -> None:
    desk("run")
    run = desk.start("run", version="two", STRATEGY="slow")
    desk.until(weighing, many=2)
    os.kill(run.pid, signal.SIGSTOP)
    assert "abort" in desk("recover", code=2, version="two", STRATEGY="slow")
    said = desk("recover", "--take-over", version="two", STRATEGY="slow")
    assert "was taken back" in said
    assert run.wait() == -signal.SIGKILL
    assert (desk.answer(), desk.rollouts[1].state) == ("one", "taken back")
    assert f"{operator()}: take-over" in desk("history")


def test_where_what_was_before_is_removed_undo_says_so_and_changes_nothing(desk: Desk, store: Store) -> None:
    desk("run")
    desk("run", version="two")
    target = local_target(desk.project, store)
    (warm_one,) = set(anyio.run(target.groups)) - {desk.rollouts[-1].group}
    anyio.run(target.stop, warm_one)
    before = desk("deployments")
    said = desk("undo", code=2, version="two")
    assert "goes on serving: there is nothing to go back to" in said
    assert desk("deployments") == before
    assert desk.answer() == "two"


def test_a_verified_deployment_can_be_undone_once(desk: Desk) -> None:
    assert "nothing was deployed yet" in desk("undo", code=2)
    desk("run")
    desk("run", version="two")
    with Load(desk.port, posts=False) as load:
        said = desk("undo", "--why", "complaints", version="two")
        load.more(20)
    assert "is taken back: " in said
    assert load.failures == []
    assert desk.answer() == "one"
    assert "nothing of deploy to take back" in desk("undo", code=2, version="two")
    assert re.search(r"undo, complaints\n.*: undo; nothing came of it: there is nothing of deploy to take back", desk("history"))


def test_what_was_said_on_the_way_back_is_told_after_what_was_said_on_the_way_there(desk: Desk) -> None:
    desk("run")
    desk("run", version="two", WRONG="1", code=1)
    said = desk("logs", "deploy")
    heading, *lines = said.splitlines()
    assert re.match(r"== deploy: passed, then r-\w+ is taken back: r-\w+ has the traffic again", heading)
    back = lines.index("-- the way back")
    assert lines[0] == "-- attempt 1"
    assert lines[1].startswith("step 1 of 4: start ")
    assert lines[back + 1].startswith(f"step 1 of 3: send 100 % to {desk.rollouts[0].group}")


def test_the_history_of_a_stage_that_never_deployed_is_an_error(desk: Desk) -> None:
    desk("run")
    assert "no rollout of 'nosuch' is known" in desk("history", "nosuch", code=2)
    assert desk("history", "deploy").count("verified") == 1


def test_deployments_tells_what_runs_also_when_it_was_taken_down_or_the_pipeline_cannot_be_read(desk: Desk) -> None:
    desk("run")
    anyio.run(down, desk.project)
    assert desk("deployments").endswith("    nothing runs\n")
    (told,) = map(json.loads, desk("deployments", "--output", "json").splitlines())
    assert (told["state"], told["standing"]) == ("verified", ["nothing runs"])
    (desk.project.root / "operated.py").write_text("import nowhere")
    said = desk("deployments")
    assert "verified" in said
    assert "    what runs cannot be told: " in said
    assert "nowhere" in said


def test_a_run_that_was_refused_while_frozen_changes_nothing_of_what_is_told_of_the_rollout_before(desk: Desk) -> None:
    desk("run")
    before = desk("history")
    desk("freeze")
    desk("run", version="two", code=1)
    desk("freeze", "--end")
    assert desk("history") == before


@contextlib.contextmanager
def held(port: int) -> Iterator[None]:
    """With a request in flight."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("GET", "/slow?60")
        yield


def running(desk: Desk) -> set[str]:
    """The groups."""
    return set(anyio.run(local_target(desk.project, Store(desk.project.home / "store")).groups))


@pytest.mark.parametrize(
    ("at", "then"), [(1, "run"), (2, "recover"), (2, "run"), (3, "undo"), (4, "recover"), (4, "run"), (5, "undo")]
)
def test_an_undo_that_was_killed_at_any_event_is_done_by_whoever_comes_next(desk: Desk, at: int, then: str) -> None:
    """Six events: the way back is begun, two steps are intended and done, the way back is finished.

    The release that is undone had been deployed twice: what served before the second time is not where the way back leads.
    """
    desk("run")
    for _ in range(2):
        desk("run", version="two")
    first = desk.rollouts[0].group
    with Load(desk.port, posts=False) as load:
        assert desk.start("undo", version="two", DIES_AT=str(at)).wait() == -signal.SIGKILL
        told = "what took it back has ended in the middle of it; python -m pipeline recover takes it back"
        assert told in desk("deployments", version="two")
        assert re.search(r"cut off .*\n.*recover takes it back", desk("history", version="two"))
        if then == "run":
            desk("run", version="three", WRONG="1", code=1)
        else:
            assert desk(then, version="two").endswith(f" is taken back: {first} has the traffic again\n")
            assert "nothing was left open" in desk("recover", version="two")
            assert re.search(rf" taken back (.*\n)+    {first}: 2 instances, 100 % ", desk("deployments", version="two"))
        load.more(20)
    assert load.failures == []
    assert desk.answer() == "one"


def test_while_deployments_are_frozen_a_run_goes_a_way_back_to_its_end_and_begins_none(desk: Desk) -> None:
    for version in ("one", "two"):
        desk("run", version=version)
    first = desk.rollouts[0].group
    assert desk.start("undo", version="two", DIES_AT="1").wait() == -signal.SIGKILL
    assert desk.answer() == "two"
    desk("freeze")
    assert f"{operator()} has frozen deployments" in desk("run", version="three", code=1)
    assert (desk.answer(), running(desk)) == ("one", {first})


def test_an_undo_after_a_rollout_that_failed_tells_which_release_it_is_about(desk: Desk) -> None:
    for version in ("one", "two"):
        desk("run", version=version)
    desk("run", version="three", UNREADY="1", code=1)
    first, second, third = desk.rollouts
    assert f"    {third.group} was not ready within 1 s: http" in desk("deployments")
    assert desk("undo", version="two").endswith(f"deploy: {second.group} is taken back: {first.group} has the traffic again\n")
    assert [one.state for one in desk.rollouts] == ["verified", "taken back", "taken back"]
    assert desk.rollouts[1].said.startswith(f"{second.group} is taken back")
    assert desk.rollouts[2].said == third.said


def test_an_undo_that_fails_half_way_is_told_so_and_recovered(desk: Desk) -> None:
    desk("run")
    desk("run", version="two")
    first, second = (one.group for one in desk.rollouts)
    (proxy,) = process.running(f"{desk.project.home / 'state' / 'router' / 'app'}:")
    with held(desk.port):
        undo = desk.start("undo", version="two")
        desk.until(lambda one: one.step.text.startswith(f"drain {second}"), many=2)
        assert re.search(" going back .*\n    step 2 of 3: drain", desk("deployments", version="two"))
        os.kill(proxy.pid, signal.SIGSTOP)
        assert undo.wait() == 2
        os.kill(proxy.pid, signal.SIGCONT)
    assert re.search(r"failed: HAProxy does not answer: it takes more than \d s\n(.*\n)*.*recover", undo.output)
    assert re.search(f" stuck half way .*\n    the way back from {second} failed: HAProxy", desk("deployments", version="two"))
    assert f"deploy: {second} is taken back: {first} has the traffic again\n" in desk("recover", version="two")
    assert (desk.answer(), running(desk)) == ("one", {first})
    assert "nothing was left open" in desk("recover", version="two")


def test_a_release_that_goes_on_serving_as_nothing_else_is_there_is_not_said_to_be_left_open(desk: Desk) -> None:
    desk("run")
    desk("run", WRONG="1", code=1)
    assert "goes on serving, as before this run; it has no release to go back to" in (told := desk("deployments"))
    assert "recover" not in told
    assert "nothing was left open" in desk("recover")


def test_a_release_that_served_before_the_run_that_was_cut_off_stays_and_is_told_so(desk: Desk) -> None:
    desk("run")
    run = desk.start("run", "--again", "deploy", VERIFIES="600")
    desk.until(lambda one: one.state == "deployed", many=2)
    run.kill()
    run.wait()
    assert "its run has ended before anybody verified it; python -m pipeline recover takes it back" in desk("deployments")
    desk("recover")
    assert "served before this run too, and nothing was found wrong with it: it stays" in (told := desk("deployments"))
    assert "recover" not in told
    assert desk.answer() == "one"


def test_a_deployment_that_nobody_verified_as_its_run_was_killed_is_told_so(desk: Desk) -> None:
    desk("run")
    run = desk.start("run", version="two", VERIFIES="600")
    desk.until(lambda found: found.state == "deployed", many=2)
    run.kill()
    run.wait()
    assert "its run has ended before anybody verified it; python -m pipeline recover takes it back" in desk("deployments")
    desk("recover", version="two")
    assert desk.answer() == "one"


def test_a_group_that_has_traffic_and_cannot_serve_is_told_so(desk: Desk) -> None:
    desk("run")
    target = local_target(desk.project, Store(desk.project.home / "store"))
    for one in list(process.running(f"{target.state}:")):
        os.kill(one.pid, signal.SIGSTOP)
    try:
        assert re.search(r"100 % of the traffic; it cannot serve: ", desk("deployments"))
    finally:
        for one in list(process.running(f"{target.state}:")):
            os.kill(one.pid, signal.SIGCONT)


def test_a_group_is_asked_as_it_says_itself_whatever_the_pipeline_says_by_now(desk: Desk) -> None:
    desk("run")
    file, other = desk.project.root / "operated.py", "import dataclasses\ndeploy = dataclasses.replace(deploy, ready='/no')\n"
    file.write_text(file.read_text().replace("watch = ", f"{other}watch = "))
    assert "2 instances, 100 % of the traffic\n" in desk("deployments")


def test_all_of_a_reason_is_kept(desk: Desk) -> None:
    reason = "x" * 5000 + "\x1b[31m\n"
    desk("freeze", "--why", reason)
    journal = Journal(desk.project.home / "journal.db")
    (event,) = journal.events(kind="operator.ordered")
    journal.close()
    assert event.data["why"] == reason


def test_a_reason_of_an_operator_is_one_line_of_text_wherever_it_is_shown(desk: Desk) -> None:
    desk("run")
    run = desk.start("run", version="two", STRATEGY="slow")
    desk.until(weighing, many=2)
    desk("pause", "--why", "a\nb\x1b]0;title\x07\u202ec")
    desk.until(lambda found: found.state == "paused", many=2)
    desk("abort")
    assert run.wait() == 1
    assert "paused by" in (said := desk("logs", "deploy") + desk("history") + run.output)
    assert "a\\nb\\x1b]0;title\\x07\\x202ec" in said
    assert not re.search("[\x1b\x07\u202e]", said)


def test_while_deployments_are_frozen_none_begins(desk: Desk) -> None:
    desk("run")
    assert desk("freeze", "--why", "a holiday", "--for", "2d").startswith("all deployments: frozen until 20")
    said = desk("run", version="two", code=1)
    assert f"{operator()} has frozen deployments until" in said
    assert "a holiday" in desk("deployments")
    assert desk.answer() == "one"
    assert f", in place of what {operator()} said: a holiday" in desk("freeze", "--for", "1h")
    assert desk("freeze", "--end") == "all deployments: not frozen any more\n"
    assert desk("freeze", "--end") == "all deployments: not frozen\n"
    desk("run", version="two")
    assert desk.answer() == "two"


def test_a_freeze_of_all_that_is_ended_ends_that_of_each_stage_too(desk: Desk) -> None:
    desk("freeze", "deploy")
    desk("freeze", "verified")
    desk("freeze", "verified", "--end")
    assert "next: python -m pipeline freeze --end" in desk("run", code=1)
    assert desk("freeze", "--end") == "all deployments: not frozen any more\n"
    desk("run")
    assert desk("freeze", "--end") == "all deployments: not frozen\n"
    desk("freeze", "--for", "1d")
    desk("freeze", "deploy", "--end")
    desk("run", version="two")
    assert desk.answer() == "two"


def test_what_is_no_stage_cannot_be_frozen(desk: Desk) -> None:
    assert "no stage is called 'depoly'\n  expected: did you mean 'deploy'?" in desk("freeze", "depoly", code=2)
    desk("run")
    (desk.project.root / "operated.py").write_text("no pipeline")
    desk("freeze", "deploy")
    assert "frozen by" in desk("deployments")


def test_a_deployment_that_is_being_verified_is_not_aborted_but_taken_over(desk: Desk) -> None:
    desk("run")
    run = desk.start("run", version="two", VERIFIES="600")
    desk.until(lambda one: one.state == "deployed", many=2)
    for verb in ("abort", "undo"):
        assert "recover deploy --take-over, which ends" in desk(verb, version="two", code=2)
    waits = desk.start("run", version="three")
    desk("recover", "--take-over", version="two")
    assert run.wait() == -signal.SIGKILL
    assert waits.wait() == 0
    assert "deploy waits for another run, whose side effects are not confirmed yet" in waits.output
    assert [one.state for one in desk.rollouts] == ["verified", "taken back", "verified"]


def test_a_release_that_failed_its_verification_does_not_hide_the_one_that_stands(desk: Desk) -> None:
    for version in ("one", "two"):
        desk("run", version=version)
    desk("run", version="three", WRONG="1", code=1)
    assert "there is nothing to go back to, as r-" in desk("undo", version="two", code=2)
    assert desk.answer() == "two"


def test_where_nobody_served_before_an_undo_says_that_nobody_does(desk: Desk) -> None:
    desk("run")
    (only,) = desk.rollouts
    assert desk("undo").endswith(f"deploy: {only.group} is taken back: nobody served before {only.group}, and nobody does now\n")


def test_a_freeze_that_is_over_freezes_nothing(desk: Desk) -> None:
    for wrong in ("0h", "", "9" * 25 + "d"):
        assert "is no time" in desk("freeze", "--for", wrong, code=2)
    desk("freeze", "deploy", "--for", "1m")
    journal = Journal(desk.project.home / "journal.db")
    (event,) = journal.events(kind="operator.ordered")
    journal.append(event._replace(data={**event.data, "until": time.time() - 1}))
    journal.close()
    desk("run")
    assert desk.answer() == "one"


def test_a_group_can_be_drained_but_not_the_last_one_that_serves(desk: Desk) -> None:
    desk("run")
    (only,) = desk.rollouts
    assert "is the only one that serves" in desk("drain", only.group, code=2)
    assert "there is no group 'r-nobody'" in desk("drain", "r-nobody", code=2)
    desk("run", version="two")
    said = desk("drain", only.group, version="two")
    assert said.startswith(f"step 1 of 2: send 100 % to {desk.rollouts[1].group}\n")
    assert said.endswith(f"\ndeploy: {only.group} gets no new request, and has none in flight\n")
    assert desk.answer() == "two"


def test_who_may_not_give_an_order_is_told_who_may_and_the_journal_knows(desk: Desk) -> None:
    desk.allow(promote=["somebody-else"], **{"'*'": [operator()]})
    desk("run")
    run = desk.start("run", version="two", STRATEGY="slow")
    desk.until(weighing, many=2)
    said = desk("promote", code=2)
    assert f"{operator()} may not promote" in said
    assert "one of: somebody-else" in said
    journal = Journal(desk.project.home / "journal.db")
    assert [event.data["verb"] for event in journal.events(kind="operator.refused")] == ["promote"]
    journal.close()
    assert weighing(desk.rollouts[1])
    desk("abort")
    assert run.wait() == 1


def test_commands_in_a_project_without_deployments_say_so(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("")
    for command in ("deployments", "history"):
        found = warm.start(["-m", "pipeline", command, "-C", str(tmp_path)], cwd=TOP, env=os.environ)
        assert (found.wait(), found.output) == (0, "nothing was deployed yet; python -m pipeline run\n")
