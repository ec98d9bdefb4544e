"""A query in PostgreSQL as a source of metrics."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline import WiringError, Work
from stages.delivery.metrics import GROUP
from stages.delivery.sources.http import count
from stages.delivery.sources.polled import Ask, Polled, Reading, Unknown

if TYPE_CHECKING:
    from psycopg import AsyncConnection

PARAMETER = "%(group)s"
"""What stands for the name of a group in the query."""


@dataclass(frozen=True, kw_only=True)
class SqlShare:
    """Two counters that `query` gives in one row: how many were bad, of how many, each since any moment that stays the same.

    As `select count(*) filter (where state = 'failed'), count(*) from orders where release = %(group)s`. It is asked in a
    transaction that may only read, of one moment for all groups, and given up after `timeout` seconds. `dsn` is libpq's
    (`postgresql://reader@db.example.org/shop`); the password is found by libpq (PGPASSFILE, `~/.pgpass`).
    """

    name: str
    dsn: str
    query: str
    every: float = 1.0
    """Seconds from one question to the next."""
    timeout: float = 5.0

    def __post_init__(self) -> None:
        where = f"SqlShare(name={self.name!r})"
        if PARAMETER not in self.query:
            raise WiringError(
                f"{where} asks about all releases at once: {self.query}",
                where=where,
                right=f"a query with {PARAMETER} in it, the name that each instance has in its variable {GROUP}",
            )

    def open(self, work: Work) -> SqlMetrics:
        return SqlMetrics(self, work.say)


class SqlMetrics(Polled[SqlShare]):
    """A database that is asked while a rollout is weighed; a connection that is lost is made again at the next question."""

    @asynccontextmanager
    async def asking(self, sides: Sequence[Collection[str]]) -> AsyncIterator[Ask]:
        import psycopg

        config = self.config
        kept: list[AsyncConnection[Any]] = []

        async def read(groups: Collection[str]) -> Mapping[str, Reading]:
            try:
                if not kept:
                    kept.append(await connected(config))
                return await rows(kept[0], config, groups)
            except psycopg.Error as error:
                await _close(kept)
                raise Unknown(str(error).strip().partition("\n")[0]) from error
            except BaseException:
                await _close(kept)
                raise

        try:
            yield read
        finally:
            await _close(kept)


async def connected(config: SqlShare) -> AsyncConnection[Any]:
    """A session that may only read, and whose statements end by themselves."""
    from psycopg import AsyncConnection, IsolationLevel

    connection = await AsyncConnection.connect(
        config.dsn,
        connect_timeout=max(2, round(config.timeout)),
        options=f"-c statement_timeout={round(config.timeout * 1000)} -c lock_timeout={round(config.timeout * 1000)}",
        application_name=f"lockgate {config.name}",
    )
    await connection.set_read_only(True)
    await connection.set_isolation_level(IsolationLevel.REPEATABLE_READ)
    return connection


async def rows(connection: AsyncConnection[Any], config: SqlShare, groups: Collection[str]) -> dict[str, Reading]:
    """The query's row for each group, in one transaction. Raises Unknown where it is not one of two counts."""
    found: dict[str, Reading] = {}
    async with connection.transaction():
        for group in groups:
            cursor = await connection.execute(config.query.encode(), {"group": group})
            got = await cursor.fetchmany(2)
            if len(got) != 1 or len(got[0]) != 2:
                raise Unknown(f"the query gives {len(got)} rows of {len(got[0]) if got else 0} columns, not one of two")
            part, of = (count(f"column {number}", _plain(value)) for number, value in enumerate(got[0], 1))
            found[group] = Reading(part=part, of=of, at=time.monotonic())
    return found


def _plain(value: object) -> object:
    """`sum` of integers is a numeric."""
    from decimal import Decimal

    return float(value) if isinstance(value, Decimal) else value


async def _close(kept: list[AsyncConnection[Any]]) -> None:
    import anyio

    while kept:
        with anyio.CancelScope(shield=True):
            await kept.pop().close()
