"""Journeys of a synthetic user."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx

from gates import all_probes_passed
from gates.probes import ProbeReport
from pipeline.engines.local import free_port
from stages.journey import UserJourney
from tests.conftest import RunStage
from tests.stages.served import Deployed, served


async def shop(client: httpx.AsyncClient) -> AsyncIterator[str]:
    answer = await client.get("/basket")
    assert answer.status_code == 200, answer.text
    yield "the basket is there"
    answer = await client.post("/order", content=b"1")
    assert answer.status_code == 201, answer.text
    yield "an order is taken"


async def nothing(client: httpx.AsyncClient) -> AsyncIterator[str]:
    return
    yield ""


def test_each_step_of_a_journey_is_a_probe(run_stage: RunStage) -> None:
    with served(lambda path: (201 if path == "/order" else 200, "")) as service:
        report: ProbeReport = run_stage(UserJourney(deployment=Deployed(port=service.port), journey=shop))
    assert [(probe.name, probe.passed) for probe in report.probes] == [("the basket is there", True), ("an order is taken", True)]
    assert service.requests == [("GET", "/basket", b""), ("POST", "/order", b"1")]
    assert all_probes_passed(report).passed


def test_what_the_user_did_not_get_is_the_failed_probe_and_the_end(run_stage: RunStage) -> None:
    with served(lambda path: (409 if path == "/order" else 200, "sold out")) as service:
        report: ProbeReport = run_stage(UserJourney(deployment=Deployed(port=service.port), journey=shop))
    first, second = report.probes
    assert (first.passed, second.passed) == (True, False)
    assert second.name == "after the basket is there"
    assert second.said.startswith("AssertionError: sold out")
    assert not all_probes_passed(report).passed


def test_a_service_that_does_not_answer_fails_the_first_step(run_stage: RunStage) -> None:
    report: ProbeReport = run_stage(UserJourney(deployment=Deployed(port=free_port()), journey=shop))
    assert [(probe.name, probe.passed) for probe in report.probes] == [("after the first step", False)]
    assert report.probes[0].said.startswith("ConnectError")


def test_a_journey_without_a_step_is_no_pass(run_stage: RunStage) -> None:
    report: ProbeReport = run_stage(UserJourney(deployment=Deployed(port=free_port()), journey=nothing))
    assert not all_probes_passed(report).passed
