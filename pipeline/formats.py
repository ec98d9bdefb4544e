"""The formats of a journal, from the first to today's, each as a script that makes it of the one before.

A format is written once, for SQLite and for PostgreSQL, with what differs between them in its `Dialect`.
"""

from __future__ import annotations

from typing import NamedTuple


class Dialect(NamedTuple):
    """How a database says what the other says in other words. `TABLE`, `DOING` and `NAME` are filled in."""

    integer: str
    real: str
    strict: str
    by_key: str
    member: str
    """The text in a member of the JSON object `data`."""
    covered: str
    """What an index has besides what it is searched by. PostgreSQL refuses entries over a third of a page, as concerns may be."""
    removal: str
    """What takes rows away."""
    refuse: str
    allow: str

    def field(self, name: str) -> str:
        return self.member.replace("NAME", name)

    def refused(self, doing: str, table: str) -> str:
        """A trigger that refuses to do that with any row."""
        return self.refuse.replace("NAME", doing.partition(" ")[0]).replace("DOING", doing).replace("TABLE", table)

    def allowed(self, doing: str, table: str) -> str:
        """Without that trigger."""
        return self.allow.replace("NAME", doing.partition(" ")[0]).replace("TABLE", table)


SQLITE = Dialect(
    integer="integer",
    real="real",
    strict=" strict",
    by_key=" strict, without rowid",
    member="json_extract(data, '$.NAME')",
    covered=", made",
    removal="delete",
    refuse="create trigger TABLE_no_NAME before DOING on TABLE begin select raise(abort, 'the journal is append-only'); end;",
    allow="drop trigger TABLE_no_NAME;",
)

POSTGRESQL = Dialect(
    integer="bigint",
    real="double precision",
    strict="",
    by_key="",
    member="(data::json ->> 'NAME')",
    covered="",
    removal="delete or truncate",
    refuse="create trigger TABLE_no_NAME before DOING on TABLE for each statement execute function append_only();",
    allow="drop trigger TABLE_no_NAME on TABLE;",
)


def first(sql: Dialect) -> str:
    return f"""
create table event (
    seq   {sql.integer} primary key,
    run   text not null,
    at    {sql.real} not null,
    kind  text not null,
    stage text not null default '',
    data  text not null default '{{}}'
){sql.strict};
create index event_run on event (run, seq);
create index event_stage on event (stage, kind, seq);
{sql.refused("update", "event")}
{sql.refused(sql.removal, "event")}
"""


def second(sql: Dialect) -> str:
    return f"""
{sql.allowed("update", "event")}
drop index if exists event_key;
alter table event add column key text;
alter table event add column made text;
alter table event add column text text;
update event set key = {sql.field("key")}, made = {sql.field("result")} || coalesce({sql.field("concern")}, '')
    where kind = 'stage.finished' and {sql.field("key")} is not null;
create index event_key on event (key, seq{sql.covered}) where key is not null;
create table text (digest text primary key, data text not null){sql.by_key};
{sql.refused("update", "event")}
{sql.refused("update", "text")}
{sql.refused(sql.removal, "text")}
"""  # noqa: S608 # nosec B608 - fixed words


FORMATS = (first, second)


def scripts(sql: Dialect) -> tuple[str, ...]:
    """One for each format."""
    return tuple(script(sql) for script in FORMATS)
