"""What a journal needs of the place its rows are kept in: a SQLite file, or a PostgreSQL database of many runners."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from pipeline.errors import JournalError

ADDED = ("run", "at", "kind", "stage", "data", "key", "made", "text")
"""The columns of a row that is added, which gets its number where it is kept."""


RESUMPTIONS = "select count(*) from event where stage = '' and kind = 'run.resumed' and run = ?"


class Fence(NamedTuple):
    """Rows are added only as long as the run was resumed so many times: then nobody else has taken it over."""

    run: str
    number: int


class Overtaken(JournalError):
    """The fence did not hold."""

    def __init__(self, run: str, where: str) -> None:
        super().__init__(
            f"run {run} goes on elsewhere: another process has resumed it",
            where=where,
            right="one process at work on a run",
            next="python -m pipeline runs",
        )


class RunLock(Protocol):
    """Held by at most one run at a time of all that write to the journal. Not for two tasks of one process."""

    @property
    def held(self) -> bool: ...

    def try_take(self) -> bool:
        """Whether the lock is held after this."""
        ...

    async def take(self, waiting: Callable[[], None]) -> None:
        """Return once the lock is held; `waiting` is called once when somebody else holds it."""
        ...

    def give_back(self) -> None:
        """Let somebody else take it; nothing when it is not held."""
        ...


class Rows(Protocol):
    """The tables `event` and `text`, in the format of this version. Whatever goes wrong with them is a JournalError."""

    @property
    def where(self) -> str:
        """As people are told of it."""
        ...

    @property
    def exists(self) -> bool:
        """Whether anything was ever written."""
        ...

    def select(self, query: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        """What a query finds, with a `?` for each parameter; nothing where nothing was ever written."""
        ...

    def add(self, rows: Sequence[Sequence[Any]], texts: Sequence[tuple[str, str]], batch: str, fence: Fence | None = None) -> int:
        """Write rows of the columns `ADDED`, and texts under their digests, all or none of them; the number of the first row.

        Raises Overtaken, and writes nothing, where the fence does not hold.

        Numbers grow by one, and nobody ever sees a row before all that have a smaller number. `batch` is 32 hexadecimal
        digits that are given to no other rows: where nobody knows whether they were written, `added` asks by them.
        """
        ...

    def added(self, batch: str) -> bool:
        """Whether rows for which `add` raised were written all the same."""
        ...

    def check(self) -> None:
        """See that what was added is where the next run will look for it, and that the lock is still held if it was taken."""
        ...

    def effects_lock(self) -> RunLock:
        """The same one each time."""
        ...

    def lock(self, name: str) -> RunLock:
        """The one of that name, which a stage asks for."""
        ...

    def close(self) -> None: ...
