"""The journal: the append-only record of what happened. Every report is a fold over it."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import field
from pathlib import Path
from typing import Any

from pipeline.errors import JournalError
from pipeline.frozen import Frozen

VERSION = 1

SCHEMA = """
create table event (
    seq   integer primary key,
    run   text not null,
    at    real not null,
    kind  text not null,
    stage text not null default '',
    data  text not null default '{}'
) strict;
create index event_run on event (run, seq);
create index event_stage on event (stage, kind, seq);
create trigger event_no_update before update on event begin select raise(abort, 'the journal is append-only'); end;
create trigger event_no_delete before delete on event begin select raise(abort, 'the journal is append-only'); end;
"""


class Event(Frozen):
    """One thing that happened. `at` in seconds since the epoch; `kind` as in `docs/journal.md`."""

    run: str
    kind: str
    stage: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    at: float = 0.0
    seq: int = 0


class Journal:
    """Events in one SQLite file, durable when `append` returns (WAL, synchronous=FULL)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listeners: list[Callable[[Event], None]] = []
        try:
            self._db = sqlite3.connect(path, timeout=30.0, isolation_level=None)
            self._db.execute("pragma journal_mode=wal")
            self._db.execute("pragma synchronous=full")
            self._prepare()
        except sqlite3.Error as error:
            raise self._broken(error) from error

    def _prepare(self) -> None:
        version = self._version()
        if version == 0:
            self._db.execute("begin immediate")
            if self._version() == 0:  # nobody else was quicker
                for statement in _statements(SCHEMA):
                    self._db.execute(statement)
                self._db.execute(f"pragma user_version={VERSION}")
            self._db.execute("commit")
        elif version > VERSION:
            raise JournalError(
                f"the journal was written by a newer version (format {version})",
                where=str(self.path),
                right=f"format {VERSION} or older",
                next="pip install --upgrade lockgate",
            )

    def _version(self) -> int:
        row = self._db.execute("pragma user_version").fetchone()
        return int(row[0])

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call `listener` with every event from now on, after it is durable."""
        self._listeners.append(listener)

    def append(self, *events: Event) -> tuple[Event, ...]:
        """Write events in one transaction. When this returns they survive a crash of process and machine."""
        written = []
        try:
            self._db.execute("begin immediate")
            try:
                for event in events:
                    at = event.at or time.time()
                    text = json.dumps(event.data, separators=(",", ":"), sort_keys=True)
                    cursor = self._db.execute(
                        "insert into event (run, at, kind, stage, data) values (?, ?, ?, ?, ?)",
                        (event.run, at, event.kind, event.stage, text),
                    )
                    written.append(
                        Event(
                            run=event.run, kind=event.kind, stage=event.stage, data=event.data, at=at, seq=cursor.lastrowid or 0
                        )
                    )
                self._db.execute("commit")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("rollback")
                raise
        except sqlite3.Error as error:
            raise self._broken(error) from error
        for event in written:
            for listener in self._listeners:
                listener(event)
        return tuple(written)

    def events(self, run: str = "", *, kind: str = "", stage: str = "", after: int = 0) -> Iterator[Event]:
        """Events in the order they were written, all of them or those of one run, kind or stage."""
        conditions, values = ["seq > ?"], [after]
        parameters: list[Any] = list(values)
        for column, value in (("run", run), ("kind", kind), ("stage", stage)):
            if value:
                conditions.append(f"{column} = ?")
                parameters.append(value)
        query = f"select seq, run, at, kind, stage, data from event where {' and '.join(conditions)} order by seq"  # noqa: S608 # nosec B608 - fixed words
        try:
            for seq, run_, at, kind_, stage_, data in self._db.execute(query, parameters):
                yield Event(seq=seq, run=run_, at=at, kind=kind_, stage=stage_, data=json.loads(data))
        except sqlite3.Error as error:
            raise self._broken(error) from error

    def latest(self, stage: str, kinds: tuple[str, ...], *, run: str = "") -> Event | None:
        """The last event of one of the kinds about a stage, in any run or in that one."""
        marks = ", ".join("?" * len(kinds))
        where = f"stage = ? and kind in ({marks})" + (" and run = ?" if run else "")
        query = f"select max(seq) from event where {where}"  # noqa: S608 # nosec B608 - fixed words and marks
        try:
            (seq,) = self._db.execute(query, [stage, *kinds, *([run] if run else [])]).fetchone()
        except sqlite3.Error as error:
            raise self._broken(error) from error
        return next(self.events(after=seq - 1, stage=stage)) if seq else None

    def runs(self) -> list[str]:
        """The ids of all runs, the oldest first."""
        return [event.run for event in self.events(kind="run.started")]

    def last_records(self) -> dict[str, str]:
        """For each stage name, the key under which its latest result was recorded."""
        query = (
            "select stage, json_extract(data, '$.key') from event where seq in "
            "(select max(seq) from event where kind in ('stage.finished', 'stage.cached') group by stage)"
        )
        try:
            return {stage: key for stage, key in self._db.execute(query) if key}
        except sqlite3.Error as error:
            raise self._broken(error) from error

    def durations(self) -> dict[str, float]:
        """For each stage name, the seconds its latest execution took."""
        query = (
            "select stage, json_extract(data, '$.seconds') from event where seq in "
            "(select max(seq) from event where kind = 'stage.finished' group by stage)"
        )
        try:
            return {stage: seconds for stage, seconds in self._db.execute(query) if seconds is not None}
        except sqlite3.Error as error:
            raise self._broken(error) from error

    def close(self) -> None:
        self._db.close()

    def _broken(self, error: sqlite3.Error) -> JournalError:
        text = str(error)
        if "full" in text:
            return JournalError(
                "the disk is full; what was recorded before is safe", where=str(self.path), next=f"df -h {self.path.parent}"
            )
        if "readonly" in text or "unable to open" in text:
            return JournalError(
                f"the journal cannot be written: {text}", where=str(self.path), next="set PIPELINE_HOME to a writable directory"
            )
        return JournalError(f"the journal cannot be used: {text}", where=str(self.path))


def _statements(script: str) -> Iterator[str]:
    """The statements of a script; `executescript` would commit on its own."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
