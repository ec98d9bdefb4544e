"""Rollouts as the journal tells them, from this machine and from others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline import Event, Journal
from pipeline.lease import Lease
from pipeline.order import Order
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


def test_an_order_that_comes_after_a_rollout_does_not_move_its_end(journal: Journal, tmp_path: Path) -> None:
    begun(journal, "a", HERE)
    journal.append(Event(run="a", kind="rollout.finished", stage="deploy", data={"group": "r-2"}, at=100.0))
    journal.append(Order(verb="drain", by="anna", of="r-1").event("b", "deploy")._replace(at=200.0))
    one = current(journal, tmp_path)["deploy"]
    assert (one.ended, [order.verb for order in one.orders]) == (100.0, ["drain"])
