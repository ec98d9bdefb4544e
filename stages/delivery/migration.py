"""Changes of a database that is in use: migrations that wait for no lock, and rows brought up to date in batches."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, ClassVar

import anyio

from gates.words import counted
from pipeline import CommandFailed, Effect, Result, Stage, StageFailed, WiringError, Work
from stages.delivery.deploy import Ran, RunOnce
from stages.delivery.freeze import check_not_frozen
from stages.delivery.model import Binding

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg
    from psycopg import sql

LOCKED = "due to lock timeout"
"""What PostgreSQL says of a statement that did not get its lock in time (SQLSTATE 55P03)."""


class Migrate(RunOnce):
    """Runs the release's own migration, as `alembic upgrade head`, so that it holds nobody up.

    A statement that waits for a table's lock makes everybody wait who comes after it. So it gives up after `lock_timeout`
    seconds, by PGOPTIONS, which libpq reads; the command is then run again, up to `tries` times, after a pause that grows. It
    has to be safe to repeat: one revision a transaction (Alembic's `transaction_per_migration`), or all in one. `timeout` is that
    of the whole.
    """

    command: tuple[str, ...] = ("python", "-m", "alembic", "upgrade", "head")
    lock_timeout: float = 2.0
    tries: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.lock_timeout > 0 and self.tries >= 1):
            raise WiringError(
                f"Migrate: lock_timeout is {self.lock_timeout:g}, tries is {self.tries}", right="seconds above 0, one try or more"
            )

    def environment(self, work: Work) -> dict[str, str]:
        found = super().environment(work)
        options = f"{found.get('PGOPTIONS', '')} -c lock_timeout={round(self.lock_timeout * 1000)}"
        return {**found, "PGOPTIONS": options.strip()}

    async def run(self, work: Work) -> Ran:
        for number in range(1, self.tries):
            try:
                return await super().run(work)
            except CommandFailed as error:
                if LOCKED not in error.tail:
                    raise
                work.say(f"somebody holds a lock that the migration needs; try {number} of {self.tries} gave up")
            await anyio.sleep(pause(number))
        return await super().run(work)


def pause(number: int) -> float:
    """Seconds after so many tries: twice as long each time, at most 30, with as much of chance, so that others get through."""
    longest = min(30.0, 0.5 * 2.0**number)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 # nosec B311 - no secret


class Backfilled(Result):
    """Rows that were brought up to date."""

    table: str
    rows: int
    batches: int

    def summary(self) -> str:
        return f"{counted(self.rows, 'row')} of {self.table} in {self.batches:,} {'batch' if self.batches == 1 else 'batches'}"


class Backfill(Stage[Backfilled]):
    """Brings rows of a table that is in use up to date, a batch a transaction: `update table set ... where ...`.

    `database` is the address (as `postgresql://HOST:PORT/NAME`), `passfile` a binding with the file of its password. `key` is a
    unique column by which rows are gone through, in batches of `batch` rows, with `pause` seconds between two; a batch that does
    not get its locks within `lock_timeout` seconds is tried again with half as many rows. `set` has to make `where` false: that
    is how rows are known that are left, also those that old code writes meanwhile and those of a run that was cut off.
    """

    effect: ClassVar[Effect] = Effect.RETRYABLE

    database: Stage[Binding]
    passfile: Stage[Binding] | None = None
    table: str
    key: str = "id"
    set: str
    where: str
    batch: int = 1000
    pause: float = 0.05
    lock_timeout: float = 1.0
    timeout: float = 86_400.0

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise WiringError(f"Backfill: batch is {self.batch}", right="1 row or more")

    async def run(self, work: Work) -> Backfilled:
        import psycopg
        from psycopg.conninfo import make_conninfo

        check_not_frozen(work)
        passfile = work[self.passfile].value if self.passfile is not None else None
        address = make_conninfo(work[self.database].value, passfile=passfile)
        try:
            async with await psycopg.AsyncConnection.connect(address, autocommit=True) as session:
                await session.execute("select set_config('lock_timeout', %s, false)", [f"{round(self.lock_timeout * 1000)}ms"])
                return await self._all(work, session)
        except psycopg.Error as error:
            raise StageFailed(
                f"{self.table} could not be brought up to date: {str(error).strip()}",
                right="a table with these columns, and a database that answers",
                next="mend it and run again: what was done is not done again",
            ) from error

    async def _all(self, work: Work, session: psycopg.AsyncConnection[tuple[object, ...]]) -> Backfilled:
        """Pass after pass, until one finds nothing to do."""
        rows = batches = 0
        found = True
        while found:
            found = False
            after: object = None
            size = self.batch
            while (keys := await self._batch(session, after, size)) is None or keys:
                if keys is None:
                    if size == 1:
                        work.say(f"{self.table}: somebody holds the lock of a row; waiting for it")
                    size = max(1, size // 2)
                else:
                    await self._check_done(session, keys)
                    found, after, size = True, keys[-1], min(self.batch, size * 2)
                    rows, batches = rows + len(keys), batches + 1
                    work.say(f"{self.table}: {rows:,} rows so far")
                await anyio.sleep(self.pause)
        return Backfilled(table=self.table, rows=rows, batches=batches)

    def _rows(self) -> tuple[sql.Identifier, sql.Identifier, sql.SQL]:
        """The table, its key, and which rows are left; the clauses are the pipeline's own code, as its migrations are."""
        from psycopg import sql

        where = sql.SQL(self.where)  # pyright: ignore[reportArgumentType]
        return sql.Identifier(*self.table.split(".")), sql.Identifier(self.key), where

    async def _batch(
        self, session: psycopg.AsyncConnection[tuple[object, ...]], after: object, size: int
    ) -> Sequence[object] | None:
        """The keys of the rows that were updated, ascending; None where a lock was not to be had."""
        from psycopg import errors, sql

        table, key, where = self._rows()
        beyond = sql.SQL("and {} > %(after)s").format(key) if after is not None else sql.SQL("")
        change = sql.SQL(self.set)  # pyright: ignore[reportArgumentType]
        query = sql.SQL(
            "with batch as ("
            "select {key} as found from {table} where ({where}) {beyond} order by {key} limit %(size)s for update), "
            "done as (update {table} set {change} from batch where {table}.{key} = batch.found returning batch.found) "
            "select found from done order by found"
        ).format(key=key, table=table, where=where, beyond=beyond, change=change)
        try:
            async with session.transaction():
                done = await session.execute(query, {"after": after, "size": size})
                return [found for (found,) in await done.fetchall()]
        except errors.LockNotAvailable:
            return None

    async def _check_done(self, session: psycopg.AsyncConnection[tuple[object, ...]], keys: Sequence[object]) -> None:
        """Raise StageFailed where a row that was just updated is still to be: it would be so for ever."""
        from psycopg import sql

        table, key, where = self._rows()
        query = sql.SQL("select count(*) from {} where {} = any(%s) and ({})").format(table, key, where)
        row = await (await session.execute(query, [list(keys)])).fetchone()
        if row == (len(keys),):
            raise StageFailed(
                f"Backfill of {self.table}: what was updated is still to be, as {self.where!r} goes on being true of it",
                right=f"a `set` that makes `where` false; it is {self.set!r}",
            )
