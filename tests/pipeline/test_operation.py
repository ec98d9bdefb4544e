"""What stands of a stage's effects, and what was half undone: folds of the events about them."""

from __future__ import annotations

import pytest

from pipeline.journal import Event
from pipeline.leftover import Leftover
from pipeline.operation import half_undone, standing


def said(kind: str, about: str = "b", **data: object) -> Event:
    return Event(run="r", kind=kind, data={"about": about, **data})


VERIFIED = [said("effect.done", "a", result="1"), said("effect.stands", "a")]
A = Leftover(run="r", about="a", result="1")
B = said("effect.done", result="2")


def test_what_was_refused_for_now_leaves_standing_what_stood_before() -> None:
    refused = said("undo.failed", later=True)
    assert standing([*VERIFIED, B, refused]) == A
    assert standing([*VERIFIED, B, refused, said("undo.done")]) == A
    assert standing([*VERIFIED, B, said("undo.failed")]) == Leftover(run="r", about="b", result="2")


def test_an_undo_is_half_done_until_it_comes_to_an_end() -> None:
    begun = said("undo.intended")
    assert half_undone([begun], "b")
    assert half_undone([begun, said("undo.failed", half=True)], "b")
    assert half_undone([begun, begun, said("undo.failed")], "b")
    assert not half_undone([begun, said("undo.failed")], "b")


@pytest.mark.parametrize("end", ["undo.done", "effect.failed", "effect.done"])
def test_an_undo_that_somebody_else_has_ended_is_not_half_done(end: str) -> None:
    assert not half_undone([said("undo.intended"), said(end)], "b")


def test_an_undo_stays_half_done_when_the_effect_was_not_brought_about_anew() -> None:
    begun, anew, failed = said("undo.intended"), said("effect.intended"), said("effect.failed")
    assert half_undone([begun, anew, failed], "b")
    assert not half_undone([begun, anew, failed, failed], "b")
    assert not half_undone([begun, anew, said("effect.done")], "b")


def test_an_undo_of_one_effect_is_not_half_done_of_another() -> None:
    assert not half_undone([said("undo.intended")], "a")
