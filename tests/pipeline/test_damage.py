"""Rows of the journal that are not what was written: each is said with the event it was, and the rest stays readable."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pipeline import Event, Journal
from pipeline.damage import LATEST, Damaged
from pipeline.history import RunHistory, one
from tests.pipeline.cli.test_cli import Place, place

__all__ = ["place"]


def change(path: Path, column: str, value: object, where: str) -> None:
    """As a disk would: no trigger is asked."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("drop trigger event_no_update")
        db.execute(f"update event set {column} = ? where {where}", [value])


def written(path: Path, *events: Event) -> Path:
    with closing(Journal(path)) as journal:
        journal.append(*events)
    return path


def read(path: Path) -> RunHistory | None:
    with closing(Journal(path)) as journal:
        return one(journal, "r")


STARTED = Event(run="r", kind="run.started", data={"pipeline": "p", "engine": "host"})
PLANNED = Event(run="r", kind="run.planned", data={"stages": [{"name": "unit", "inputs": [], "reason": ""}]})
CACHED = Event(run="r", kind="stage.cached", data={"stages": [["unit", "k", "result", "r", "", "", ""]]})


@pytest.mark.parametrize(
    ("kind", "data", "why"),
    [
        ("run.started", '{pipeline":"p"}', "JSONDecodeError"),
        ("run.started", "", "does not begin as JSON does"),
        ("run.started", "7", "TypeError"),
        ("run.started", '{"pipeline":"p","enghne":"host"}', "it has no 'engine'"),
        ("run.planned", '{"stages":[{"oame":"unit"}]}', "KeyError: 'name'"),
        ("run.planned", '{"stages":7}', "TypeError"),
        ("stage.cached", '{"stages":[["unit"]]}', "TypeError"),
    ],
)
def test_an_event_that_is_not_what_was_written_is_named(tmp_path: Path, kind: str, data: str, why: str) -> None:
    path = written(tmp_path / "journal.db", STARTED, PLANNED, CACHED)
    assert read(path) is not None
    change(path, "data", data, f"kind = '{kind}'")
    with pytest.raises(Damaged, match=why) as caught:
        read(path)
    assert f"'{kind}' in run 'r', was damaged" in str(caught.value)
    assert (caught.value.where, bool(caught.value.right), bool(caught.value.next)) == (str(path), True, True)


@pytest.mark.parametrize("at", [LATEST, -1.0, float("inf")])
def test_an_event_at_no_time_is_damaged(tmp_path: Path, at: float) -> None:
    path = written(tmp_path / "journal.db", STARTED)
    change(path, "at", at, "kind = 'run.started'")
    with pytest.raises(Damaged, match="is no time"):
        read(path)


def test_a_row_that_is_no_text_is_said_to_be_damage_and_not_a_lock(place: Place) -> None:
    assert place("run").code == 0
    change(place.root / ".pipeline" / "journal.db", "data", b"", "0")
    with closing(sqlite3.connect(place.root / ".pipeline" / "journal.db")) as db, db:
        db.execute("update event set data = cast(x'7bff7d' as text) where kind = 'run.started'")
    done = place("runs")
    assert (done.code, "internal error" in done.err, "fuser" in done.err) == (2, False, False)
    assert "what runs wrote, as a copy of it if there is one" in done.err


def test_runs_that_can_be_read_are_listed_beside_one_that_cannot(place: Place) -> None:
    place("run")
    place.write("n", "10")
    place("run")
    (first, second) = (line.split()[0] for line in place("runs").out.splitlines())
    change(place.root / ".pipeline" / "journal.db", "data", "{", f"kind = 'run.finished' and run = '{first}'")
    done = place("runs")
    assert (done.code, [line.split()[0] for line in done.out.splitlines()]) == (2, [second])
    assert f"'run.finished' in run '{first}', was damaged" in done.err
    assert place("report", "--run", second).code == place("logs", "--run", second).code == 0
    for words in (("report", "--run", first), ("logs", "--run", first), ("diff", first), ("resume", first)):
        done = place(*words)
        assert (done.code, done.err.count("was damaged"), "internal error" in done.err) == (2, 1, False)


@pytest.mark.parametrize("text", ["{", '{"stages": 1}'])
def test_a_damaged_run_keeps_nobody_from_hearing_of_a_name_that_is_misspelt(place: Place, text: str) -> None:
    place("run")
    (first,) = (line.split()[0] for line in place("runs").out.splitlines())
    place.write("n", "10")
    place("run")
    change(place.root / ".pipeline" / "journal.db", "data", text, f"kind = 'run.planned' and run = '{first}'")
    assert "expected: did you mean 'half'?" in place("logs", "hlaf").err


def test_a_file_among_the_logs_that_no_stage_wrote_is_none_of_them(place: Place) -> None:
    place("run")
    (run,) = (line.split()[0] for line in place("runs").out.splitlines())
    before = place("logs", "half")
    directory = place.root / ".pipeline" / "logs" / run / "half"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "copy.log").write_text("a copy\n")
    assert place("logs", "half") == before
    assert before.code == 0
