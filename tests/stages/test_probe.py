"""A small steady load on a service that is up."""

from __future__ import annotations

import threading
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gates import WithinBudget
from gates.latency import LoadReport
from pipeline.engines.local import free_port
from stages.probe import WatchService, quantile, report
from tests.conftest import RunStage
from tests.stages.served import Deployed, served


def test_requests_are_sent_at_the_wanted_rate_to_each_path_in_turn(run_stage: RunStage) -> None:
    with served(lambda _: (200, "fine")) as service:
        watch = WatchService(deployment=Deployed(port=service.port), paths=("/a", "/b"), rate=50, seconds=1)
        found: LoadReport = run_stage(watch)
    assert (found.requests, found.failed, found.wanted_rate) == (50, 0, 50.0)
    assert Counter(path for _, path, _ in service.requests) == {"/a": 25, "/b": 25}
    assert found.seconds >= 0.98
    assert 0 < found.p50 <= found.p95 <= found.p99 <= found.longest
    assert WithinBudget(requests=50, held=0.1)(found).passed


def test_answers_that_are_errors_and_answers_that_never_come_are_counted(run_stage: RunStage) -> None:
    def answer(path: str) -> tuple[int, str]:
        if path == "/cut":
            raise ConnectionError
        return (503 if path == "/bad" else 204), ""

    with served(answer) as service:
        watch = WatchService(deployment=Deployed(port=service.port), paths=("/ok", "/bad", "/cut"), rate=60, seconds=0.5)
        found: LoadReport = run_stage(watch)
    assert (found.requests, found.failed) == (30, 20)
    assert found.errors == ("10 x /bad: status 503", "10 x /cut: RemoteProtocolError")
    assert not WithinBudget(errors=0.5)(found).passed


def test_a_service_that_sends_everybody_elsewhere_does_not_serve(run_stage: RunStage) -> None:
    with served(lambda _: (302, "")) as service:
        found: LoadReport = run_stage(WatchService(deployment=Deployed(port=service.port), rate=20, seconds=0.2))
    assert (found.requests, found.failed, found.errors) == (4, 4, ("4 x /: status 302",))


def test_a_slow_answer_delays_no_other_request(run_stage: RunStage) -> None:
    """The slow one is answered only once all others were: with requests one after the other this would never end."""
    others = threading.Semaphore(0)

    def answer(path: str) -> tuple[int, str]:
        if path == "/slow":
            for _ in range(9):
                assert others.acquire(timeout=30)
        else:
            others.release()
        return 200, ""

    paths = ("/slow", *("/quick",) * 9)
    with served(answer) as service:
        watch = WatchService(deployment=Deployed(port=service.port), paths=paths, rate=20, seconds=0.5, wait=60)
        found: LoadReport = run_stage(watch)
    assert (found.requests, found.failed) == (10, 0)
    assert found.longest >= 400  # its wait is counted from when it was due


def test_a_service_that_is_not_there_is_evidence_not_an_error(run_stage: RunStage) -> None:
    found: LoadReport = run_stage(WatchService(deployment=Deployed(port=free_port()), rate=20, seconds=0.2))
    assert (found.requests, found.failed, found.error_rate) == (4, 4, 1.0)
    assert not WithinBudget()(found).passed


def test_at_least_one_request_is_sent(run_stage: RunStage) -> None:
    with served(lambda _: (200, "")) as service:
        found: LoadReport = run_stage(WatchService(deployment=Deployed(port=service.port), rate=1, seconds=0.0))
    assert found.requests == 1


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1))
def test_a_quantile_is_the_smallest_value_that_so_many_are_not_above(values: list[float], part: float) -> None:
    found = quantile(values, part)
    assert found in values
    assert sum(value <= found for value in values) >= part * len(values) - 1e-9
    assert all(sum(one <= value for one in values) < part * len(values) + 1e-9 for value in values if value < found)


def test_the_figures_of_no_answer_are_none() -> None:
    found = report([], Counter({"/: ConnectError": 2}), rate=1, seconds=1)
    assert (found.p50, found.longest, found.failed) == (0.0, 0.0, 2)
    assert not WithinBudget(p95=1)(found).passed
