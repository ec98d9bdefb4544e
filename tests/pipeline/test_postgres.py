"""Where a journal in PostgreSQL is: its address, and the schema of each pipeline."""

from __future__ import annotations

import sys

import pytest

from pipeline.errors import ConfigError, JournalError
from pipeline.postgres import LONGEST, Database, checked, schema_of
from tests.postgres import Server


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://me:geheim@db/ci",
        "postgres://me:geheim@db/ci",
        "postgresql://db/ci?password=geheim",
        "postgresql://db/ci?p%61ssword=geheim",
        "postgresql://db/ci?sslmode=verify-full&sslpassword=geheim",
    ],
)
def test_an_address_with_a_password_is_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(ConfigError, match="has a password in it") as caught:
        checked(address)
    assert "geheim" not in str(caught.value)
    assert "PGPASSFILE" in caught.value.next


@pytest.mark.parametrize("address", ["mysql://db/ci", "journal.db", "host=db dbname=ci", "postgresql://[::1/ci"])
def test_what_is_no_address_of_postgresql_is_refused_with_one_that_is(address: str) -> None:
    with pytest.raises(ConfigError, match="is no address of a journal") as caught:
        checked(address)
    assert caught.value.right.startswith("postgresql://HOST/DATABASE")


@pytest.mark.parametrize("address", ["postgresql://db/ci", "postgresql://me@a:5432,b:5433/ci?target_session_attrs=read-write"])
def test_an_address_without_a_password_is_taken_as_it_is(address: str) -> None:
    assert checked(address) == address


def test_two_pipelines_never_share_a_schema() -> None:
    names = ["thing", "Thing", 'thi"ng', "é" * 40, "é" * 41, f"{'é' * 40} ", "a\0b"]
    schemas = {schema_of(name) for name in names}
    assert len(schemas) == len(names)
    assert all(len(schema.encode()) <= LONGEST and '"' not in schema for schema in schemas)


def test_without_psycopg_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(JournalError, match="needs psycopg") as caught:
        Database("postgresql://db/ci", "thing").session()
    assert caught.value.next == "pip install 'psycopg[binary]>=3.2'"


@pytest.mark.parametrize(("options", "expected"), [("", "on"), ("?options=-csynchronous_commit%3Dremote_apply", "remote_apply")])
def test_a_session_waits_until_a_commit_is_durable_whatever_the_server_does_otherwise(
    postgres: Server, options: str, expected: str
) -> None:
    assert postgres.sql("show synchronous_commit") == [("off",)]
    with Database(postgres.address + options, "thing").session() as session:
        assert session.execute("show synchronous_commit").fetchone() == (expected,)
