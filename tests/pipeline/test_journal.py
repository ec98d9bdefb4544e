"""The journal: append-only, durable, shared, and never read wrongly."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sqlite3
from pathlib import Path

import pytest

from pipeline import Event, Journal
from pipeline.errors import JournalError


def test_events_come_back_in_order_with_what_was_written(journal: Journal) -> None:
    journal.append(Event(run="r", kind="a", stage="s", data={"x": [1, "é"]}), Event(run="q", kind="b"))
    journal.append(Event(run="r", kind="c"))
    assert [(event.kind, event.data) for event in journal.events("r")] == [("a", {"x": [1, "é"]}), ("c", {})]
    assert [event.seq for event in journal.events()] == [1, 2, 3]


@pytest.mark.parametrize("statement", ["update event set kind = 'x'", "delete from event"])
def test_nothing_recorded_can_be_changed_or_removed(journal: Journal, statement: str) -> None:
    journal.append(Event(run="r", kind="a"))
    other = sqlite3.connect(journal.path)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        other.execute(statement)
    other.close()


def test_events_of_one_transaction_are_all_there_or_none(journal: Journal) -> None:
    with pytest.raises(TypeError):
        journal.append(Event(run="r", kind="a"), Event(run="r", kind="b", data={"x": object()}))
    assert list(journal.events()) == []
    journal.append(Event(run="r", kind="c"))
    assert [event.kind for event in journal.events()] == ["c"]


def test_a_listener_hears_an_event_after_it_is_durable(journal: Journal) -> None:
    heard: list[tuple[str, int]] = []

    def listener(event: Event) -> None:
        other = Journal(journal.path)
        heard.append((event.kind, len(list(other.events()))))
        other.close()

    journal.listen(listener)
    journal.append(Event(run="r", kind="a"))
    assert heard == [("a", 1)]


def write(path: Path, writer: int) -> None:
    journal = Journal(path)
    for number in range(20):
        journal.append(Event(run=f"w{writer}", kind="k", data={"n": number}))
    journal.close()


def test_many_writers_at_once_lose_nothing_and_lock_nobody_out(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write, args=(path, writer)) for writer in range(8)]
    for process in writers:
        process.start()
    for process in writers:
        process.join()
    assert [process.exitcode for process in writers] == [0] * 8
    journal = Journal(path)
    for writer in range(8):
        assert [event.data["n"] for event in journal.events(f"w{writer}")] == list(range(20))
    journal.close()


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


def test_a_journal_that_is_not_there_has_no_events_and_is_not_made_by_reading(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    assert (journal.exists, journal.runs(), journal.last_records(), journal.finished("k")) == (False, [], {}, None)
    assert journal.latest("s", ("a",)) is None
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "journal.db").touch()  # another process is just making it
    assert journal.runs() == []
    journal.close()


def test_what_others_write_is_seen_by_who_only_reads(tmp_path: Path) -> None:
    reader, writer = Journal(tmp_path / "journal.db"), Journal(tmp_path / "journal.db")
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


def test_a_journal_from_before_keys_were_indexed_is_read_and_gets_its_index_when_written(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = Journal(path)
    journal.append(Event(run="r", kind="stage.finished", stage="s", data={"key": "k", "result": "a"}))
    journal.close()
    db = sqlite3.connect(path)
    db.execute("drop index event_key")
    db.close()
    journal = Journal(path)
    assert journal.finished("k") == {"key": "k", "result": "a"}
    journal.append(Event(run="r", kind="stage.finished", stage="s", data={"key": "k", "result": "b"}))
    assert journal.finished("k") == {"key": "k", "result": "b"}
    journal.close()
    db = sqlite3.connect(path)
    query = "explain query plan select data from event where kind = 'stage.finished' and json_extract(data, '$.key') = 'k'"
    assert "event_key" in str(db.execute(query).fetchall())
    db.close()


def test_a_full_disk_loses_nothing_that_was_recorded(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    journal.append(Event(run="r", kind="before"))
    db = journal._for_writing()
    pages = db.execute("pragma page_count").fetchone()[0]
    db.execute(f"pragma max_page_count={pages}")  # SQLite reports SQLITE_FULL, as it does for ENOSPC
    with pytest.raises(JournalError, match="the disk is full; what was recorded before is safe"):
        journal.append(Event(run="r", kind="big", data={"x": "y" * 100_000}))
    assert [event.kind for event in journal.events()] == ["before"]
    journal.close()


def test_a_journal_that_others_write_to_and_close_is_where_it_was(tmp_path: Path) -> None:
    journal, other = Journal(tmp_path / "journal.db"), Journal(tmp_path / "journal.db")
    journal.check()  # nothing was written, so nothing can be lost
    journal.append(Event(run="r", kind="a"))
    for number in range(3):
        other.append(*(Event(run="r", kind="b", data={"x": "y" * 10_000 * number}) for _ in range(20)))
        journal._for_writing().execute("pragma wal_checkpoint(restart)")  # as SQLite does of its own from time to time
        journal.append(Event(run="r", kind="c"))
        journal.check()
    other.close()
    journal.check()
    journal.close()
    journal = Journal(tmp_path / "journal.db")
    journal.append(Event(run="r", kind="d"))
    journal.check()
    journal.close()


def test_a_journal_that_was_lost_takes_no_more_events_and_begins_no_other_file(journal: Journal) -> None:
    journal.append(Event(run="r", kind="a"))
    journal.path.unlink()
    with pytest.raises(JournalError, match="was removed while it was in use"):
        journal.check()
    with pytest.raises(JournalError, match="was removed while it was in use"):
        journal.append(Event(run="r", kind="b"))
    assert not journal.exists


def test_what_a_killed_process_had_appended_is_there(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    child = os.fork()
    if child == 0:
        journal = Journal(path)
        journal.append(Event(run="r", kind="a"))
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    with contextlib.closing(Journal(path)) as journal:
        assert [event.kind for event in journal.events()] == ["a"]


def test_the_latest_record_and_duration_of_each_stage_are_known(journal: Journal) -> None:
    for key, seconds in (("k1", 1.0), ("k2", 2.0)):
        journal.append(Event(run="r", kind="stage.finished", stage="s", data={"key": key, "seconds": seconds}))
    journal.append(Event(run="r", kind="stage.finished", stage="effect", data={"key": None, "seconds": 3.0}))
    assert journal.last_records() == {"s": "k2", "effect": ""}
    assert journal.durations() == {"s": 2.0, "effect": 3.0}
