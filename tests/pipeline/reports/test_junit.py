"""A run as JUnit XML."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.history import RunHistory, StageHistory
from pipeline.reports.junit import junit, printable


def run(exit_code: int | None, **states: str) -> RunHistory:
    """A run whose stages are in these states."""
    stages = {name: StageHistory(name=name, state=state, error="broken", tail="words") for name, state in states.items()}
    return RunHistory(id="r", pipeline="thing", exit=exit_code, stages=stages)


def test_a_run_that_was_killed_is_not_green() -> None:
    root = ET.fromstring(junit(run(None, first="passed", second="running", third="waiting")))
    assert {case.get("name"): [part.tag for part in case] for case in root.iter("testcase")} == {
        "first": [],
        "second": ["error"],
        "third": ["error"],
    }
    assert "killed, or is still under way" in next(root.iter("error")).get("message", "")
    for element in (root, root[0]):
        assert [element.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["3", "0", "2", "0"]


def test_every_state_is_counted_once() -> None:
    states = {state: state for state in ("passed", "cached", "skipped", "failed", "blocked", "interrupted", "waiting", "running")}
    root = ET.fromstring(junit(run(1, **states)))
    assert [root.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["8", "1", "3", "2"]
    assert [len(list(root.iter(tag))) for tag in ("failure", "error", "skipped")] == [1, 3, 2]


@pytest.mark.parametrize("letter", ["\x00", "\x1b", "\ud800", "\ufffe", "\uffff"])
def test_letters_that_xml_cannot_hold_are_left_out(letter: str) -> None:
    assert printable(f"a{letter}b\t\u20ac\U0001f600") == "ab\t\u20ac\U0001f600"


@given(st.text(st.characters(codec=None)))
def test_whatever_a_stage_says_the_report_can_be_read(text: str) -> None:
    found = run(1, stage="failed")
    found.stages["stage"].tail = text
    ET.fromstring(junit(found).encode())
