"""The evidence of a judged rollout as a picture."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any
from xml.etree.ElementTree import Element

from defusedxml.ElementTree import fromstring
from hypothesis import given
from hypothesis import strategies as st

from gates.judge import Advice, Business, ErrorRate, Judge, Trial
from gates.window import Share, Tick, Window
from pipeline import Journal, Project
from pipeline.journal import Event
from stages.delivery.evidence import Judged, judged, looked, main, picture

SVG = "{http://www.w3.org/2000/svg}"
JUDGE = Judge(measures=(ErrorRate(), Business(of="orders <given> up")), warm_up=0, blind=1000)


def window(errors: int, requests: int, *, known: bool = True) -> Window:
    return Window(requests=requests, errors=errors, business={"orders <given> up": Share(part=1, of=9)} if known else {})


def told(*ticks: tuple[int, Window | None, Window | None]) -> tuple[Trial, list[Event]]:
    """A rollout: each tick with the share of the new release."""
    trial, events = JUDGE.begin(), [Event("run", "rollout.started", "deploy", {"group": "r-2"}, 0, 1)]
    for number, (share, old, new) in enumerate(ticks, 2):
        trial = trial.after(Tick(seconds=1, old=old, new=new))
        data: dict[str, Any] = {"group": "r-2", "share": share, **looked(trial)}
        events.append(Event("run", "rollout.looked", "deploy", data, number, number))
    return trial, events


def drawn(one: Judged) -> Element:
    found: Element = fromstring(picture(one))
    return found


def texts(root: Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text")]


def lines(root: Element, colour: str) -> list[list[tuple[float, float]]]:
    found = [element.get("points", "") for element in root.iter(f"{SVG}polyline") if element.get("stroke") == colour]
    return [[(float(x), float(y)) for x, y in (pair.split(",") for pair in points.split())] for points in found]


def test_what_the_judge_needed_is_crossed_in_the_picture_just_when_it_aborted() -> None:
    trial, events = told(*[(10, window(0, 1000), window(20, 100))] * 6)
    assert trial.advice is Advice.ABORT
    events.append(Event("run", "rollout.judged", "deploy", {"group": "r-2", "said": trial.said()}, 99, 99))
    (one,) = judged(events)
    root = drawn(one)
    assert trial.said().split(";")[0] in " ".join(texts(root))
    assert {"errors", "orders <given> up", "share of the new release"} <= set(texts(root))
    (worse, other) = lines(root, "#c62828")
    dashed = [line for line in root.iter(f"{SVG}line") if line.get("stroke-dasharray")]
    needed, beside = (float(line.get("y1", "")) for line in dashed if line.get("stroke") == "#c62828")
    assert worse[-1][1] < needed < worse[0][1]  # a higher value lies further up
    assert all(y > beside for _, y in other)


def test_a_picture_of_a_rollout_that_goes_on_says_so_and_shows_where_nothing_was_known() -> None:
    unknown = (10, None, window(0, 10))
    _, events = told((10, window(0, 100), window(0, 10)), unknown, unknown, (25, window(0, 100), window(0, 30)))
    (one,) = judged(events)
    root = drawn(one)
    assert "r-2: not decided yet" in texts(root)
    assert one.unknown == [(1.0, 2.0), (2.0, 3.0)]
    assert one.shares == [(0.0, 10), (3.0, 25)]
    assert len([one for one in root.iter(f"{SVG}rect") if one.get("fill") == "#d7dbe0"]) == 2 * 5


def test_rollouts_are_told_apart_also_of_one_release() -> None:
    _, events = told((10, window(0, 100), window(0, 10)))
    again = [event._replace(seq=event.seq + 100) for event in events]
    assert [one.group for one in judged([*events, *again])] == ["r-2", "r-2"]


def test_what_operators_did_is_told_and_what_the_judge_did_is_the_evidence_itself() -> None:
    _, events = told(*[(10, window(0, 100), window(0, 10))] * 3)
    for number, (kind, by, why) in enumerate(
        [("paused", "the judge", "inconclusive"), ("paused", "ben", ""), ("promoted", "anna", "all is <well>")], 100
    ):
        events.append(Event("run", f"rollout.{kind}", "deploy", {"group": "r-2", "by": by, "why": why}, number, number))
    (one,) = judged(events)
    assert one.orders == ["paused by ben at 3 s", "promoted by anna at 3 s: all is <well>"]
    assert set(one.orders) <= set(texts(drawn(one)))


def test_a_shadow_and_what_follows_it_are_drawn_below_each_other() -> None:
    _, events = told((10, window(0, 100), window(0, 10)))
    in_shadow = [event._replace(data={**event.data, "group": "r-2-shadow"}) for event in events[1:]]
    said = {"group": "r-2-shadow", "said": "promote after 1 s"}
    between = Event("run", "rollout.compared", "deploy", said, 50, 50)
    later = [event._replace(seq=event.seq + 100) for event in events[1:]]
    again = [event._replace(seq=event.seq + 200, run="another") for event in (events[0], *in_shadow)]
    found = judged([events[0], *in_shadow, between, *later, *again])
    assert [(one.run, one.group) for one in found] == [("run", "r-2-shadow"), ("run", "r-2"), ("another", "r-2-shadow")]
    root = fromstring(picture(*found[:2]))
    assert {"r-2-shadow: promote after 1 s", "r-2: not decided yet"} <= set(texts(root))
    each = [float(fromstring(picture(one)).get("height", "")) for one in found[:2]]
    assert float(root.get("height", "")) == sum(each)
    assert [part.get("transform") for part in root.iter(f"{SVG}g")] == ["translate(0,0)", f"translate(0,{each[0]:.0f})"]


WINDOWS = st.none() | st.tuples(st.integers(0, 5), st.booleans()).map(lambda one: window(one[0], 5 + one[0], known=one[1]))


@given(st.lists(st.tuples(st.integers(1, 99), WINDOWS, WINDOWS), min_size=1, max_size=200))
def test_whatever_was_seen_the_picture_is_sound_and_its_lines_stay_in_it(
    ticks: list[tuple[int, Window | None, Window | None]],
) -> None:
    (one,) = judged(told(*ticks)[1])
    root = drawn(one)
    wide, high = (float(root.get(name, "")) for name in ("width", "height"))
    for colour in ("#c62828", "#2e7d32", "#1f6feb", "#7a8290"):
        for points in lines(root, colour):
            assert all(0 <= x <= wide and 0 <= y <= high for x, y in points)
            assert all(a <= b for (a, _), (b, _) in pairwise(points))
    assert not re.search(r"nan|inf", picture(one).replace("inconclusive", ""))


def test_the_command_draws_the_last_rollout_of_the_journal_or_says_that_there_is_none(project: Project, capsys: Any) -> None:
    place = {"PIPELINE_HOME": str(project.home)}
    assert main(str(project.root), env=place) == 1
    assert "no judge has looked at a rollout" in capsys.readouterr().err
    journal = Journal(project.home / "journal.db")
    _, events = told((10, window(0, 100), window(0, 10)))
    journal.append(*events)
    journal.close()
    assert main(str(project.root), env=place) == 0
    assert "r-2: not decided yet" in texts(fromstring(capsys.readouterr().out))
    assert main("nowhere", env=place) == 2
    assert "nowhere" in capsys.readouterr().err
    assert main(str(project.root), "another", env=place) == 1
    assert "in run another" in capsys.readouterr().err
