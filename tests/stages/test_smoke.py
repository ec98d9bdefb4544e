"""Smoke checks of a service that is up."""

from __future__ import annotations

import contextlib
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from gates import all_probes_passed
from gates.probes import ProbeReport
from pipeline.engines.local import free_port
from stages.smoke import Request, SmokeChecks, judged, text
from tests.conftest import RunStage
from tests.stages.served import Deployed, served


def look(run_stage: RunStage, port: int, *requests: Request) -> ProbeReport:
    """The report, also when it is a concern: then nobody judges it here and the run says so."""
    found: ProbeReport = run_stage(SmokeChecks(deployment=Deployed(port=port), requests=requests, wait=2))
    return found


def answer(path: str) -> tuple[int, str]:
    return {"/": (200, "<html>hello</html>"), "/gone": (410, "no more")}.get(path, (404, "what?"))


def test_every_request_that_is_answered_as_wanted_is_a_probe_that_passed(run_stage: RunStage) -> None:
    with served(answer) as service:
        report = look(run_stage, service.port, Request(path="/", contains="hello"), Request(path="/gone", status=410))
    assert [(probe.name, probe.passed, probe.said) for probe in report.probes] == [
        ("GET /", True, "answered 200"),
        ("GET /gone", True, "answered 410"),
    ]
    assert all_probes_passed(report).passed
    assert [path for _, path, _ in service.requests] == ["/", "/gone"]


def test_another_status_or_another_text_is_evidence_not_an_error(run_stage: RunStage) -> None:
    with served(answer) as service:
        report = look(run_stage, service.port, Request(path="/", contains="goodbye"), Request(path="/lost"))
    assert [probe.passed for probe in report.probes] == [False, False]
    assert not all_probes_passed(report).passed
    assert all_probes_passed(report).facts == (
        "GET /: the answer does not contain 'goodbye': <html>hello</html>",
        "GET /lost: answered 404, wanted 200: what?",
    )


def test_an_answer_that_never_comes_is_a_failed_probe(run_stage: RunStage) -> None:
    report = look(run_stage, free_port(), Request(path="/"))
    assert [probe.passed for probe in report.probes] == [False]
    assert report.probes[0].said.startswith("ConnectError")


class Trickling(BaseHTTPRequestHandler):
    """Says a little now and then, and has no end."""

    def do_GET(self) -> None:
        if self.path == "/mute":
            time.sleep(2.5)
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=hex")
        self.end_headers()
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(b"x" * (1 if self.path == "/slow" else 65_536))
                time.sleep(0.05 if self.path == "/slow" else 0)

    def log_message(self, *values: object) -> None:
        pass


def test_an_answer_without_end_is_a_failed_probe_where_it_is_slow_and_its_beginning_where_it_is_not(run_stage: RunStage) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Trickling)
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        requests = (Request(path="/slow"), Request(path="/mute"), Request(path="/quick", contains="xxx"))
        report = look(run_stage, server.server_port, *requests)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert [(probe.passed, probe.said) for probe in report.probes] == [
        (False, "the answer had no end after 2 s"),
        (False, "the answer had no beginning after 2 s"),
        (True, "answered 200"),
    ]


def test_no_request_at_all_is_no_pass(run_stage: RunStage) -> None:
    report = look(run_stage, free_port())
    assert not all_probes_passed(report).passed
    assert report.concern().endswith("was not probed")


def test_a_body_is_shown_only_in_part() -> None:
    assert len(judged(Request(path="/"), 500, "x" * 5000)[1]) < 300


@pytest.mark.parametrize("charset", ["hex", "idna", "no such", "nul\0", "punycode", "undefined"])
def test_an_answer_that_its_own_character_set_cannot_read_is_read_as_any_other(charset: str) -> None:
    assert text("é is well \\xff".encode(), charset) == "é is well \\xff"
