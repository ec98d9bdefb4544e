"""The circuit breaker: when a server is left alone, and that it is told once."""

from __future__ import annotations

from pipeline.remote.breaker import LIMIT, Breaker


def test_failures_in_a_row_turn_it_off_and_that_is_told_once() -> None:
    breaker = Breaker()
    for _ in range(LIMIT - 1):
        breaker.failed("reading", "no")
    assert breaker.reads
    breaker.failed("writing", "no more")
    breaker.failed("reading", "no more")
    assert (breaker.reads, breaker.writes) == (False, False)
    assert [(off.what, "no more" in off.reason) for off in breaker.news()] == [("reading and writing", True)]
    assert breaker.news() == []


def test_success_begins_the_count_anew_for_what_succeeded() -> None:
    breaker = Breaker()
    for _ in range(2 * LIMIT):
        breaker.failed("reading", "no")
        breaker.worked("reading")
    assert breaker.reads
    for _ in range(LIMIT):
        breaker.failed("reading", "no")
        breaker.worked("writing")
    assert not breaker.reads


def test_where_writing_is_off_reading_goes_on() -> None:
    breaker = Breaker()
    breaker.stop_writing("full")
    breaker.stop_writing("full")
    assert (breaker.reads, breaker.writes) == (True, False)
    assert [off.what for off in breaker.news()] == ["writing"]
