"""A PostgreSQL database that many machines reach: its address, sessions with it, and what is said when there is none."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from pipeline import digest
from pipeline.errors import ConfigError, JournalError

if TYPE_CHECKING:
    import psycopg

SCHEMES = ("postgresql", "postgres")

DEFAULTS = {"connect_timeout": "10", "keepalives_idle": "20", "keepalives_interval": "5", "keepalives_count": "4"}
"""Of what an address may say otherwise: how soon a server or a network that is gone is noticed."""

PATIENCE = "30s"
"""How long to wait for other writers."""

LONGEST = 63
"""Bytes that PostgreSQL keeps of a name."""

SETTINGS = {
    "lock_timeout": PATIENCE,
    "default_transaction_isolation": "read committed",  # who waited for a turn sees what was committed meanwhile
    "tcp_keepalives_idle": "20",  # so soon the server notices that a machine is gone, and frees what its session held
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "4",
}

DURABLE = b"""
select set_config('synchronous_commit', 'on', false) where current_setting('synchronous_commit') <> 'remote_apply'
"""


class Database:
    """The schema of one pipeline in the database at `address`, which names no password. Raises ConfigError for one that does."""

    def __init__(self, address: str, pipeline: str) -> None:
        self.address, self.schema = checked(address), schema_of(pipeline)

    def session(self) -> psycopg.Connection[tuple[Any, ...]]:
        """A new one, which commits each statement by itself. Raises psycopg.Error, and JournalError where there is no psycopg."""
        try:
            import psycopg
            from psycopg.conninfo import conninfo_to_dict, make_conninfo
        except ImportError as error:
            raise JournalError(
                f"a journal in PostgreSQL needs psycopg: {error}", where=self.address, next="pip install 'psycopg[binary]>=3.2'"
            ) from error
        given = {name: value for name, value in conninfo_to_dict(self.address).items() if value is not None}
        session = psycopg.connect(make_conninfo("", **{**DEFAULTS, **given}), autocommit=True)
        try:
            settings = {"search_path": f'"{self.schema}"', **SETTINGS}
            session.execute(
                b"select set_config(name, value, false) from unnest(%s::text[], %s::text[]) as given (name, value)",
                [list(settings), list(settings.values())],
            )
            session.execute(DURABLE)
        except BaseException:
            session.close()
            raise
        return session

    def number(self, purpose: str) -> int:
        """The number of an advisory lock; PostgreSQL knows them by nothing else, and each database has its own."""
        named = hashlib.sha256(f"lockgate {self.schema} {purpose}".encode()).digest()
        return int.from_bytes(named[:8], signed=True)

    def broken(self, error: psycopg.Error, doing: str) -> JournalError:
        """What people are told. `doing` is what was to be done with the journal: read or written."""
        from psycopg import errors

        said = " ".join(str(error).split())
        if isinstance(error, errors.InsufficientPrivilege):
            return JournalError(
                f"the journal cannot be {doing}: {said}",
                where=self.address,
                right=f'a role that may use the schema "{self.schema}", and select and insert there',
                next="docs/journal.md says what to grant, and who makes the schema",
            )
        if isinstance(error, errors.DiskFull):
            return JournalError("the server's disk is full; what was recorded before is safe", where=self.address)
        if isinstance(error, errors.LockNotAvailable):
            return JournalError(
                f"the journal cannot be {doing}: another writer has kept it for {PATIENCE}",
                where=self.address,
                next=f"psql '{self.address}', and look for it in pg_stat_activity",
            )
        if isinstance(error, errors.ReadOnlySqlTransaction):
            return JournalError(
                f"the journal cannot be written: {said}",
                where=self.address,
                right="the server that takes writes; with several in the address, target_session_attrs=read-write finds it",
            )
        if type(error) is errors.OperationalError or isinstance(
            error, errors.AdminShutdown | errors.CrashShutdown | errors.CannotConnectNow
        ):
            return JournalError(
                f"the journal cannot be {doing}: the server does not answer: {said}",
                where=self.address,
                right="a PostgreSQL server that lets this user in; the password is in PGPASSFILE, PGPASSWORD or a service",
                next=f"psql '{self.address}' -c 'select 1'",
            )
        return JournalError(f"the journal cannot be {doing}: {said}", where=self.address, next=f"psql '{self.address}'")


def checked(address: str) -> str:
    """The address. Raises ConfigError for one that is no URL of PostgreSQL, or has a password in it, which is not repeated."""
    try:
        parts = urlsplit(address)
        secret = bool(parts.password) or any("password" in name for name in parse_qs(parts.query))
    except ValueError:
        parts, secret = urlsplit(""), False  # as for an IPv6 address that is not closed
    if secret:
        raise ConfigError(
            "the address of the journal has a password in it",
            where="journal in [tool.pipeline], or PIPELINE_JOURNAL",
            right="an address without one, as it is in version control, in messages and in lists of processes",
            next="put the password into ~/.pgpass (or PGPASSFILE), PGPASSWORD or a service of PGSERVICEFILE",
        )
    if parts.scheme not in SCHEMES:
        raise ConfigError(
            f"{address!r} is no address of a journal",
            where="journal in [tool.pipeline], or PIPELINE_JOURNAL",
            right="postgresql://HOST/DATABASE, or nothing for the file in the state directory",
        )
    return address


def schema_of(pipeline: str) -> str:
    """The schema of a pipeline; two names never share one.

    >>> schema_of("camera-counting")
    'lockgate_camera-counting'
    """
    schema = f"lockgate_{pipeline}"
    if len(schema.encode()) <= LONGEST and '"' not in schema and "\0" not in schema:
        return schema
    return f"lockgate_{digest.of_text(pipeline)[:32]}"
