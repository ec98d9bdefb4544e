"""Who may go on with a run: one process at a time, and none that another has taken over from."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.journal import Journal
from pipeline.lock import Lock


def is_at_work(journal: Journal, home: Path, run: str) -> bool:
    """Whether a process is at work on the run. Of another machine's nobody here can tell: it is until the journal has its end."""
    begun = journal.latest("", ("run.started", "run.resumed"), run=run)
    if begun is not None and begun.data.get("host", os.uname().nodename) != os.uname().nodename:
        ended = journal.latest("", ("run.finished",), run=run)
        return ended is None or ended.seq < begun.seq
    place = home / "runs" / f"{run}.lock"
    lock = Lock(place, shared=True)
    if not place.exists() or lock.try_take():
        lock.give_back()
        return False
    return True


def end_work(home: Path, run: str) -> bool:
    """Kill the process of this machine that is at work on the run; whether there was one. Returns when it is gone.

    Raises ConfigError where the system does not let this user: nobody takes over from people whose processes they may not end.
    """
    place = home / "runs" / f"{run}.lock"
    lock = Lock(place)
    found = False
    while place.exists() and not lock.try_take():
        for pid in _open_in(place):
            found = True
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            except PermissionError as error:
                raise ConfigError(
                    f"process {pid} is at work on run {run}, and is not yours to end",
                    right=f"its user, or root: {place.owner()}",
                ) from error
        time.sleep(0.02)  # until the system has taken the lock from it
    lock.give_back()
    return found


def _open_in(place: Path) -> list[int]:
    """The processes that have the file open, as far as the system tells this user; all of them where it is theirs."""
    found = []
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):  # of others, or gone meanwhile
            if descriptor.readlink() == place:
                found.append(int(descriptor.parts[2]))
    return [pid for pid in dict.fromkeys(found) if pid != os.getpid()]


class Lease:
    """A run as its own, while this process lives.

    On one machine a lock on a file tells whether anybody is at work on the run. Where it does not reach, a process that was
    stopped and wakes up again after another has resumed its run, or one on another machine, is fenced out by the journal: each
    time a run is resumed has a number, and the journal takes events of the latest only.
    """

    def __init__(self, journal: Journal, home: Path, run: str, number: int = 0) -> None:
        """`number`: how often the run had been resumed when it was looked at; if it was meanwhile, it is not this process's."""
        self.run, self._number = run, number
        self._journal = journal
        self._place = home / "runs" / f"{run}.lock"
        self._lock = Lock(self._place)

    def take(self) -> int:
        """How often the run had been resumed. Raises ConfigError when another process is at work on it."""
        if not self._lock.try_take():
            raise ConfigError(
                f"run {self.run} is going on: another process is at work on it",
                right="a run whose process has ended",
                next=f"wait until it has ended, or end it: fuser -k -INT {self._place}",
            )
        self._journal.fence(self.run, self._number)
        return self._number

    def end(self) -> None:
        """Nobody is at work on the run any more."""
        with contextlib.suppress(OSError):  # a disk that fails: what counts is the lock on the file
            self._place.unlink(missing_ok=True)
        self._lock.give_back()
