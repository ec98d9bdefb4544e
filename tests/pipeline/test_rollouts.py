"""Rollouts as the journal tells them, from this machine and from others."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pipeline import Event, Journal
from pipeline.lease import Lease
from pipeline.order import Order, refuse
from pipeline.rollouts import current

HERE = os.uname().nodename


def begun(journal: Journal, run: str, host: str) -> None:
    journal.append(
        Event(run=run, kind="run.started", data={"pipeline": "x", "engine": "host", "host": host}),
        Event(run=run, kind="rollout.started", stage="deploy", data={"group": "r-2", "groups": ["r-1"], "weights": {"r-1": 100}}),
        Event(run=run, kind="rollout.intended", stage="deploy", data={"number": 1, "of": 3, "step": "start r-2"}),
    )


@pytest.mark.parametrize(("host", "state"), [(HERE, "cut off"), ("another", "going on")])
def test_a_rollout_without_a_process_here_is_cut_off_unless_its_run_is_on_another_machine(
    journal: Journal, tmp_path: Path, host: str, state: str
) -> None:
    begun(journal, "a", host)
    one = current(journal, tmp_path)["deploy"]
    assert (one.state, one.step.text) == (state, "start r-2")


def test_a_rollout_goes_on_as_long_as_a_process_is_at_work_on_its_run(journal: Journal, tmp_path: Path) -> None:
    begun(journal, "a", HERE)
    lease = Lease(journal, tmp_path, "a")
    lease.take()
    assert current(journal, tmp_path)["deploy"].state == "going on"
    lease.end()
    assert current(journal, tmp_path)["deploy"].state == "cut off"


def test_a_run_of_another_machine_is_at_work_until_it_has_finished_and_again_when_it_is_resumed(
    journal: Journal, tmp_path: Path
) -> None:
    begun(journal, "a", "another")
    journal.append(Event(run="a", kind="run.finished", data={"exit": 1, "failed": []}))
    assert current(journal, tmp_path)["deploy"].state == "cut off"
    journal.append(Event(run="a", kind="run.resumed", data={"pipeline": "x", "engine": "host", "host": "another", "number": 1}))
    assert current(journal, tmp_path)["deploy"].state == "going on"


def test_what_was_taken_back_is_no_rollout_that_was_cut_off(journal: Journal, tmp_path: Path) -> None:
    begun(journal, "a", HERE)
    journal.append(Event(run="a", kind="rollout.finished", stage="deploy", data={"group": "r-2", "back": True}))
    assert current(journal, tmp_path)["deploy"].state == "taken back"


def test_a_run_that_fails_before_it_begins_a_rollout_changes_nothing_of_the_one_before(journal: Journal, tmp_path: Path) -> None:
    begun(journal, "a", HERE)
    journal.append(Event(run="a", kind="rollout.finished", stage="deploy", data={"group": "r-2"}, at=100.0))
    journal.append(Event(run="a", kind="effect.stands", stage="deploy", at=101.0))
    journal.append(Event(run="b", kind="effect.failed", stage="deploy", data={"error": "deployments are frozen"}, at=200.0))
    one = current(journal, tmp_path)["deploy"]
    assert (one.state, one.said, one.ended) == ("verified", "", 101.0)


def test_what_was_seen_last_of_a_rollout_that_goes_on_is_told(journal: Journal, tmp_path: Path) -> None:
    begun(journal, "a", "another")
    for requests in (10, 1200):
        data = {"group": "r-2", "said": f"hold: 1 of {requests}"}
        journal.append(Event(run="a", kind="rollout.looked", stage="deploy", data=data, at=time.time() + requests))
    one = current(journal, tmp_path)["deploy"]
    assert one.said == "hold: 1 of 1200"
    journal.append(
        Event(run="a", kind="rollout.intended", stage="deploy", data={"number": 2, "of": 3, "step": "x"}, at=time.time() + 2000)
    )
    assert current(journal, tmp_path)["deploy"].said == ""  # that was of the step before


def test_a_pause_is_told_with_who_and_why_until_it_is_over(journal: Journal, tmp_path: Path) -> None:
    begun(journal, "a", "another")
    pause = {"group": "r-2", "by": "anna", "why": "a meeting"}
    journal.append(Event(run="a", kind="rollout.paused", stage="deploy", data=pause, at=50.0))
    one = current(journal, tmp_path)["deploy"]
    assert (one.state, one.by, one.why, one.since) == ("paused", "anna", "a meeting", 50.0)
    journal.append(Event(run="a", kind="rollout.back", stage="deploy", data={"group": "r-2", "groups": [], "weights": {}}))
    one = current(journal, tmp_path)["deploy"]
    assert (one.state, one.by) == ("going back", "")


@pytest.mark.parametrize("paused", [True, False])
def test_who_ended_a_rollout_is_told_while_it_goes_back_and_afterwards(journal: Journal, tmp_path: Path, paused: bool) -> None:
    begun(journal, "a", "another")
    if paused:
        pause = {"group": "r-2", "by": "the judge", "why": "inconclusive"}
        journal.append(Event(run="a", kind="rollout.paused", stage="deploy", data=pause))
    abort = {"group": "r-2", "by": "anna", "why": "complaints"}
    journal.append(Event(run="a", kind="rollout.aborted", stage="deploy", data=abort))
    journal.append(Event(run="a", kind="rollout.back", stage="deploy", data={"group": "r-2", "groups": [], "weights": {}}))
    one = current(journal, tmp_path)["deploy"]
    assert (one.state, one.by, one.why) == ("going back", "anna", "complaints")
    journal.append(Event(run="a", kind="rollout.finished", stage="deploy", data={"group": "r-2", "back": True}))
    one = current(journal, tmp_path)["deploy"]
    assert (one.state, one.by, one.why) == ("taken back", "anna", "complaints")


def test_a_rollout_goes_back_as_long_as_a_process_takes_it_back_whatever_became_of_its_run(
    journal: Journal, tmp_path: Path
) -> None:
    begun(journal, "a", HERE)
    journal.append(Event(run="a", kind="rollout.finished", stage="deploy", data={"group": "r-2"}))
    journal.append(Event(run="b", kind="rollout.back", stage="deploy", data={"group": "r-2", "groups": [], "weights": {}}))
    lease = Lease(journal, tmp_path, "b")
    lease.take()
    assert current(journal, tmp_path)["deploy"].state == "going back"
    lease.end()
    assert current(journal, tmp_path)["deploy"].state == "cut off"


def test_an_order_that_was_refused_is_told_with_the_reason(journal: Journal, tmp_path: Path) -> None:
    begun(journal, "a", HERE)
    given = Order(verb="undo", by="anna", why="complaints")
    journal.append(given.event("b", "deploy"))
    refuse(journal, given, "nothing is left", "b", "deploy", given=True)
    promoted = Order(verb="promote", by="ben", why="fine")
    journal.append(promoted.event("a", "deploy"))
    refuse(journal, promoted, "ben may not promote", "a", "deploy")  # another time, later
    orders = current(journal, tmp_path)["deploy"].orders
    assert [(one.verb, one.by, one.why, one.refused) for one in orders] == [
        ("undo", "anna", "complaints", "nothing is left"),
        ("promote", "ben", "fine", ""),
        ("promote", "ben", "", "ben may not promote"),
    ]


def test_an_order_that_comes_after_a_rollout_does_not_move_its_end(journal: Journal, tmp_path: Path) -> None:
    begun(journal, "a", HERE)
    journal.append(Event(run="a", kind="rollout.finished", stage="deploy", data={"group": "r-2"}, at=100.0))
    journal.append(Order(verb="drain", by="anna", of="r-1").event("b", "deploy")._replace(at=200.0))
    one = current(journal, tmp_path)["deploy"]
    assert (one.ended, [order.verb for order in one.orders]) == (100.0, ["drain"])
