"""The lock between machines."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

import anyio
import pytest

from pipeline.errors import JournalError
from pipeline.postgres import Database
from pipeline.shared_lock import SharedLock
from tests.postgres import Server, wire

MakeLock = Callable[..., SharedLock]


@pytest.fixture
def lock(postgres: Server) -> Iterator[MakeLock]:
    """Makes locks, each as of another process."""
    with contextlib.ExitStack() as stack:

        def made(pipeline: str = "thing", address: str = "") -> SharedLock:
            found = SharedLock(Database(address or postgres.address, pipeline), "effects")
            stack.callback(found.give_back)
            return found

        yield made


def test_a_lock_has_one_holder_until_it_is_given_back(lock: MakeLock) -> None:
    one, other = lock(), lock()
    assert (one.try_take(), one.try_take()) == (True, True)
    assert (other.try_take(), other.held) == (False, False)
    one.give_back()
    one.give_back()
    assert (one.held, other.try_take(), other.held) == (False, True, True)
    other.check()


def test_pipelines_do_not_wait_for_each_other(lock: MakeLock) -> None:
    assert lock("one").try_take()
    assert lock("other").try_take()


def test_who_waits_for_a_lock_is_told_once_and_gets_it(lock: MakeLock, monkeypatch: pytest.MonkeyPatch) -> None:
    holder, waiter = lock(), lock()
    tries, told = list[bool](), list[str]()
    try_take = waiter.try_take

    def counting() -> bool:
        if len(tries) == 2:
            holder.give_back()
        tries.append(try_take())
        return tries[-1]

    monkeypatch.setattr(waiter, "try_take", counting)
    assert holder.try_take()
    anyio.run(waiter.take, lambda: told.append("waiting"))
    assert (tries, told, waiter.held) == ([False, False, True], ["waiting"], True)


def test_a_lock_is_free_when_its_holder_is_killed(postgres: Server, lock: MakeLock) -> None:
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(theirs, b"held" if lock().try_take() else b"not!")
        signal.pause()
    assert os.read(ours, 4) == b"held"
    other = lock()
    assert not other.try_take()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while not other.try_take():  # the server notices when the connection is closed
        pass
    os.close(ours)
    os.close(theirs)


def test_a_lock_whose_session_was_lost_is_not_held_and_that_is_told_from_then_on(postgres: Server, lock: MakeLock) -> None:
    one, other = lock(), lock()
    assert one.try_take()
    one.check()
    postgres.end_sessions()
    assert other.try_take()
    for _ in range(2):
        with pytest.raises(JournalError, match="another run may have begun some: terminating connection"):
            one.check()
        assert not one.held
    other.give_back()
    assert one.try_take()
    with pytest.raises(JournalError, match="was lost"):
        one.check()


def test_a_lock_on_a_server_that_does_not_answer_is_an_error_and_not_held(postgres: Server, lock: MakeLock) -> None:
    with wire(postgres) as line:
        waiting = lock(address=line.address)
        line.dead = True
        with pytest.raises(JournalError, match="the server does not answer"):
            waiting.try_take()
        assert not waiting.held
