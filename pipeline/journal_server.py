"""A journal's rows in a PostgreSQL database, which many runners write to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.errors import JournalError
from pipeline.formats import POSTGRESQL, scripts
from pipeline.postgres import Database
from pipeline.rows import ADDED, RESUMPTIONS, Fence, Overtaken
from pipeline.shared_lock import SharedLock

if TYPE_CHECKING:
    import psycopg

T = TypeVar("T")

BEFORE = f"""
create function append_only() returns trigger language plpgsql as $$ begin raise exception 'the journal is append-only'; end $$;
create table format (number integer primary key, since timestamptz not null default now());
create table batch (id uuid primary key, first bigint not null);
{POSTGRESQL.refused("update", "batch")}
{POSTGRESQL.refused(POSTGRESQL.removal, "batch")}
"""
"""What there is in PostgreSQL besides the tables of a journal. SQLite has a number for the format, and knows what it wrote."""

ARRAYS = ", ".join(f"%s::{'double precision' if name == 'at' else 'text'}[]" for name in ADDED)

ADD = f"""
begin;
select pg_advisory_xact_lock(%s);
insert into batch (id, first)
    select %s, coalesce(max(seq), 0) + 1 from event having (select max(number) from format) = %s
    and (%s::text is null or ({RESUMPTIONS.replace("?", "%s")}) = %s) returning first;
insert into text (digest, data) select * from unnest(%s::text[], %s::text[]) on conflict do nothing;
insert into event (seq, {", ".join(ADDED)})
    select batch.first + added.number - 1, {", ".join(f"added.{name}" for name in ADDED)}
    from batch, unnest({ARRAYS}) with ordinality as added ({", ".join(ADDED)}, number)
    where batch.id = %s;
commit
"""  # noqa: S608 # nosec B608 - fixed words
"""Each statement sees what was committed before it began: the lock comes first.

Without a first number the format is another, or the run was resumed elsewhere.
"""


class JournalServer:
    """Rows that the server has made durable when `add` returns (`synchronous_commit`). Each pipeline has a schema of its own.

    The first `add` makes the tables. Writers take turns (an advisory lock), since a reader that asks for what came after
    a number must not miss one that is committed later. All of a batch is sent at once, and a turn begins when the server
    has it: no turn waits for the network, or for a runner that was halted.
    A session that is lost is replaced once. Then nobody knows whether the batch that was on its way was written; what it
    is known by is unique in the table `batch`, so it is not written twice.
    """

    def __init__(self, address: str, pipeline: str, formats: Sequence[str] = scripts(POSTGRESQL)) -> None:
        self._database, self._formats = Database(address, pipeline), formats
        self._lock = SharedLock(self._database, "effects")
        self._session: psycopg.Connection[tuple[Any, ...]] | None = None
        self._known = 0
        """The format that the session has seen; 0 while there is none."""
        self._last = ""
        """The batch that was written last."""
        self._busy = threading.RLock()

    @property
    def where(self) -> str:
        return self._database.address

    @property
    def exists(self) -> bool:
        """Whether anything was ever written. Raises JournalError where nobody may look."""
        return self._twice(lambda: self._format(self._connected()) > 0, "read")

    def select(self, query: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        return self._twice(lambda: self._select(query.replace("?", "%s"), parameters), "read")

    def add(self, rows: Sequence[Sequence[Any]], texts: Sequence[tuple[str, str]], batch: str, fence: Fence | None = None) -> int:
        first = self._twice(lambda: self._add(rows, texts, batch, fence), "written")
        self._last = batch
        return first

    def added(self, batch: str) -> bool:
        return bool(self.select("select 1 from batch where id = ?", [batch]))

    def check(self) -> None:
        """Raises JournalError when the lock for side effects was lost, or what was written last is not there any more."""
        self._lock.check()
        if self._last and not self.added(self._last):
            raise JournalError(
                "what this run recorded is not there any more: the database was put back to an earlier state",
                where=self.where,
                right="a server that keeps what it has committed",
                next="look at what this run deployed",
            )

    def effects_lock(self) -> SharedLock:
        return self._lock

    def lock(self, name: str) -> SharedLock:
        return SharedLock(self._database, f"lock {name}")

    def close(self) -> None:
        self._lock.give_back()
        with self._busy:
            self._leave()

    def _select(self, query: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        session = self._connected()
        if 0 < self._format(session) < len(self._formats):
            self._migrate(session)
        return session.execute(query.encode(), parameters).fetchall() if self._known else []

    def _add(self, rows: Sequence[Sequence[Any]], texts: Sequence[tuple[str, str]], batch: str, fence: Fence | None) -> int:
        import psycopg

        session = self._connected()
        if self._format(session) < len(self._formats):
            self._migrate(session)
        columns = [_column(values) for values in zip(*rows, strict=True)] or [[] for _ in ADDED]
        digests, data = [digest for digest, _ in texts], [text for _, text in texts]
        fenced = (fence.run, fence.run, fence.number) if fence is not None else (None, None, 0)
        numbers = [self._database.number("write"), batch, len(self._formats), *fenced]
        try:
            results = psycopg.ClientCursor(session).execute(ADD.encode(), [*numbers, digests, data, *columns, batch])
        except psycopg.errors.UniqueViolation:  # it was written before, by a session that was lost before it could tell
            session.execute(b"rollback")
            return _number(session.execute(b"select first from batch where id = %s", [batch]))
        for _ in "begin", "lock":
            results.nextset()
        if results.rowcount == 0:
            self._known = 0
            self._format(session)
            if fence is not None:
                raise Overtaken(fence.run, self.where)
        return _number(results)

    def _migrate(self, session: psycopg.Connection[tuple[Any, ...]]) -> None:
        """Bring the journal to the format of this version; who comes at the same time waits, and finds it done."""
        with session.transaction():
            session.execute(b"select pg_advisory_xact_lock(%s)", [self._database.number("write")])
            now = self._format(session)
            if now == 0:
                if session.execute(b"select 1 from pg_namespace where nspname = %s", [self._database.schema]).fetchone() is None:
                    session.execute(f'create schema "{self._database.schema}"'.encode())
                session.execute(BEFORE.encode())
            for number, script in enumerate(self._formats[now:], now + 1):
                session.execute(script.encode())
                session.execute(b"insert into format (number) values (%s)", [number])
        self._known = len(self._formats)

    def _format(self, session: psycopg.Connection[tuple[Any, ...]]) -> int:
        """The format, 0 for none yet; asked for until it is this version's."""
        if self._known == len(self._formats):
            return self._known
        schema, there = self._database.schema, b"select 1 from pg_tables where schemaname = %s and tablename = 'format'"
        if session.execute(there, [schema]).fetchone() is None:
            return 0
        known = f'select coalesce(max(number), 0) from "{schema}".format'  # noqa: S608 # nosec B608 - one name, without quotes
        self._known = _number(session.execute(known.encode()))  # by the whole name: who may not look there is told so
        if self._known > len(self._formats):
            raise JournalError(
                f"the journal was written by a newer version (format {self._known})",
                where=self.where,
                right=f"format {len(self._formats)} or older",
                next="pip install --upgrade lockgate",
            )
        return self._known

    def _connected(self) -> psycopg.Connection[tuple[Any, ...]]:
        if self._session is None:
            self._session, self._known = self._database.session(), 0
        return self._session

    def _leave(self) -> None:
        if self._session is not None:
            self._session.close()
        self._session = None

    def _twice(self, do: Callable[[], T], doing: str) -> T:
        """What comes of it; done once more where it was begun on a session that is lost."""
        import psycopg

        with self._busy:
            before = self._session
            try:
                try:
                    return self._whole(do)
                except psycopg.OperationalError:
                    if before is None or self._session is not None:
                        raise
                    return self._whole(do)
            except psycopg.Error as error:
                raise self._database.broken(error, doing) from error

    def _whole(self, do: Callable[[], T]) -> T:
        """What comes of it. A session that is lost, or left in the middle of a transaction, is not used again."""
        from psycopg.pq import TransactionStatus

        try:
            return do()
        except BaseException:
            if self._session is not None and not (
                self._session.info.transaction_status == TransactionStatus.IDLE and not self._session.closed
            ):
                self._leave()
            raise


def _column(values: Sequence[Any]) -> list[Any]:
    """As PostgreSQL takes it, which knows no text with a NUL in it."""
    return [value.replace("\0", "\N{REPLACEMENT CHARACTER}") if isinstance(value, str) else value for value in values]


def _number(found: psycopg.Cursor[tuple[Any, ...]]) -> int:
    """The number in the only row."""
    row = found.fetchone()
    if row is None:
        raise AssertionError("a query for one number found none")
    return int(row[0])
