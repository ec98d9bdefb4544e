"""Answers: what they say, and in what they differ."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from stages.delivery.answer import Answer, Noise, differing

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def document(value: Any, status: int = 200) -> Answer:
    return Answer(status, "application/json; charset=utf-8", json.dumps(value).encode())


@given(VALUES)
def test_a_document_does_not_differ_from_itself_however_it_is_written(value: Any) -> None:
    other = Answer(200, "application/json", json.dumps(value, indent=3).encode())
    assert differing(document(value).facts(), other.facts()) == frozenset()


@given(st.dictionaries(st.text("abc", min_size=1), st.integers(), min_size=1), st.data())
def test_a_value_that_differs_is_found_in_its_place(value: dict[str, int], data: st.DataObject) -> None:
    place = data.draw(st.sampled_from(sorted(value)))
    other = {**value, place: value[place] + 1}
    assert differing(document({"in": [value]}).facts(), document({"in": [other]}).facts()) == {f"in[].{place}"}


def test_status_type_lines_and_bodies_are_places_too() -> None:
    one = Answer(200, "text/html", b"<p>a</p>\n<p>b</p>\n")
    assert differing(one.facts(), Answer(200, "text/html", b"<p>a</p>\n<p>c</p>\n<p>d</p>").facts()) == {"line 2", "line 3"}
    assert differing(one.facts(), Answer(404, "text/html", one.body).facts()) == {"status"}
    assert differing(Answer(200, "image/png", b"1").facts(), Answer(200, "image/png", b"2").facts()) == {"body"}
    assert differing(document([]).facts(), document({}).facts()) == {"body"}


def test_what_is_not_what_it_says_it_is_is_compared_as_a_whole() -> None:
    one, two = (Answer(200, "application/json", body) for body in (b"{", b"{ "))
    assert differing(one.facts(), one.facts()) == frozenset()
    assert differing(one.facts(), two.facts()) == {"body"}


def test_noise_and_what_people_ignore_says_nothing() -> None:
    noise = Noise(("items[].price", "line *"), {"at"})
    assert noise.without(frozenset(("at", "items[].price", "items[].name", "line 7", "status"))) == {"items[].name", "status"}


def test_no_answer_and_one_of_the_servers_fault_failed() -> None:
    assert [Answer(status).failed for status in (0, 200, 404, 499, 500, 503)] == [True, False, False, False, True, True]
