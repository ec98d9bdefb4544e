"""The journal: append-only, durable, shared, and never read wrongly."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import Event, Journal
from pipeline.database import Database
from pipeline.errors import JournalError
from pipeline.formats import SQLITE, scripts
from pipeline.history import fold
from pipeline.journal import Cached, _row
from pipeline.journal_file import JournalFile
from pipeline.journal_server import JournalServer
from pipeline.rows import ADDED, Rows

Place = Callable[[], Rows]
"""Opens the place of the test's journal, each time anew."""


@pytest.fixture(params=["file", "server"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """In a file, and then in PostgreSQL."""
    if request.param == "file":
        return partial(JournalFile, tmp_path / "journal.db")
    return partial(JournalServer, request.getfixturevalue("postgres").address, str(tmp_path))


@pytest.fixture
def journal(place: Place) -> Iterator[Journal]:
    with contextlib.closing(Journal(place())) as found:
        yield found


def test_events_come_back_in_order_with_what_was_written(journal: Journal) -> None:
    journal.append(Event(run="r", kind="a", stage="s", data={"x": [1, "é"]}), Event(run="q", kind="b"))
    journal.append(Event(run="r", kind="c"))
    assert [(event.kind, event.data) for event in journal.events("r")] == [("a", {"x": [1, "é"]}), ("c", {})]
    assert [event.seq for event in journal.events()] == [1, 2, 3]


texts = st.text() | st.text(st.characters(max_codepoint=0xDBFF))  # the last of them stand for bytes that are no UTF-8
plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
nested = st.recursive(plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=20)


@given(st.dictionaries(texts, plain) | st.dictionaries(texts, nested))
def test_any_data_is_read_back_as_it_was_from_one_line_of_ascii(data: dict[str, Any]) -> None:
    row = _row(Event(run="r", kind="a", data=data))
    text = row.long or row.columns[ADDED.index("data")]
    assert json.loads(text) == data
    assert text.isascii()
    assert "\n" not in text


@pytest.mark.parametrize("value", [object(), b"bytes", {1, 2}, {(1, 2): 3}, Path("x")])
def test_data_that_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        _row(Event(run="r", kind="a", data={"it": value}))


@pytest.mark.parametrize("statement", ["update event set kind = 'x'", "delete from event", "delete from text"])
def test_nothing_recorded_can_be_changed_or_removed(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "journal.db"
    with contextlib.closing(Journal(path)) as journal:
        journal.append(Event(run="r", kind="a", data={"x": "y" * 10_000}))
    with contextlib.closing(sqlite3.connect(path)) as other, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        other.execute(statement)


def test_events_of_one_transaction_are_all_there_or_none(journal: Journal) -> None:
    with pytest.raises(TypeError):
        journal.append(Event(run="r", kind="a"), Event(run="r", kind="b", data={"x": object()}))
    assert list(journal.events()) == []
    journal.append(Event(run="r", kind="c"))
    assert [event.kind for event in journal.events()] == ["c"]


def test_a_listener_hears_an_event_after_it_is_durable(journal: Journal, place: Place) -> None:
    heard: list[tuple[str, int]] = []

    def listener(event: Event) -> None:
        other = Journal(place())
        heard.append((event.kind, len(list(other.events()))))
        other.close()

    journal.listen(listener)
    journal.append(Event(run="r", kind="a"))
    assert heard == [("a", 1)]


def write(place: Place, writer: int) -> None:
    journal = Journal(place())
    for number in range(20):
        journal.append(Event(run=f"w{writer}", kind="k", data={"n": number}))
    journal.close()


def test_many_writers_at_once_lose_nothing_and_lock_nobody_out(place: Place, journal: Journal) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write, args=(place, writer)) for writer in range(8)]
    for process in writers:
        process.start()
    for process in writers:
        process.join()
    assert [process.exitcode for process in writers] == [0] * 8
    for writer in range(8):
        assert [event.data["n"] for event in journal.events(f"w{writer}")] == list(range(20))
    assert [event.seq for event in journal.events()] == list(range(1, 161))


def test_a_journal_of_a_newer_version_is_a_clear_error(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "journal.db")
    db.execute("pragma user_version=99")
    db.close()
    with pytest.raises(JournalError, match=r"newer version \(format 99\)"):
        Journal(tmp_path / "journal.db").runs()
    with pytest.raises(JournalError, match=r"newer version \(format 99\)"):
        Journal(tmp_path / "journal.db").append(Event(run="r", kind="a"))


def test_a_file_that_is_no_journal_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "journal.db").write_bytes(b"not a database" * 100)
    with pytest.raises(JournalError, match="cannot be used: file is not a database"):
        Journal(tmp_path / "journal.db").runs()


def test_a_journal_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "missing" / "journal.db")
    for _ in range(2):
        with pytest.raises(JournalError, match="cannot be written: unable to open"):
            journal.append(Event(run="r", kind="a"))


def test_a_journal_that_is_not_there_has_no_events_and_is_not_made_by_reading(journal: Journal, tmp_path: Path) -> None:
    for _ in range(2):
        assert (journal.exists, journal.runs(), journal.last_keys()("s"), journal.made(["k"])) == (False, [], None, {})
        assert journal.latest("s", ("a",)) is None
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_another_process_is_just_making_has_no_events(tmp_path: Path) -> None:
    (tmp_path / "journal.db").touch()
    with contextlib.closing(Journal(tmp_path / "journal.db")) as journal:
        assert journal.runs() == []


def test_what_others_write_is_seen_by_who_only_reads(place: Place) -> None:
    reader, writer = Journal(place()), Journal(place())
    assert list(reader.events()) == []
    writer.append(Event(run="r", kind="a"))
    assert [event.kind for event in reader.events()] == ["a"]
    writer.append(Event(run="r", kind="b"))
    assert [event.kind for event in reader.events()] == ["a", "b"]
    writer.close()
    assert [event.kind for event in reader.events()] == ["a", "b"]
    reader.append(Event(run="r", kind="c"))
    assert [event.kind for event in reader.events()] == ["a", "b", "c"]
    reader.close()


def test_a_journal_nobody_may_look_at_is_not_taken_for_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(Path, "stat", refused)
    with pytest.raises(JournalError, match="cannot be read: Permission denied"):
        Journal(tmp_path / "journal.db").runs()


def refuse(version: int) -> JournalError:
    return JournalError(f"format {version}")


def test_a_journal_of_the_first_format_is_read_and_keeps_what_it_had(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    finished = {"key": "k", "result": "a", "seconds": 2.0, "summary": "", "concern": ""}
    cached = {"key": "k", "result": "a", "reason": "same", "made_in": "r", "summary": ""}
    planned = [{"name": "s", "inputs": [], "reason": "", "type": "S", "decision": "run"}]
    old = [
        ("r", "run.started", "", {"pipeline": "p", "engine": "host", "stages": planned}),
        ("r", "stage.finished", "s", finished),
        ("q", "stage.cached", "s", cached),
    ]
    with contextlib.closing(
        Database(path, scripts(SQLITE)[:1], synchronous="full", newer=refuse, unreadable=JournalError)
    ) as first:
        for run, kind, stage, data in old:
            row = (run, kind, stage, json.dumps(data))
            first.for_writing().execute("insert into event (run, at, kind, stage, data) values (?, 1, ?, ?, ?)", row)
    with contextlib.closing(Journal(path)) as journal:
        assert journal.made(["k"]) == {"k": "a"}
        assert journal.last_keys()("s") == "k"
        assert [(event.run, event.kind, event.stage, event.data) for event in journal.events()] == old
        runs = fold(journal.events())
        assert (runs["r"].stages["s"].state, runs["q"].stages["s"].state) == ("passed", "cached")
        journal.append(Event(run="z", kind="a"))
        assert [event.seq for event in journal.events()] == [1, 2, 3, 4]
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("pragma user_version").fetchone() == (2,)
        plan = db.execute("explain query plan select key, made from event where key in ('k') order by seq").fetchall()
        assert "event_key" in str(plan)
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            db.execute("update event set run = 'x'")


def test_a_full_disk_loses_nothing_that_was_recorded(tmp_path: Path) -> None:
    place = JournalFile(tmp_path / "journal.db")
    journal = Journal(place)
    journal.append(Event(run="r", kind="before"))
    db = place.database.for_writing()
    pages = db.execute("pragma page_count").fetchone()[0]
    db.execute(f"pragma max_page_count={pages}")  # SQLite reports SQLITE_FULL, as it does for ENOSPC
    with pytest.raises(JournalError, match="the disk is full; what was recorded before is safe"):
        journal.append(Event(run="r", kind="big", data={"x": "y" * 100_000}))
    assert [event.kind for event in journal.events()] == ["before"]
    journal.close()


def test_a_journal_that_others_write_to_and_close_is_where_it_was(tmp_path: Path) -> None:
    place = JournalFile(tmp_path / "journal.db")
    journal, other = Journal(place), Journal(tmp_path / "journal.db")
    journal.check()  # nothing was written, so nothing can be lost
    journal.append(Event(run="r", kind="a"))
    for number in range(3):
        other.append(*(Event(run="r", kind="b", data={"x": "y" * 10_000 * number}) for _ in range(20)))
        place.database.for_writing().execute("pragma wal_checkpoint(restart)")  # as SQLite does of its own from time to time
        journal.append(Event(run="r", kind="c"))
        journal.check()
    other.close()
    journal.check()
    journal.close()
    journal = Journal(tmp_path / "journal.db")
    journal.append(Event(run="r", kind="d"))
    journal.check()
    journal.close()


def test_a_journal_that_was_lost_takes_no_more_events_and_begins_no_other_file(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    journal.append(Event(run="r", kind="a"))
    (tmp_path / "journal.db").unlink()
    with pytest.raises(JournalError, match="was removed while it was in use"):
        journal.check()
    with pytest.raises(JournalError, match="was removed while it was in use"):
        journal.append(Event(run="r", kind="b"))
    assert not journal.exists
    journal.close()


def test_what_a_killed_process_had_appended_is_there(place: Place) -> None:
    child = os.fork()
    if child == 0:
        journal = Journal(place())
        journal.append(Event(run="r", kind="a"))
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    with contextlib.closing(Journal(place())) as journal:
        assert [event.kind for event in journal.events()] == ["a"]


def test_the_latest_record_and_duration_of_each_stage_are_known(journal: Journal) -> None:
    for key, seconds in (("k1", 1.0), ("k2", 2.0)):
        journal.append(Event(run="r", kind="stage.finished", stage="s", data={"key": key, "result": "a", "seconds": seconds}))
    journal.append(Event(run="r", kind="stage.finished", stage="effect", data={"key": None, "result": "b", "seconds": 3.0}))
    assert [journal.last_keys()(name) for name in ("s", "effect", "other")] == ["k2", "", None]
    assert journal.durations(["s", "effect", "other"]) == {"s": 2.0, "effect": 3.0}


def test_what_is_noted_waits_for_the_next_append_and_keeps_its_place(journal: Journal) -> None:
    told = list[str]()
    journal.listen(lambda event: told.append(event.kind))
    journal.note(Event(run="r", kind="a"))
    journal.note(Event(run="r", kind="b"))
    assert (journal.exists, told) == (False, [])
    journal.append(Event(run="r", kind="c"))
    journal.note(Event(run="r", kind="d"))
    journal.flush()
    journal.flush()
    assert [event.kind for event in journal.events()] == told == ["a", "b", "c", "d"]


def test_what_was_noted_is_not_lost_with_an_append_that_fails(tmp_path: Path) -> None:
    place = JournalFile(tmp_path / "journal.db")
    journal = Journal(place)
    journal.append(Event(run="r", kind="before"))
    journal.note(Event(run="r", kind="noted"))
    db = place.database.for_writing()
    db.execute(f"pragma max_page_count={db.execute('pragma page_count').fetchone()[0]}")
    with pytest.raises(JournalError, match="the disk is full"):
        journal.append(Event(run="r", kind="big", data={"x": "y" * 100_000}))
    db.execute("pragma max_page_count=1000000")
    journal.append(Event(run="r", kind="after"))
    assert [event.kind for event in journal.events()] == ["before", "noted", "after"]
    journal.close()


def test_what_has_to_be_there_before_events_is_written_before_them(journal: Journal) -> None:
    seen = list[int]()
    journal.follow(lambda: seen.append(len(list(journal.events()))))
    journal.note(Event(run="r", kind="a"))
    journal.append(Event(run="r", kind="b"))
    journal.append(Event(run="r", kind="c"))
    assert seen == [0, 2]


def test_threads_that_append_at_once_are_written_together_each_whole_and_in_its_order(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = list[int]()
    write = journal._write

    def counting(rows: Any, batch: str) -> list[Event]:
        batches.append(len(rows))
        return write(rows, batch)

    monkeypatch.setattr(journal, "_write", counting)

    def appends(thread: int) -> None:
        for number in range(50):
            journal.append(Event(run=f"t{thread}", kind="k", data={"n": number}), Event(run=f"t{thread}", kind="l"))

    threads = [threading.Thread(target=appends, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(8):
        found = [event.data["n"] for event in journal.events(f"t{number}", kind="k")]
        assert found == list(range(50))
    assert sum(batches) == 800
    assert max(batches) > 2  # somebody was written along with another


def test_an_error_reaches_everybody_who_waited_for_what_was_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "journal.db")
    inside, go_on = threading.Event(), threading.Event()

    def fails(*_: Any) -> list[Event]:
        inside.set()
        go_on.wait(30)
        raise JournalError("broken")

    monkeypatch.setattr(journal, "_write", fails)
    failed = list[str]()

    def appends() -> None:
        try:
            journal.append(Event(run="r", kind="a"))
        except JournalError as error:
            failed.append(error.what)

    threads = [threading.Thread(target=appends) for _ in range(3)]
    threads[0].start()
    inside.wait(30)
    for thread in threads[1:]:
        thread.start()
    while len(journal._queue) < 2:
        threads[1].join(0.001)
    go_on.set()
    for thread in threads:
        thread.join()
    assert failed == ["broken"] * 3


def test_what_is_long_is_written_once_however_often_it_is_said(journal: Journal) -> None:
    long = {"x": "y" * 10_000}
    for run in ("a", "b", "c"):
        journal.append(Event(run=run, kind="k", data=long))
    assert [event.data for event in journal.events()] == [long] * 3
    assert journal.rows.select("select count(*) from text", []) == [(1,)]


def test_several_cached_stages_are_one_event_and_read_as_one_each(journal: Journal) -> None:
    rows = [Cached(name, f"k-{name}", "a", "r0", "", "", "same") for name in "xyz"]
    journal.append(Event(run="r", kind="stage.cached", data={"stages": rows}), Event(run="r", kind="other", stage="x"))
    about = {"key": "k-y", "result": "a", "made_in": "r0", "summary": "", "concern": "", "reason": "same"}
    assert [(event.stage, event.data) for event in journal.events(stage="y")] == [("y", about)]
    assert [event.stage for event in journal.events(kind="stage.cached")] == ["x", "y", "z"]
    assert [event.kind for event in journal.events(stage="x")] == ["stage.cached", "other"]
    assert [event.stage for event in journal.events(kind=("other", "stage.cached"), stage="x")] == ["x", "x"]
    latest = journal.latest("z", ("stage.finished", "stage.cached"), run="r")
    assert latest is not None
    assert latest.data["key"] == "k-z"
    assert journal.latest("z", ("stage.cached",), run="other") is None
    finished = {"key": "k2", "result": "b", "seconds": 1.0}
    journal.append(Event(run="s", kind="stage.finished", stage="z", data=finished))
    latest = journal.latest("z", ("stage.finished", "stage.cached"))
    assert latest is not None
    assert latest.data == finished


def test_a_run_is_repeated_under_another_name_with_what_it_found_settled(journal: Journal) -> None:
    rows = [Cached("x", "k", "a", "r0", "", "", "same")]
    journal.append(
        Event(run="r", kind="run.started", data={"pipeline": "p", "engine": "host"}),
        Event(run="r", kind="run.planned", data={"stages": [{"name": "x", "inputs": [], "reason": ""}]}),
        Event(run="r", kind="stage.skipped", stage="s", data={"reason": "no"}),
        Event(run="r", kind="stage.cached", data={"stages": rows}),
        Event(run="r", kind="run.finished", data={"exit": 0, "failed": []}),
    )
    journal.repeat(
        Event(run="q", kind="run.started", data={"pipeline": "p", "engine": "host"}),
        "r",
        Event(run="q", kind="run.finished", data={"exit": 0, "failed": []}),
    )
    assert [(e.kind, e.stage, e.data) for e in journal.events("q")] == [(e.kind, e.stage, e.data) for e in journal.events("r")]
    assert [event.kind for event in journal.settled_together("q")] == ["stage.skipped", "stage.cached"]
    assert journal.runs() == ["r", "q"]


def test_a_process_whose_run_was_resumed_elsewhere_writes_nothing_more(place: Place) -> None:
    old, new = Journal(place()), Journal(place())
    old.fence("r", 0)
    old.append(Event(run="r", kind="run.started"))
    new.fence("r", 0)
    new.append(Event(run="r", kind="run.resumed", data={"number": 1}))
    new.fence("r", 1)
    old.note(Event(run="r", kind="noted"))
    with pytest.raises(JournalError, match="run r goes on elsewhere"):
        old.append(Event(run="r", kind="late"))
    assert old.taken_over
    with pytest.raises(JournalError, match="run r goes on elsewhere"):  # and of two that resume at once the second
        old.append(Event(run="r", kind="run.resumed", data={"number": 1}))
    new.append(Event(run="r", kind="on"))
    assert [event.kind for event in new.events("r")] == ["run.started", "run.resumed", "on"]
    old.close()
    new.close()


@pytest.mark.parametrize("left", [0, 20_000])
def test_a_journal_whose_newest_events_were_cut_off_takes_no_more(tmp_path: Path, left: int) -> None:
    """They lie in the file beside it, and SQLite would go on behind the gap."""
    journal = Journal(tmp_path / "journal.db")
    journal.append(Event(run="r", kind="run.started", data={"text": "x" * 40_000}))
    waiting = Path(f"{journal.where}-wal")
    assert waiting.stat().st_size > 20_000
    os.truncate(waiting, left)
    with pytest.raises(JournalError, match=r"journal\.db-wal was truncated while it was in use"):
        journal.append(Event(run="r", kind="run.finished", data={"exit": 0, "failed": []}))
