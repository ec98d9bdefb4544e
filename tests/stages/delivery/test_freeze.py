"""Freezes that begin while a run waits for another one: it has not begun yet, and does not."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipeline import Journal, Pipeline, Project, Stage, Store
from pipeline.engines.local import free_port
from pipeline.lock import Lock
from pipeline.order import Order, give
from stages.delivery.audience import Cohort, Cookie
from stages.delivery.deploy import Deploy, Preview, RunOnce
from stages.delivery.experiment import Experiment
from stages.delivery.haproxy import HAProxy
from stages.delivery.local import LocalProcesses
from stages.delivery.point_name import PointName
from stages.delivery.zone_file import ZoneFile
from tests.running import run_pipeline
from tests.stages.delivery.flagged import delivery, flags, rollout
from tests.stages.delivery.pair import NAMES, pair
from tests.stages.delivery.small import gated, image_stage

BEGUN = ("rollout.started", "preview.started", "experiment.started", "dns.intended")


@contextlib.contextmanager
def frozen_meanwhile(project: Project, place: str) -> Iterator[None]:
    """Another run is at work there; as soon as somebody waits for it, operators freeze all deployments, and it has finished."""
    lock = Lock(project.home / "state" / place / ".lock")
    assert lock.try_take()

    def freeze() -> None:
        end = time.monotonic() + 60
        while not any("another run is at work" in log.read_text() for log in project.home.glob("logs/*/*/*")):
            assert time.monotonic() < end
            time.sleep(0.02)
        with contextlib.closing(Journal(project.home / "journal.db")) as journal:
            give(journal, Order(verb="freeze", by="anna", why="an incident"), "", "", {})
        lock.give_back()

    thread = threading.Thread(target=freeze)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        lock.give_back()


def released(make: Callable[..., Stage[Any]], **more: Any) -> Pipeline:
    gate = gated(image_stage())
    return Pipeline("frozen", checks=gate.checks, subject=make(release=gate, target=LocalProcesses(name="app"), **more))


def routed(make: Callable[..., Stage[Any]], **more: Any) -> Pipeline:
    return released(make, router=HAProxy(name="app", port=free_port()), **more)


PIPELINES: dict[str, Callable[[], Pipeline]] = {
    "preview": lambda: routed(Preview),
    "deploy": lambda: routed(Deploy),
    "run once": lambda: released(RunOnce, command=("python", "-c", "print('migrated')")),
    "experiment": lambda: routed(Experiment, audience=Cohort(Cookie("uid")), lasts=1),
    "together": lambda: pair({name: free_port() for name in NAMES}, "one", "blue-green"),
    "flag": lambda: delivery(rollout(free_port(), 50, paused=0)),
    "name": lambda: Pipeline(
        "frozen", subject=PointName(dns=ZoneFile(path="zone", zone="test"), name="app.test", values=("127.0.0.1",))
    ),
}


@pytest.mark.parametrize("what", PIPELINES)
def test_what_waited_while_a_freeze_began_does_not_begin(what: str, project: Project, store: Store) -> None:
    (project.root / "flags.json").write_text(json.dumps(flags()))
    with contextlib.closing(Journal(project.home / "journal.db")) as journal:
        with frozen_meanwhile(project, "dns" if what == "name" else "deploy"):
            outcome, _ = run_pipeline(PIPELINES[what](), project, store, journal)
        assert "anna has frozen deployments: an incident" in "".join(outcome.failed.values())
        assert list(journal.events(kind=BEGUN)) == []
