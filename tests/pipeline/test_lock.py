"""The lock between processes."""

from __future__ import annotations

import fcntl
from pathlib import Path

import anyio
import pytest

from pipeline import StoreError
from pipeline.lock import Lock


def test_a_lock_has_one_holder_until_it_is_given_back(tmp_path: Path) -> None:
    one, other = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    assert one.try_take()
    assert (other.try_take(), other.held) == (False, False)
    one.give_back()
    one.give_back()
    assert (one.held, other.try_take()) == (False, True)
    other.give_back()


def test_who_waits_for_a_lock_is_told_once_and_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    holder, waiter = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    tries: list[int] = []
    real = fcntl.flock

    def flock(file: int, how: int) -> None:
        tries.append(how)
        if len(tries) == 4:
            holder.give_back()
        real(file, how)

    assert holder.try_take()
    monkeypatch.setattr(fcntl, "flock", flock)
    told: list[str] = []
    anyio.run(waiter.take, lambda: told.append("waiting"))
    assert (waiter.held, len(tries), told) == (True, 4, ["waiting"])
    waiter.give_back()


def test_a_lock_whose_file_cannot_be_written_is_an_error_and_not_held(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    lock = Lock(tmp_path / "file" / "lock")
    with pytest.raises(StoreError, match=r"exists|Not a directory"):
        lock.try_take()
    assert not lock.held


def test_a_lock_makes_the_directory_it_lies_in(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "none" / "yet" / "lock")
    assert lock.try_take()
    lock.give_back()
