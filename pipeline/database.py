"""A SQLite file that many processes read and write, made by the first that has something to write."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import LockgateError

CACHE = 65536
"""KiB of pages that are kept in memory at most: keys come in no order."""

PATIENCE = 30.0
"""Seconds to wait for other writers."""

WAITING = 4096
"""Pages that wait beside the file before they are taken up: as keys come in no order, the same ones are written many times."""

MUCH = 1 << 20
"""Bytes that wait beside the file and are worth the time to take them up."""

ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""What is raised where a file cannot be used: of one that is damaged, what SQLite says of it may be no text either."""


class Database:
    """One file in WAL mode. `migrations[n]` is the script that turns format n into n + 1; format 0 is an empty file.

    `full` waits for the disk at each commit; `normal` may lose the latest commits when the machine stops, none when
    the process does, and is consistent either way (https://sqlite.org/pragma.html#pragma_synchronous).
    `error` makes the error that is raised for a format this version does not know.
    """

    def __init__(
        self,
        path: Path,
        migrations: Sequence[str],
        *,
        synchronous: Literal["full", "normal"],
        newer: Callable[[int], LockgateError],
        unreadable: Callable[[str], LockgateError],
    ) -> None:
        self.path = path
        self._migrations, self._synchronous = migrations, synchronous
        self._newer, self._unreadable = newer, unreadable
        self._reader: sqlite3.Connection | None = None
        self._writer: sqlite3.Connection | None = None
        self._known = False
        """Whether the reader has seen the format of this version."""

    @property
    def exists(self) -> bool:
        """Whether anything was ever written. Raises what `unreadable` makes where nobody may look."""
        try:
            self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise self._unreadable(f"cannot be read: {error.strerror}") from error
        return True

    @property
    def waiting(self) -> Path:
        """Where what was committed waits to be taken up by the file itself."""
        return self.path.with_name(f"{self.path.name}-wal")

    @property
    def writing(self) -> bool:
        return self._writer is not None

    def for_writing(self) -> sqlite3.Connection:
        if self._writer is None:
            db = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
            try:
                db.execute("pragma journal_mode=wal")
                db.execute(f"pragma synchronous={self._synchronous}")
                db.execute(f"pragma cache_size=-{CACHE}")
                db.execute(f"pragma wal_autocheckpoint={WAITING}")
                self._migrate(db)
            except BaseException:
                db.close()
                raise
            self._writer = db
        return self._writer

    def for_reading(self) -> sqlite3.Connection | None:
        """None where nothing was written yet. What an older version wrote is read after it was brought to this format."""
        if self._writer is not None:
            return self._writer
        if self._reader is None and self.exists:
            self._reader = self._opened()
        if self._reader is None or self._known:
            return self._reader
        version = self._version(self._reader)
        if 0 < version < len(self._migrations):
            return self.for_writing()
        self._known = version > 0
        return self._reader if self._known else None

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All that is written in the block, or none of it."""
        db = self.for_writing()
        db.execute("begin immediate")
        try:
            yield db
            db.execute("commit")
        except BaseException:
            if db.in_transaction:
                db.execute("rollback")
            raise

    def rows(self, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """What a query finds; nothing where there is no file."""
        db = self.for_reading()
        return db.execute(query, parameters).fetchall() if db is not None else []

    def leave(self) -> None:
        """Close the file where much waits beside it: who closes it last takes that up; else who opens it next reads all of it.

        It is opened again when it is needed.
        """
        if self._writer is not None and self.waiting.exists() and self.waiting.stat().st_size > MUCH:
            self.close()

    def close(self) -> None:
        for db in (self._reader, self._writer):
            if db is not None:
                db.close()
        self._reader = self._writer = None
        self._known = False

    def _opened(self) -> sqlite3.Connection:
        """The file, for reading; who may not write leaves nothing beside it, which its owner could not use.

        SQLite wants files of its own beside one in WAL mode, unless it is told that nobody writes to it. That
        is so unless something waits in the file `-wal` to be taken up.
        """
        if os.access(self.path, os.W_OK) and os.access(self.path.parent, os.W_OK):
            how = "mode=rw"
        else:
            how = "mode=ro" if self.waiting.exists() and self.waiting.stat().st_size else "immutable=1"
        where = f"{self.path.absolute().as_uri()}?{how}"
        db = sqlite3.connect(where, uri=True, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
        try:
            self._version(db)
        except BaseException as error:
            db.close()
            if how == "mode=ro" and getattr(error, "sqlite_errorname", "").startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY")):
                raise self._unreadable(
                    f"is incomplete without {self.waiting.name}, which cannot be read where nothing can be written"
                ) from error
            raise
        return db

    def _migrate(self, db: sqlite3.Connection) -> None:
        if self._version(db) < len(self._migrations):
            db.execute("begin immediate")
            for number in range(self._version(db), len(self._migrations)):  # others may have been quicker
                for statement in _statements(self._migrations[number]):
                    db.execute(statement)
            db.execute(f"pragma user_version={len(self._migrations)}")
            db.execute("commit")

    def _version(self, db: sqlite3.Connection) -> int:
        """The format, 0 for none yet."""
        version = int(db.execute("pragma user_version").fetchone()[0])
        if version > len(self._migrations):
            raise self._newer(version)
        return version


def is_of_the_disk(error: Exception) -> bool:
    """Whether the system did not read or write as it should: not for anything that is in the file."""
    return getattr(error, "sqlite_errorname", "").startswith(("SQLITE_IOERR", "SQLITE_PROTOCOL"))


def _statements(script: str) -> Iterator[str]:
    """The statements of a script; `executescript` would commit on its own."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
