"""The journal: the append-only record of what happened. Every report is a fold over it."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
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

KEYS = "create index if not exists event_key on event (json_extract(data, '$.key'), seq) where kind = 'stage.finished'"
"""How the latest result of a key is found at once."""


class Event(Frozen):
    """One thing that happened. `at` in seconds since the epoch; `kind` as in `docs/journal.md`."""

    run: str
    kind: str
    stage: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    at: float = 0.0
    seq: int = 0


class Journal:
    """Events in one SQLite file, durable when `append` returns (WAL, synchronous=FULL).

    The first `append` makes the file. Until then it is only read, and a journal that is not there has no events.
    SQLite does not notice when its file is removed, and goes on writing where nobody will ever read; `check` does.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listeners: list[Callable[[Event], None]] = []
        self._reader: sqlite3.Connection | None = None
        self._writer: sqlite3.Connection | None = None
        self._written: dict[Path, os.stat_result] = {}
        self._lost = ""

    @property
    def exists(self) -> bool:
        """Whether anything was ever written. Raises JournalError where nobody may look."""
        try:
            self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise JournalError(f"the journal cannot be read: {error.strerror}", where=str(self.path)) from error
        return True

    def check(self) -> None:
        """See that the next run will find what this one appends. For whoever is about to rely on that.

        Raises JournalError when the file was removed, replaced or truncated since it was opened for writing. From then on
        nothing can be appended: a run whose journal nobody can read stops.
        """
        for path, before in self._written.items():
            now = path.stat() if path.exists() else None
            if now is None:
                what = "removed"
            elif (now.st_dev, now.st_ino) != (before.st_dev, before.st_ino):
                what = "replaced"
            elif now.st_size < before.st_size:  # SQLite never shortens these while they are in use
                what = "truncated"
            else:
                self._written[path] = now
                continue
            self._lost = f"{path.name} was {what} while it was in use: what was recorded there is lost to the next run"
            raise self._gone()

    def _for_writing(self) -> sqlite3.Connection:
        if self._lost:
            raise self._gone()
        if self._writer is None:
            db = sqlite3.connect(self.path, timeout=30.0, isolation_level=None)
            try:
                db.execute("pragma journal_mode=wal")
                db.execute("pragma synchronous=full")
                self._prepare(db)
            except BaseException:
                db.close()
                raise
            self._writer = db
            files = (self.path, self._waiting)
            self._written = {path: path.stat() for path in files if path.exists()}
        return self._writer

    @property
    def _waiting(self) -> Path:
        """Where events wait for the journal to take them up."""
        return self.path.with_name(f"{self.path.name}-wal")

    def _for_reading(self) -> sqlite3.Connection | None:
        """A connection on which there are events; None where nothing was written yet."""
        if self._writer is not None:
            return self._writer
        if self._reader is None and self.exists:
            self._reader = self._opened()
        return self._reader if self._reader is not None and self._version(self._reader) else None

    def _opened(self) -> sqlite3.Connection:
        """The file, for reading; who may not write leaves nothing beside it, which its owner could not use.

        SQLite wants files of its own beside a journal in WAL mode, unless it is told that nobody writes to it. That
        is so unless events wait in the file `-wal` for the journal to take them up.
        """
        waiting = self._waiting
        if os.access(self.path, os.W_OK) and os.access(self.path.parent, os.W_OK):
            how = "mode=rw"
        else:
            how = "mode=ro" if waiting.exists() and waiting.stat().st_size else "immutable=1"
        db = sqlite3.connect(f"{self.path.absolute().as_uri()}?{how}", uri=True, timeout=30.0, isolation_level=None)
        try:
            self._version(db)
        except BaseException as error:
            db.close()
            if how == "mode=ro" and getattr(error, "sqlite_errorname", "").startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY")):
                raise JournalError(
                    f"the latest events are in {waiting.name}, and cannot be read where nothing can be written",
                    where=str(self.path),
                    right="a directory you may write to",
                    next=f"cp -r {self.path.parent} to one, and set PIPELINE_HOME to it",
                ) from error
            raise
        return db

    def _prepare(self, db: sqlite3.Connection) -> None:
        if self._version(db) == 0:
            db.execute("begin immediate")
            if self._version(db) == 0:  # nobody else was quicker
                for statement in _statements(SCHEMA):
                    db.execute(statement)
                db.execute(f"pragma user_version={VERSION}")
            db.execute("commit")
        db.execute(KEYS)

    def _version(self, db: sqlite3.Connection) -> int:
        """The format, 0 for none yet. Raises JournalError for one this version does not know."""
        version = int(db.execute("pragma user_version").fetchone()[0])
        if version > VERSION:
            raise JournalError(
                f"the journal was written by a newer version (format {version})",
                where=str(self.path),
                right=f"format {VERSION} or older",
                next="pip install --upgrade lockgate",
            )
        return version

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call `listener` with every event from now on, after it is durable."""
        self._listeners.append(listener)

    def append(self, *events: Event) -> tuple[Event, ...]:
        """Write events in one transaction. When this returns they survive a crash of process and machine."""
        written = []
        try:
            db = self._for_writing()
            db.execute("begin immediate")
            try:
                for event in events:
                    at = event.at or time.time()
                    text = json.dumps(event.data, separators=(",", ":"), sort_keys=True)
                    cursor = db.execute(
                        "insert into event (run, at, kind, stage, data) values (?, ?, ?, ?, ?)",
                        (event.run, at, event.kind, event.stage, text),
                    )
                    written.append(
                        Event(
                            run=event.run, kind=event.kind, stage=event.stage, data=event.data, at=at, seq=cursor.lastrowid or 0
                        )
                    )
                db.execute("commit")
            except BaseException:
                if db.in_transaction:
                    db.execute("rollback")
                raise
        except sqlite3.Error as error:
            raise self._broken(error, "written") from error
        for event in written:
            for listener in self._listeners:
                listener(event)
        return tuple(written)

    def events(self, run: str = "", *, kind: str | tuple[str, ...] = "", stage: str = "", after: int = 0) -> Iterator[Event]:
        """Events in the order they were written, all of them or those of one run, of one kind or several, of one stage."""
        conditions = ["seq > ?"]
        parameters: list[Any] = [after]
        for column, value in (("run", run), ("kind", kind), ("stage", stage)):
            if value:
                values = (value,) if isinstance(value, str) else value
                conditions.append(f"{column} in ({', '.join('?' * len(values))})")
                parameters += values
        query = f"select seq, run, at, kind, stage, data from event where {' and '.join(conditions)} order by seq"  # noqa: S608 # nosec B608 - fixed words
        for seq, run_, at, kind_, stage_, data in self._rows(query, parameters):
            yield Event(seq=seq, run=run_, at=at, kind=kind_, stage=stage_, data=json.loads(data))

    def latest(self, stage: str, kinds: tuple[str, ...], *, run: str = "") -> Event | None:
        """The last event of one of the kinds about a stage, in any run or in that one."""
        marks = ", ".join("?" * len(kinds))
        where = f"stage = ? and kind in ({marks})" + (" and run = ?" if run else "")
        query = f"select max(seq) from event where {where}"  # noqa: S608 # nosec B608 - fixed words and marks
        seq = next((seq for (seq,) in self._rows(query, [stage, *kinds, *([run] if run else [])])), None)
        return next(self.events(after=seq - 1, stage=stage)) if seq else None

    def runs(self) -> list[str]:
        """The ids of all runs, the oldest first."""
        return [event.run for event in self.events(kind="run.started")]

    def last_records(self) -> dict[str, str]:
        """For each stage name, the key under which its latest result was recorded; empty for one that may not be used again."""
        query = (
            "select stage, json_extract(data, '$.key') from event where seq in "
            "(select max(seq) from event where kind in ('stage.finished', 'stage.cached') group by stage)"
        )
        return {stage: key or "" for stage, key in self._rows(query)}

    def finished(self, key: str) -> dict[str, Any] | None:
        """What was journalled when a result was last made under `key`; None for one that was made elsewhere."""
        query = (
            "select data from event where kind = 'stage.finished' and json_extract(data, '$.key') = ? order by seq desc limit 1"
        )
        return next((json.loads(data) for (data,) in self._rows(query, [key])), None)

    def durations(self) -> dict[str, float]:
        """For each stage name, the seconds its latest execution took."""
        query = (
            "select stage, json_extract(data, '$.seconds') from event where seq in "
            "(select max(seq) from event where kind = 'stage.finished' group by stage)"
        )
        return {stage: seconds for stage, seconds in self._rows(query) if seconds is not None}

    def close(self) -> None:
        for db in (self._reader, self._writer):
            if db is not None:
                db.close()

    def _rows(self, query: str, parameters: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        try:
            db = self._for_reading()
            if db is not None:
                yield from db.execute(query, parameters)
        except sqlite3.Error as error:
            raise self._broken(error, "read") from error

    def _gone(self) -> JournalError:
        return JournalError(
            self._lost,
            where=str(self.path),
            right="a journal that stays where it is as long as a run goes on",
            next=f"look at what this run deployed; then put the journal back from a copy, or rm -f {self.path}* to begin anew",
        )

    def _broken(self, error: sqlite3.Error, doing: str) -> JournalError:
        text = str(error)
        if "full" in text:
            return JournalError(
                "the disk is full; what was recorded before is safe", where=str(self.path), next=f"df -h {self.path.parent}"
            )
        if "readonly" in text or "unable to open" in text:
            return JournalError(
                f"the journal cannot be {doing}: {text}",
                where=str(self.path),
                next=f"set PIPELINE_HOME to a directory that can be {doing}",
            )
        if getattr(error, "sqlite_errorname", "") in ("SQLITE_NOTADB", "SQLITE_CORRUPT"):
            return JournalError(
                f"the journal cannot be used: {text}",
                where=str(self.path),
                right="what runs wrote, as a copy of it if there is one",
                next=f"move {self.path}* away; python -m pipeline run then begins a new one",
            )
        return JournalError(
            f"the journal cannot be used: {text}",
            where=str(self.path),
            next=f"fuser -v {self.path}, and df -h {self.path.parent}",
        )


def _statements(script: str) -> Iterator[str]:
    """The statements of a script; `executescript` would commit on its own."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
