"""Reports of users: taken by the real endpoint, kept whatever happens to it, and counted by release."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from pipeline import Journal, Pipeline, Project, Store
from pipeline.engines.local import free_port
from stages.delivery import process
from stages.delivery.down import down, left
from stages.delivery.sources.feedback import CollectFeedback, Feedback, FeedbackMetrics
from stages.delivery.sources.ingest import BURST, LARGEST, RATE, RELEASES, Bucket, Refused, Report, Reports
from tests import web
from tests.running import run_pipeline
from tests.stages.delivery.sources.conftest import Pages
from tests.stages.delivery.sources.watching import Seen


@dataclass
class Endpoint:
    """The endpoint as its stage starts it."""

    project: Project
    store: Store
    config: Feedback = field(default_factory=lambda: Feedback(name="complaints", port=free_port(), every=0.05))
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def start(self) -> dict[str, Any]:
        """What failed."""
        journal = Journal(self.project.home / "journal.db")
        outcome, _ = run_pipeline(Pipeline("p", it=CollectFeedback(feedback=self.config)), self.project, self.store, journal)
        journal.close()
        return dict(outcome.failed)

    @property
    def processes(self) -> list[process.Process]:
        return list(process.running(str(self.project.home / "state/feedback")))

    def post(self, path: str, **report: Any) -> int:
        return self.send(path, json=report).status_code

    def send(self, path: str, **more: Any) -> httpx.Response:
        return httpx.post(f"http://127.0.0.1:{self.config.port}{path}", trust_env=False, **more)

    def get(self, path: str) -> Any:
        return web.get(f"http://127.0.0.1:{self.config.port}{path}").json()

    def metrics(self, said: list[str]) -> FeedbackMetrics:
        return FeedbackMetrics(self.config, said.append, lambda kind, **data: self.events.append((kind, data)))


@pytest.fixture
def endpoint(tmp_path: Path, store: Store) -> Iterator[Endpoint]:
    from pipeline.settings import Settings

    project = Project(root=tmp_path, home=tmp_path / "home", settings=Settings())
    project.home.mkdir()
    found = Endpoint(project, store)
    assert found.start() == {}
    yield found
    anyio.run(down, project)


def test_reports_are_counted_by_release_and_errors_that_only_the_new_one_has_are_named(endpoint: Endpoint) -> None:
    assert endpoint.post("/errors", group="one", type="Timeout", message="order 7 took 30 s") == 201

    async def main() -> None:
        said: list[str] = []
        async with endpoint.metrics(said).watch({"one"}, {"two"}) as counted:
            seen = Seen(counted)
            await seen.known()
            for group, ok in (("one", True), ("one", False), ("two", True), ("two", True), ("elsewhere", False)):
                assert endpoint.post("/feedback", group=group, ok=ok, message="the count is off") == 201
            assert endpoint.post("/errors", group="two", type="Timeout", message="order 8 took 31 s") == 201
            assert endpoint.post("/errors", group="two", type="KeyError", message="'total'") == 201
            assert endpoint.post("/errors", group="two", type="KeyError", message="'total'") == 201
            await seen.reach((1, 2), (3, 5))
            await seen.until(lambda: bool(endpoint.events))
            await process.stop(endpoint.processes[0])
            await seen.unknown()
        assert "does not answer" in said[-1]

    anyio.run(main)
    ((kind, error),) = endpoint.events
    assert (kind, error["group"], error["title"]) == ("rollout.error", "two", "KeyError: 'total'")


def test_what_was_answered_is_kept_though_the_endpoint_is_killed_under_load(endpoint: Endpoint) -> None:
    answered: list[str] = []
    enough = threading.Event()

    def users() -> None:
        for number in range(10_000):
            try:
                if endpoint.post("/feedback", group=f"g{number % 4}", ok=True, message=f"m{number}") == 201:
                    answered.append(f"m{number}")
            except httpx.TransportError:
                return
            if number == 50:
                enough.set()

    thread = threading.Thread(target=users)
    thread.start()
    assert enough.wait(30)
    os.kill(endpoint.processes[0].pid, signal.SIGKILL)
    thread.join()
    assert endpoint.start() == {}
    with sqlite3.connect(endpoint.project.home / "state/feedback/complaints/reports.db") as database:
        kept = [message for (message,) in database.execute("select message from report order by id")]
        with pytest.raises(sqlite3.IntegrityError, match="reports are kept"):
            database.execute("delete from report")
        with pytest.raises(sqlite3.IntegrityError, match="reports are not changed"):
            database.execute("update report set bad = 0")
    database.close()
    assert kept[: len(answered)] == answered
    assert len(kept) <= len(answered) + 1


@pytest.mark.parametrize(
    ("path", "more", "status"),
    [
        ("/feedback", {"json": {"group": "one", "ok": "yes"}}, 400),
        ("/feedback", {"json": {"ok": True}}, 400),
        ("/feedback", {"json": {"group": "../one", "ok": True}}, 400),
        ("/feedback", {"json": []}, 400),
        ("/feedback", {"content": b"{", "headers": {"Content-Type": "application/json"}}, 400),
        ("/feedback", {"content": b'{"group": "one", "ok": true}', "headers": {"Content-Type": "text/plain"}}, 415),
        ("/feedback", {"json": {"group": "one", "ok": True, "message": "x" * LARGEST}}, 413),
        ("/errors", {"json": {"group": "one"}}, 400),
        ("/errors", {"json": {"group": "one", "type": 5}}, 400),
        ("/feedback", {"content": b"[" * 30_000, "headers": {"Content-Type": "application/json"}}, 400),
        ("/errors", {"content": b'{"group": "one", "type": "\\ud800"}', "headers": {"Content-Type": "application/json"}}, 400),
        ("/nowhere", {"json": {"group": "one", "ok": True}}, 404),
    ],
)
def test_what_is_no_report_is_refused_and_not_counted(endpoint: Endpoint, path: str, more: dict[str, Any], status: int) -> None:
    answer = endpoint.send(path, **more)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert endpoint.get("/stats?group=one") == {"bad": 0, "all": 0, "refused": 0}


def test_groups_of_errors_are_listed_with_the_releases_in_which_each_was_seen(endpoint: Endpoint) -> None:
    for group in ("one", "one", "two"):
        endpoint.post("/errors", group=group, type="Timeout", message=f"order {len(group)} took 3 s")
    (error,) = endpoint.get("/errors")
    assert (error["title"], error["releases"]) == ("Timeout: order <number> took <number> s", {"one": 2, "two": 1})
    assert endpoint.get("/errors?group=two") == []


def test_no_more_reports_of_a_release_are_taken_than_it_may_send_in_a_time() -> None:
    bucket = Bucket()
    assert sum(bucket.take(100.0) for _ in range(1000)) == BURST
    assert bucket.refused == 1000 - BURST
    assert sum(bucket.take(102.0) for _ in range(1000)) == 2 * RATE


def test_releases_that_were_invented_hide_no_report_of_one_that_is_there(tmp_path: Path) -> None:
    reports = Reports(tmp_path)
    for number in range(RELEASES):
        reports.add(Report(f"fake-{number}", bad=False, message=""))
    for bucket in reports._buckets.values():  # they have just said as much as they may
        bucket.left, bucket.at = 0.0, time.monotonic()
    with pytest.raises(Refused, match="too many releases"):
        reports.add(Report("real", bad=True, message="it counts nobody"))
    assert reports.stats("real") == {"bad": 0, "all": 0, "refused": 1}
    reports._bucket("another", time.monotonic() + 60)  # by then they have said nothing for a while
    reports.add(Report("real", bad=True, message="it counts nobody"))
    assert reports.stats("real") == {"bad": 1, "all": 1, "refused": 1}
    reports.close()


def test_refused_reports_are_unknown_to_the_judge(pages: Pages) -> None:
    """Whoever floods the endpoint with reports is not to be found harmless, nor anybody else harmful, by what was taken."""

    def told(refused: int) -> None:
        for group in ("one", "two"):
            pages.pages[f"/stats?group={group}"] = (200, f'{{"bad": 1, "all": 2, "refused": {refused}}}')
            pages.pages[f"/errors?group={group}"] = (200, "[]")

    told(5)

    async def main() -> None:
        said: list[str] = []
        config = Feedback(name="complaints", port=pages.port, every=0.2)
        async with FeedbackMetrics(config, said.append, print).watch({"one"}, {"two"}) as counted:
            seen = Seen(counted)
            await seen.known()
            told(6)
            await seen.unknown()
            await seen.known()
        assert said == ["complaints: reports of one, two were refused: there were too many", "complaints: known again"]

    anyio.run(main)


def test_it_is_started_once_stays_when_the_run_ends_and_is_taken_down_with_the_rest(endpoint: Endpoint) -> None:
    (first,) = endpoint.processes
    assert endpoint.start() == {}
    assert [one.pid for one in endpoint.processes] == [first.pid]
    assert [one.pid for one in left(endpoint.project)] == [first.pid]


def test_a_port_that_somebody_else_has_is_an_error_that_says_so(endpoint: Endpoint, pages: Pages) -> None:
    endpoint.config = Feedback(name="other", port=pages.port)
    (failed,) = endpoint.start().values()
    assert "the endpoint for feedback does not start: OSError: [Errno 98] Address already in use" in str(failed)
