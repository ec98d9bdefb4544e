"""A journal's rows in one SQLite file of this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.database import ERRORS, Database, is_of_the_disk
from pipeline.digest import of_text
from pipeline.errors import JournalError
from pipeline.formats import SQLITE, scripts
from pipeline.rows import ADDED, RESUMPTIONS, Fence, Overtaken

if TYPE_CHECKING:
    import sqlite3

    from pipeline.lock import Lock

ADD = f"insert into event (seq, {', '.join(ADDED)}) values (?{', ?' * len(ADDED)})"  # noqa: S608 # nosec B608 - fixed words


class JournalFile:
    """Rows that are on the disk when `add` returns (WAL, synchronous=FULL). The first `add` makes the file.

    SQLite does not notice when its file is removed, and goes on writing where nobody will ever read; `check` does.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.database = Database(path, scripts(SQLITE), synchronous="full", newer=self._newer, unreadable=self._unreadable)
        self._written: dict[Path, os.stat_result] = {}
        self._lost = ""

    @cached_property
    def where(self) -> str:
        return str(self.path)

    @property
    def exists(self) -> bool:
        """Whether anything was ever written. Raises JournalError where nobody may look."""
        return self.database.exists

    def select(self, query: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        try:
            return self.database.rows(query, parameters)
        except ERRORS as error:
            raise self._broken(error, "read") from error

    def add(self, rows: Sequence[Sequence[Any]], texts: Sequence[tuple[str, str]], batch: str, fence: Fence | None = None) -> int:
        if self._lost:
            raise self._gone()
        try:
            return self._add(rows, texts, fence)
        except ERRORS as error:
            raise self._broken(error, "written") from error

    def _add(self, rows: Sequence[Sequence[Any]], texts: Sequence[tuple[str, str]], fence: Fence | None) -> int:
        new = not self.database.writing
        self.database.for_writing()
        if new:
            self._written = {path: path.stat() for path in (self.path, self.database.waiting) if path.exists()}
        self.check()
        with self.database.transaction() as db:
            self._check(fence, db)
            first: int = db.execute("select coalesce(max(seq), 0) + 1 from event").fetchone()[0]
            db.executemany("insert into text (digest, data) values (?, ?) on conflict do nothing", texts)
            db.executemany(ADD, [(seq, *row) for seq, row in enumerate(rows, first)])
        self._written = {path: path.stat() for path in self._written}
        return first

    def _check(self, fence: Fence | None, db: sqlite3.Connection) -> None:
        if fence is not None and db.execute(RESUMPTIONS, (fence.run,)).fetchone()[0] != fence.number:
            raise Overtaken(fence.run, self.where)

    def added(self, batch: str) -> bool:
        """Never: what failed was rolled back, or is written over by what this process writes next.

        Where the disk fails in the middle of the wait for it and this process ends, the next one may find what was added.
        """
        return False

    def check(self) -> None:
        """Raises JournalError when the file was removed, replaced or truncated since it was opened for writing.

        From then on nothing can be added: a run whose journal nobody can read stops.
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

    def effects_lock(self) -> Lock:
        return self._lock

    def lock(self, name: str) -> Lock:
        return self._locked_by(f"locks/{of_text(name)[:32]}.lock")

    @cached_property
    def _lock(self) -> Lock:
        return self._locked_by("effects.lock")

    def _locked_by(self, file: str) -> Lock:
        from pipeline.lock import Lock  # a plan needs none, and need not wait for what it is made of

        return Lock(self.path.parent / file)

    def leave(self) -> None:
        """As `Database.leave`."""
        self.database.leave()
        if not self.database.writing:
            self._written = {}

    def close(self) -> None:
        self.database.close()

    def _gone(self) -> JournalError:
        return JournalError(
            self._lost,
            where=self.where,
            right="a journal that stays where it is as long as a run goes on",
            next=f"look at what this run deployed; then put the journal back from a copy, or rm -f {self.path}* to begin anew",
        )

    def _newer(self, version: int) -> JournalError:
        return JournalError(
            f"the journal was written by a newer version (format {version})",
            where=self.where,
            right=f"format {len(scripts(SQLITE))} or older",
            next="pip install --upgrade lockgate",
        )

    def _unreadable(self, why: str) -> JournalError:
        return JournalError(
            f"the journal {why}",
            where=self.where,
            right="a directory you may write to",
            next=f"cp -r {self.path.parent} to one, and set PIPELINE_HOME to it",
        )

    def _broken(self, error: Exception, doing: str) -> JournalError:
        text = str(error)
        if "full" in text:
            return JournalError(
                "the disk is full; what was recorded before is safe", where=self.where, next=f"df -h {self.path.parent}"
            )
        if "readonly" in text or "unable to open" in text:
            return JournalError(
                f"the journal cannot be {doing}: {text}",
                where=self.where,
                next=f"set PIPELINE_HOME to a directory that can be {doing}",
            )
        no_text = isinstance(error, UnicodeDecodeError) or "decode to UTF-8" in text  # as Python says of a value that is none
        if no_text or getattr(error, "sqlite_errorname", "") in ("SQLITE_NOTADB", "SQLITE_CORRUPT"):
            return JournalError(
                f"the journal cannot be used: {text}",
                where=self.where,
                right="what runs wrote, as a copy of it if there is one",
                next=f"move {self.path}* away; python -m pipeline run then begins a new one",
            )
        if is_of_the_disk(error):
            return JournalError(
                f"the disk does not read or write: {text}; what was recorded before is safe",
                where=self.where,
                right="a disk that is whole and not full",
                next=f"df -h {self.path.parent}; dmesg | tail",
            )
        return JournalError(
            f"the journal cannot be used: {text}",
            where=self.where,
            next=f"fuser -v {self.path}, and df -h {self.path.parent}",
        )
