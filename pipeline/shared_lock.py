"""A lock between machines: of a session with PostgreSQL, so that the server frees it when its holder dies."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipeline.errors import JournalError
from pipeline.lock import until_taken
from pipeline.postgres import Database

if TYPE_CHECKING:
    import psycopg

WAIT = 0.25
"""Seconds between two tries: each asks the server."""


class SharedLock:
    """Held by at most one process of all that use the database. Not for two tasks of one process.

    With the session the lock is gone, and somebody else may have it: who held it and lost it is told so by `check` from then on.
    """

    def __init__(self, database: Database, purpose: str) -> None:
        self._database, self._number = database, database.number(purpose)
        self._session: psycopg.Connection[tuple[Any, ...]] | None = None
        self._taken = False
        self._lost = ""

    @property
    def held(self) -> bool:
        """Whether it was taken, and neither given back nor, as `check` saw it, lost."""
        return self._taken

    def try_take(self) -> bool:
        """Whether the lock is held after this. Raises JournalError when the server does not answer."""
        import psycopg

        if self._taken:
            return True
        try:
            if self._session is None:
                self._session = self._database.session()
            row = self._session.execute(b"select pg_try_advisory_lock(%s)", [self._number]).fetchone()
        except psycopg.Error as error:
            self._forget()
            raise self._database.broken(error, "written") from error
        self._taken = row == (True,)
        return self._taken

    async def take(self, waiting: Callable[[], None]) -> None:
        """Return once the lock is held; `waiting` is called once when somebody else holds it."""
        await until_taken(self.try_take, waiting, pause=WAIT)

    def check(self) -> None:
        """Raises JournalError when the lock was held and is lost, or ever was."""
        import psycopg

        if self._taken and self._session is not None:
            try:
                self._session.execute(b"select 1")
            except psycopg.Error as error:
                self._lost = " ".join(str(error).split())
                self._forget()
        if self._lost:
            raise JournalError(
                f"the session that kept other runs from side effects was lost, and another run may have begun some: {self._lost}",
                where=self._database.address,
                right="a server that is there as long as a run goes on",
                next="python -m pipeline run",
            )

    def give_back(self) -> None:
        """Let somebody else take it; nothing when it is not held."""
        import psycopg

        if self._taken and self._session is not None:
            with contextlib.suppress(psycopg.Error):  # then the server has freed it, or will when it notices
                self._session.execute(b"select pg_advisory_unlock(%s)", [self._number])
        self._forget()

    def _forget(self) -> None:
        if self._session is not None:
            self._session.close()
        self._session, self._taken = None, False
