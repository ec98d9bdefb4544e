"""The database schema: brings it to a revision and tells how far it is."""

from functools import cache

import psycopg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from camera_counting.counts import Pool

_SCRIPTS = "camera_counting:migrations"


class SchemaError(RuntimeError):
    """The database lacks migrations that this version needs."""


def upgrade(database_url: str) -> None:
    """Apply all migrations that are still missing."""
    with psycopg.connect(database_url) as connection:
        command.upgrade(_config(connection), "head")


def downgrade(database_url: str, revision: str) -> None:
    """Take back the migrations after `revision`; "base" takes back all."""
    with psycopg.connect(database_url) as connection:
        command.downgrade(_config(connection), revision)


def revision(database_url: str) -> str:
    """The revision of a database that has been migrated; "base" before the first."""
    with psycopg.connect(database_url) as connection:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return "base" if row is None else str(row[0])


def check(pool: Pool, timeout: float) -> None:
    """Raise SchemaError unless every known migration is applied.

    A revision this version does not know is a later one: during a rollout the old
    version keeps serving while the new one has already migrated.
    """
    head, known = _revisions()
    with pool.connection(timeout=timeout) as connection:
        exists = connection.execute("SELECT to_regclass('alembic_version') IS NOT NULL").fetchone()
        if exists is None or not exists[0]:
            raise SchemaError(f"database schema is empty, revision {head} is needed")
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    current = None if row is None else str(row[0])
    if current is None or (current in known and current != head):
        raise SchemaError(f"database schema is at {current or 'base'}, revision {head} is needed")


@cache
def _revisions() -> tuple[str, frozenset[str]]:
    """The latest revision, and all of them; read once, as probes come every few seconds."""
    script = ScriptDirectory.from_config(_config())
    known = [each.revision for each in script.walk_revisions()]
    return known[0], frozenset(known)


def _config(connection: psycopg.Connection | None = None) -> Config:
    """Alembic configuration without a file; `migrations/env.py` takes the connection from it."""
    config = Config()
    config.set_main_option("script_location", _SCRIPTS)
    config.attributes["connection"] = connection
    return config
