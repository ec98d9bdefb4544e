"""Who is given an action, and who is taken for lost."""

from __future__ import annotations

from pipeline import Blob
from pipeline.workers.member import Member, best, lost

LARGE, SMALL = Blob(digest="a" * 64, size=1000), Blob(digest="b" * 64, size=10)


def member(
    name: str, *, threads: int = 1, busy: int = 0, others: int = 0, order: float = 0.0, holds: tuple[Blob, ...] = ()
) -> Member:
    return Member(
        address=name,
        threads=threads,
        heard=100.0,
        unfit="",
        busy=busy,
        others=others,
        order=order,
        holds={one.digest for one in holds},
    )


def chosen(*members: Member) -> str:
    found = best(members, [LARGE, SMALL])
    return found.address if found else ""


def test_who_has_most_bytes_of_the_inputs_is_given_an_action() -> None:
    assert chosen(member("none"), member("small", holds=(SMALL,)), member("large", holds=(LARGE,))) == "large"


def test_who_has_a_thread_to_spare_goes_before_who_has_the_inputs() -> None:
    assert chosen(member("full", busy=1, holds=(LARGE,)), member("idle")) == "idle"
    assert chosen(member("others", others=1, holds=(LARGE,)), member("idle")) == "idle"
    assert chosen(member("half", threads=2, busy=1, holds=(LARGE,)), member("idle")) == "half"


def test_among_equals_who_has_least_to_do_is_given_it_and_then_chance_decides() -> None:
    assert chosen(member("half", threads=2, busy=1), member("quarter", threads=4, busy=1)) == "quarter"
    assert chosen(member("second", order=0.9), member("first", order=0.1)) == "first"
    assert chosen() == ""


def test_a_worker_is_lost_that_left_or_is_silent_or_unfit() -> None:
    assert lost(None, 100.0, 20.0) == "it left the cluster"
    assert lost(member("silent"), 121.0, 20.0) == "nothing was heard of it for 20 s"
    assert lost(member("here"), 119.0, 20.0) == ""
    full = member("full")
    full.unfit = "the disk is full"
    assert lost(full, 100.0, 20.0) == "the disk is full"
