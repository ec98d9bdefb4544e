"""The course of a rollout, by what the journal tells of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pipeline.journal import Event
from stages.delivery.course import Course, NothingLeft, recovered
from stages.delivery.model import Address, Group, State

FORWARD = ("started", "finished")


def event(seq: int, kind: str = "rollout.started", **data: Any) -> Event:
    return Event(run="r", kind=kind, stage="deploy", seq=seq, data=data)


def told(*words: str, service: str = "") -> Callable[[str], list[Event]]:
    """Events in that order; `ended` is the end of a way back."""
    of = {"service": service} if service else {}
    events = [
        event(
            seq,
            f"rollout.{'finished' if word == 'ended' else word}",
            group="green",
            weights={"blue": 100},
            **of,
            **({"back": True} if word == "ended" else {}),
        )
        for seq, word in enumerate(words, 1)
    ]
    return lambda kind: [one for one in events if one.kind == kind]


@pytest.mark.parametrize(
    ("words", "cut_off"),
    [
        ((), 0),
        (("started",), 1),
        (FORWARD, 0),
        ((*FORWARD, "started"), 3),
        (("started", "back"), 2),
        (("started", "back", "ended"), 0),
        ((*FORWARD, "back"), 3),
        ((*FORWARD, "back", "back"), 4),
        ((*FORWARD, "back", "back", "ended"), 0),
        ((*FORWARD, "back", "ended", *FORWARD), 0),
    ],
)
def test_what_was_begun_last_and_has_no_end_was_cut_off(words: tuple[str, ...], cut_off: int) -> None:
    course = Course.of(told(*words))
    assert (course.cut_off.seq if course.cut_off else 0) == cut_off
    assert (course.way_back("green") is not None) == (cut_off > 0 and words[cut_off - 1] == "back")


@pytest.mark.parametrize(
    ("words", "forward", "complete", "taken_back"),
    [
        ((), False, False, False),
        (("started",), False, False, False),
        (FORWARD, True, True, False),
        ((*FORWARD, "back"), True, False, False),
        ((*FORWARD, "back", "ended"), True, False, True),
        (("started", "back", "ended"), False, False, True),
        ((*FORWARD, "back", "ended", "started"), False, False, False),
        ((*FORWARD, "back", "ended", *FORWARD), True, True, False),
    ],
)
def test_how_far_the_last_rollout_has_come(words: tuple[str, ...], forward: bool, complete: bool, taken_back: bool) -> None:
    course = Course.of(told(*words))
    assert (course.went_forward, course.is_complete, course.is_taken_back) == (forward, complete, taken_back)


def test_each_service_has_a_course_of_its_own_from_an_event_on() -> None:
    def events(kind: str) -> list[Event]:
        return told(*FORWARD, service="front")(kind) + told("started", service="back")(kind)

    assert Course.of(events, "front").is_complete
    assert Course.of(events, "back").cut_off is not None
    assert Course.of(events) == Course((), (), ())
    assert Course.of(events, "front", since=2).started == ()


@pytest.mark.parametrize(("weights", "change"), [({"green": 100}, False), ({"blue": 100, "green": 0}, True), ({}, True)])
def test_a_release_that_served_all_before_is_no_change(weights: dict[str, int], change: bool) -> None:
    assert Course((event(1, group="green", weights=weights),), (), ()).is_change == change


def groups(*names: str) -> dict[str, Group]:
    return {name: Group(name, (Address(host="h", port=1),)) for name in names}


def test_what_was_true_before_an_interrupted_rollout_is_gone_back_to() -> None:
    now = State(groups=groups("blue", "green"), weights={"green": 100})
    interrupted = event(1, group="green", groups=["blue", "older"], weights={"blue": 100, "older": 0})
    assert recovered(now, interrupted) == State(groups=groups("blue"), weights={"blue": 100})


def test_before_an_interrupted_first_rollout_nobody_served() -> None:
    now = State(groups=groups("green"), weights={"green": 100})
    assert recovered(now, event(1, group="green", groups=[], weights={})) == State()


def test_nobody_goes_back_to_what_does_not_run_any_more() -> None:
    now = State(groups=groups("green"), weights={"green": 100})
    with pytest.raises(NothingLeft, match="green goes on serving: there is nothing to go back to, as blue was removed"):
        recovered(now, event(1, group="green", groups=["blue"], weights={"blue": 100}))


def test_where_nobody_is_left_at_all_nothing_keeps_the_next_release_away() -> None:
    assert recovered(State(), event(1, group="green", groups=["blue"], weights={"blue": 100})) == State()


def test_a_way_back_that_an_older_version_began_counts_for_nothing() -> None:
    old = {"rollout.back": [event(2, group="green", to={"blue": 100})]}
    course = Course.of(lambda kind: old.get(kind, [event(1, group="green", weights={})]))
    assert course.back == ()


@pytest.mark.parametrize(
    ("words", "since"),
    [
        ("a> a.", ""),
        ("a> a. b> b.", "b"),
        ("a> a. b> b< b.", ""),
        ("a> a. b> b. b< b.", ""),
        ("a> a. b> b. other>c other.", "b"),
        ("a> a. b> b. c> c.", "b"),  # nobody verified what c did
        ("b> b. a> a.", ""),
        ("a> b> b.", "b"),
        ("a> b>", ""),
    ],
)
def test_it_is_known_who_rolled_the_same_out_since_and_was_verified(words: str, since: str) -> None:
    """A run by its letter: `>` begins, `<` goes back, `.` has come to the end of that."""
    events: list[Event] = []
    back = False
    for seq, word in enumerate(words.split(), 1):
        group, kind = ("blue" if word.startswith("other") else "green"), next(one for one in word if one in "><.")
        back = kind == "<" or (back and kind == ".")
        name = {">": "started", "<": "back", ".": "finished"}[kind]
        data = {"group": group, "weights": {}, **({"back": True} if back and kind == "." else {})}
        events.append(Event(run=word[0], kind=f"rollout.{name}", stage="deploy", seq=seq, data=data))
        back = back and kind != "."
    course = Course.of(lambda kind: [one for one in events if one.kind == kind])
    assert course.rolled_out_since("green", "a", {"b"}) == since
