"""Results of stages and the keys they are found by, in one SQLite file: read and written many at once."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline import digest
from pipeline.database import ERRORS, Database, is_of_the_disk
from pipeline.errors import StoreError

SCHEMA = """
create table record (key text primary key, data blob not null) strict;
create table text (digest text primary key, data blob not null) strict;
create table generation (number integer not null) strict;
insert into generation values (0);
create table settled (print text primary key, generation integer not null, run text not null, contents text not null) strict;
"""

NEXT = "update generation set number = number + 1"
"""Said with everything that is written: what was settled before may not be so any more."""

MANY = 100_000
"""Keys that are kept in mind, so that a look for one that is not here costs nothing."""

TOGETHER = 500
"""Keys that are asked for at once; SQLite takes at least 999 parameters."""


class Results:
    """Records by key, and the texts they name by digest. What is kept is seen at once, and written by `flush`.

    A damaged row is found by who reads it. Where SQLite cannot use the file at all, people are told to remove it: nothing here
    is more than can be made again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._database = Database(path, (SCHEMA,), synchronous="normal", newer=self._newer, unreadable=self._unreadable)
        self._records: dict[str, bytes | None] = {}
        self._texts: dict[str, bytes] = {}
        self._known: set[str] | None = None
        self._many = False
        """Whether there are more keys than are kept in mind."""
        self._busy = threading.RLock()

    def save(self, key: str, record: bytes) -> None:
        with self._busy:
            self._records[key] = record

    def forget(self, key: str) -> None:
        with self._busy:
            self._records[key] = None

    def load(self, key: str) -> bytes | None:
        with self._busy:
            if key not in self._records and (there := self._there()) is not None and key not in there:
                return None
            return next((record for _, record in self.load_all([key])), None)

    def load_all(self, keys: Iterable[str]) -> list[tuple[str, bytes]]:
        """The records under those of the keys that have one."""
        with self._busy:
            there = self._there()
            found: list[tuple[str, bytes]] = []
            left: list[str] = []
            for key in keys:
                if key not in self._records:
                    if there is None or key in there:
                        left.append(key)
                elif (record := self._records[key]) is not None:
                    found.append((key, record))
            for start in range(0, len(left), TOGETHER):
                some = left[start : start + TOGETHER]
                found += self._sound(f"select key, data from record where key in ({', '.join('?' * len(some))})", some)  # noqa: S608 # nosec B608 - fixed words and marks
            return found

    def _there(self) -> set[str] | None:
        """The keys that had a record when first one was asked for, and what was saved since; None where they were too many.

        A record that another process makes meanwhile is missed, and made once more.
        """
        if self._known is None and not self._many:
            self._known = {key for (key,) in self._rows("select key from record limit ?", [MANY + 1])}
            if len(self._known) > MANY:
                self._known, self._many = None, True
        return self._known

    def keep(self, text: bytes) -> digest.Digest:
        """The text under its digest."""
        name = digest.of_bytes(text)
        with self._busy:
            self._texts[name] = text
        return name

    def text(self, name: str) -> bytes | None:
        """The text of that digest, as it was written: whoever reads it compares."""
        return self.texts([name]).get(name)

    def texts(self, names: Iterable[str]) -> dict[str, bytes]:
        """Those of the texts that are here."""
        with self._busy:
            found, left = {}, []
            for name in names:
                if name in self._texts:
                    found[name] = self._texts[name]
                else:
                    left.append(name)
            for start in range(0, len(left), TOGETHER):
                some = left[start : start + TOGETHER]
                query = f"select digest, data from text where digest in ({', '.join('?' * len(some))})"  # noqa: S608 # nosec B608 - fixed words and marks
                found.update(self._sound(query, some))
        return found

    def flush(self) -> None:
        """Write what was kept. Raises StoreError where that cannot be; then it is tried again by the next `flush`."""
        with self._busy:
            if not self._records and not self._texts:
                return
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self._database.transaction() as db:
                    self._write(db)
            except ERRORS as error:
                raise self._broken(error) from error
            if self._known is not None:
                self._known.update(self._records)
            self._records, self._texts = {}, {}

    def _write(self, db: sqlite3.Connection) -> None:
        db.executemany("insert or replace into text (digest, data) values (?, ?)", self._texts.items())
        saved = [(key, record) for key, record in self._records.items() if record is not None]
        db.executemany("insert or replace into record (key, data) values (?, ?)", saved)
        db.executemany("delete from record where key = ?", [(key,) for key, record in self._records.items() if record is None])
        db.execute(NEXT)

    def drop_text(self, name: str) -> None:
        """Take a damaged text away, so that it is made again."""
        with self._busy:
            self._texts.pop(name, None)
            try:
                if self._database.exists:
                    with self._database.transaction() as db:
                        db.execute("delete from text where digest = ?", (name,))
                        db.execute(NEXT)
            except ERRORS as error:
                raise self._broken(error) from error

    def everything(self) -> tuple[dict[str, bytes], dict[str, int]]:
        """All records by key, and the sizes of all texts by digest."""
        self.flush()
        with self._busy:
            for table in ("record", "text"):
                if self._rows(f"select 1 from {table} where typeof(data) <> 'blob' limit 1", []):  # noqa: S608 # nosec B608 - fixed words
                    raise self._broken(sqlite3.DatabaseError(f"a row of the table {table} is malformed"))
            found = dict(self._rows("select key, data from record", []))
            return found, dict(self._rows("select digest, length(data) from text", []))

    def remove(self, keys: Iterable[str], texts: Iterable[str]) -> None:
        """Forget records and texts."""
        with self._busy:
            if not self._database.exists:
                return
            try:
                with self._database.transaction() as db:
                    db.executemany("delete from record where key = ?", [(key,) for key in keys])
                    db.executemany("delete from text where digest = ?", [(name,) for name in texts])
                    db.execute("delete from settled")
                    db.execute(NEXT)
            except ERRORS as error:
                raise self._broken(error) from error
            self._known, self._many = None, False

    def give_back(self) -> None:
        """Give the room of what was forgotten back to the file system."""
        with self._busy:
            try:
                if self._database.exists:
                    self._database.for_writing().execute("vacuum")
            except ERRORS as error:
                raise self._broken(error) from error

    def settle(self, print_: str, run: str, contents: Iterable[str]) -> None:
        """Remember for as long as nothing is written here that `run` found everything it wanted, whose content is `contents`."""
        self.flush()
        with self._busy:
            try:
                self._database.for_writing().execute(
                    "insert or replace into settled (print, generation, run, contents) select ?, number, ?, ? from generation",
                    (print_, run, " ".join(sorted(contents))),
                )
            except ERRORS as error:
                raise self._broken(error) from error

    def settled(self, print_: str) -> tuple[str, list[str]] | None:
        """The run, and the digests of the content; None where something was written since, or there was no such run."""
        query = "select run, contents from settled join generation on settled.generation = generation.number where print = ?"
        with self._busy:
            return next(((run, contents.split()) for run, contents in self._rows(query, [print_])), None)

    def leave(self) -> None:
        self._database.leave()

    def close(self) -> None:
        self._database.close()

    def _rows(self, query: str, parameters: list[Any]) -> list[tuple[Any, ...]]:
        try:
            return self._database.rows(query, parameters)
        except ERRORS as error:
            raise self._broken(error) from error

    def _sound(self, query: str, names: list[str]) -> list[tuple[str, bytes]]:
        """The rows that are names and bytes, as they were written; what one byte has made of another row is no result."""
        return [(name, data) for name, data in self._rows(query, names) if isinstance(name, str) and isinstance(data, bytes)]

    def _newer(self, version: int) -> StoreError:
        return StoreError(
            f"the results were written by a newer version (format {version})",
            where=str(self.path),
            right="format 1 or older",
            next="pip install --upgrade lockgate",
        )

    def _unreadable(self, why: str) -> StoreError:
        return StoreError(
            f"the store {why}",
            where=str(self.path),
            next=f"cp -r {self.path.parent.parent} to a directory you may write to, and set PIPELINE_HOME to it",
        )

    def _broken(self, error: Exception) -> StoreError:
        text = str(error)
        if "full" in text:
            return StoreError("the disk is full", where=str(self.path), right="free space", next=f"df -h {self.path.parent}")
        if "readonly" in text or "unable to open" in text:
            return StoreError(
                f"cannot be written: {text}",
                where=str(self.path),
                right="a directory you may write to",
                next="set PIPELINE_HOME to one",
            )
        if is_of_the_disk(error):
            return StoreError(
                f"the disk does not read or write: {text}",
                where=str(self.path),
                right="a disk that is whole and not full",
                next=f"df -h {self.path.parent}; dmesg | tail; or set PIPELINE_HOME to a directory on another disk",
            )
        return StoreError(
            f"the results cannot be used: {text}",
            where=str(self.path),
            right="the file as runs wrote it",
            next=f"rm -f {self.path}*; what it held is made again",
        )
