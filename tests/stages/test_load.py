"""Locust as a stage, against a real service."""

from __future__ import annotations

import dataclasses

import pytest

from gates import Ruling, WithinBudget
from pipeline import Project, Service, Stage, Tree, Work
from stages.load import LoadTest, PerformanceTest, from_csv
from stages.source import WorkingCopy
from tests.conftest import RunStage, StageDidNotPass

APP = """
import http.server, os
class Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(500 if self.path == "/broken" else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Answers).serve_forever()
"""

LOAD = """
import os
from locust import HttpUser, constant_throughput, task
class Visitor(HttpUser):
    wait_time = constant_throughput(float(os.environ["LOAD_RATE"]) / int(os.environ["LOAD_USERS"]))
    @task
    def look(self):
        self.client.get("{path}")
{more}
"""


class Answering(Stage[Service]):
    source: Stage[Tree]

    async def run(self, work: Work) -> Service:
        source = work[self.source]
        return Service(name="app", argv=("python", "{root}/src/app.py"), port=8000, inputs={"src": source}, ready="/ready")


def load(project: Project, path: str = "/", more: str = "") -> LoadTest:
    (project.root / "app.py").write_text(APP)
    (project.root / "tests" / "load").mkdir(parents=True)
    (project.root / "tests" / "load" / "locustfile.py").write_text(LOAD.replace("{path}", path).replace("{more}", more))
    source = WorkingCopy()
    return LoadTest(source=source, service=Answering(source=source), users=4, rate=20, seconds=5)


def test_figures_are_those_of_locust_and_the_rate_is_what_was_asked_for(project: Project, run_stage: RunStage) -> None:
    report = run_stage(load(project))
    assert report.requests > 0
    assert (report.failed, report.errors) == (0, ())
    assert 0 < report.p50 <= report.p90 <= report.p95 <= report.p99 <= report.longest
    assert report.wanted_rate == 20
    assert report.rate <= 25
    assert report.tool.startswith("locust 2.")


def test_every_failure_is_counted_by_kind(project: Project, run_stage: RunStage) -> None:
    report = run_stage(load(project, "/broken", "    @task\n    def fall(self): raise RuntimeError('slipped')\n"))
    assert report.failed == report.requests > 0
    assert any("exception: slipped" in error for error in report.errors)
    assert any("GET /broken: HTTPError('500" in error for error in report.errors)
    assert sum(int(error.split(" x ")[0]) for error in report.errors) == report.failed
    assert WithinBudget(errors=0.5)(report).ruling is Ruling.FAILED


def test_users_that_ask_nothing_are_no_pass(project: Project, run_stage: RunStage) -> None:
    stage = load(project)
    (project.root / "tests/load/locustfile.py").write_text(
        "from locust import User, constant, task\n"
        "class Idle(User):\n    wait_time = constant(1)\n    @task\n    def rest(self): pass\n"
    )
    assert WithinBudget(p99=1e9, errors=1)(run_stage(stage)).ruling is Ruling.ERROR


def test_a_locustfile_that_cannot_be_loaded_fails_the_stage(project: Project, run_stage: RunStage) -> None:
    with pytest.raises(StageDidNotPass, match="exit code 1"):
        run_stage(dataclasses.replace(load(project), locustfile="nothing.py"))


def test_low_load_is_one_user() -> None:
    stage = PerformanceTest(source=WorkingCopy(), service=Answering(source=WorkingCopy()))
    assert (stage.users, stage.seconds) == (1, 15.0)


HEAD = "Type,Name,Request Count,Failure Count,50%,90%,95%,99%,100%\n"
TOTAL = ",Aggregated,4,1,5,6,7,8,9\n"
FAILURES = "Method,Name,Error,Occurrences\n"
EXCEPTIONS = "Count,Message\n"


@pytest.mark.parametrize(
    ("stats", "failures", "exceptions"),
    [
        ("", FAILURES, EXCEPTIONS),
        (HEAD, FAILURES, EXCEPTIONS),
        (HEAD + TOTAL, FAILURES, EXCEPTIONS),
        (HEAD + TOTAL, "", EXCEPTIONS),
        (HEAD + TOTAL, FAILURES + "GET,/,no,1\n", ""),
        (HEAD + TOTAL[:-8], FAILURES + "GET,/,no,1\n", EXCEPTIONS),
        (HEAD + TOTAL.replace("4", "many"), FAILURES + "GET,/,no,1\n", EXCEPTIONS),
        ("<html>\n", FAILURES, EXCEPTIONS),
    ],
)
def test_figures_that_do_not_add_up_are_refused(stats: str, failures: str, exceptions: str) -> None:
    with pytest.raises(ValueError, match=r"no line|no column|cut|told by kind|invalid literal"):
        from_csv("locust 2", stats, failures, exceptions, seconds=1, rate=0)
    assert from_csv("locust 2", HEAD + TOTAL, FAILURES + "GET,/,no,1\n", EXCEPTIONS, seconds=1, rate=0).failed == 1
