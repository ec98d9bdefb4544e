"""Results by key: seen at once, written together, shared by processes, and never wrong."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.digest import of_bytes
from pipeline.errors import StoreError
from pipeline.results import TOGETHER, Results

KEY = "0" * 64


@pytest.fixture
def results(tmp_path: Path) -> Iterator[Results]:
    made = Results(tmp_path / "results.db")
    yield made
    made.close()


def again(results: Results) -> Results:
    """As another process sees them."""
    return Results(results.path)


def test_what_is_kept_is_seen_at_once_and_by_others_when_it_is_written(results: Results) -> None:
    results.save(KEY, b"record")
    name = results.keep(b"text")
    assert (results.load(KEY), results.text(name)) == (b"record", b"text")
    assert not results.path.exists()
    results.flush()
    with contextlib.closing(again(results)) as other:
        assert (other.load(KEY), other.text(name)) == (b"record", b"text")


def test_more_keys_than_fit_in_one_question_are_found(results: Results) -> None:
    keys = [f"{number:064}" for number in range(2 * TOGETHER + 1)]
    names = [results.keep(key.encode()) for key in keys]
    for key in keys:
        results.save(key, key.encode())
    results.flush()
    with contextlib.closing(again(results)) as other:
        assert dict(other.load_all([*keys, "f" * 64])) == {key: key.encode() for key in keys}
        assert other.texts([*names, "f" * 64]) == {name: key.encode() for name, key in zip(names, keys, strict=True)}


def test_what_is_forgotten_is_gone_for_everybody(results: Results) -> None:
    results.save(KEY, b"record")
    results.flush()
    results.forget(KEY)
    assert results.load(KEY) is None
    results.flush()
    with contextlib.closing(again(results)) as other:
        assert other.load(KEY) is None


def test_what_could_not_be_written_is_written_the_next_time(results: Results) -> None:
    results.save(KEY, b"record")
    results.flush()
    db = results._database.for_writing()
    db.execute(f"pragma max_page_count={db.execute('pragma page_count').fetchone()[0]}")  # what SQLite says on a full disk
    name = results.keep(os.urandom(50_000))
    with pytest.raises(StoreError, match="the disk is full"):
        results.flush()
    db.execute("pragma max_page_count=1000000")
    results.flush()
    with contextlib.closing(again(results)) as other:
        assert other.text(name) is not None


def test_a_run_that_found_everything_is_remembered_until_anything_is_written(results: Results) -> None:
    assert results.settled("print") is None
    results.settle("print", "r1", {"b", "a"})
    with contextlib.closing(again(results)) as other:
        assert other.settled("print") == ("r1", ["a", "b"])
        assert other.settled("another") is None
        other.save(KEY, b"record")
        other.flush()
    assert results.settled("print") is None
    results.settle("print", "r2", ())
    assert results.settled("print") == ("r2", [])
    results.drop_text("f" * 64)
    assert results.settled("print") is None


def test_a_file_of_a_newer_version_is_refused(results: Results) -> None:
    with contextlib.closing(sqlite3.connect(results.path)) as db:
        db.execute("pragma user_version=9")
    with pytest.raises(StoreError, match=r"newer version \(format 9\)"):
        results.load(KEY)


def test_a_file_that_is_no_database_says_how_to_begin_anew(results: Results) -> None:
    results.path.write_bytes(b"not a database" * 100)
    for ask in (lambda: results.load(KEY), lambda: results.settled("p"), lambda: results.settle("p", "r", ())):
        with pytest.raises(StoreError, match=rf"the results cannot be used(.|\n)*rm -f {results.path}"):
            ask()


def write(path: Path, writer: int) -> None:
    results = Results(path)
    for number in range(20):
        results.save(of_bytes(f"{writer} {number}".encode()), str(number).encode())
        results.flush()


def test_many_processes_write_at_once_and_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "results.db"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write, args=(path, writer)) for writer in range(8)]
    for process in writers:
        process.start()
    for process in writers:
        process.join()
    assert [process.exitcode for process in writers] == [0] * 8
    keys = [of_bytes(f"{writer} {number}".encode()) for writer in range(8) for number in range(20)]
    with contextlib.closing(Results(path)) as results:
        assert len(dict(results.load_all(keys))) == 160


def test_what_another_process_keeps_after_the_first_look_is_only_made_once_more(results: Results) -> None:
    results.save(KEY, b"record")
    results.flush()
    assert results.load("1" * 64) is None
    with contextlib.closing(again(results)) as other:
        other.save("1" * 64, b"theirs")
        other.flush()
    assert results.load("1" * 64) is None
    results.save("1" * 64, b"ours")
    results.flush()
    assert results.load("1" * 64) == b"ours"


@given(place=st.integers(min_value=0, max_value=2**20), bit=st.integers(min_value=0, max_value=7))
@settings(max_examples=60)
def test_a_flipped_bit_anywhere_in_the_file_is_an_error_that_says_what_to_do_or_a_miss(place: int, bit: int) -> None:
    with tempfile.TemporaryDirectory() as directory, contextlib.closing(Results(Path(directory) / "results.db")) as results:
        names = {results.keep(text): text for text in (b"one", b"two")}
        results.save(KEY, b"record")
        results.flush()
        results.close()
        data = bytearray(results.path.read_bytes())
        written = [number for number, byte in enumerate(data) if byte]
        data[written[place % len(written)]] ^= 1 << bit
        results.path.write_bytes(data)
        with contextlib.closing(again(results)) as other:
            try:
                found = other.texts(names)
                assert all(type(text) is bytes for text in found.values())
                assert type(other.load(KEY)) in (bytes, type(None))
                other.everything()
            except StoreError as error:
                assert error.next  # noqa: PT017 - that there is none is as good


@pytest.mark.parametrize(
    ("name", "words"), [("SQLITE_IOERR_FSYNC", "df -h"), ("SQLITE_FULL", "df -h"), ("SQLITE_CORRUPT", "rm -f")]
)
def test_nobody_is_told_to_remove_what_only_the_disk_keeps_from_being_read(tmp_path: Path, name: str, words: str) -> None:
    error = sqlite3.OperationalError({"SQLITE_FULL": "database or disk is full"}.get(name, "disk I/O error"))
    error.sqlite_errorname = name
    results = Results(tmp_path / "results.db")
    assert words in results._broken(error).next
