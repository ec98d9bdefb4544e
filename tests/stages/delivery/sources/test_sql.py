"""Business measures in a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import anyio
import pytest

from pipeline import WiringError
from stages.delivery.sources.sql import SqlMetrics, SqlShare
from tests.postgres import Server
from tests.stages.delivery.sources.watching import Seen

QUERY = "select count(*) filter (where state = 'failed'), count(*) from orders where release = %(group)s"


@pytest.fixture
def shop(postgres: Server) -> Iterator[Server]:
    postgres.sql("drop table if exists orders")
    postgres.sql("create table orders (release text, state text)")
    yield postgres
    postgres.sql("drop table orders")


def orders(shop: Server, group: str, state: str, number: int) -> None:
    shop.sql(f"insert into orders select '{group}', '{state}' from generate_series(1, {number})")


def share(shop: Server, query: str = QUERY, timeout: float = 5.0) -> SqlShare:
    return SqlShare(name="orders", dsn=shop.address, query=query, every=0.02, timeout=timeout)


def test_rows_that_came_since_the_last_look_are_counted_also_after_the_sessions_were_lost(shop: Server) -> None:
    orders(shop, "one", "failed", 3)

    async def main() -> None:
        said: list[str] = []
        async with SqlMetrics(share(shop), said.append).watch({"one"}, {"two"}) as counted:
            seen = Seen(counted)
            await seen.known()
            orders(shop, "one", "done", 40)
            orders(shop, "two", "failed", 2)
            await seen.reach((0, 40), (2, 2))
            shop.end_sessions()
            orders(shop, "one", "failed", 1)
            orders(shop, "two", "done", 5)
            await seen.until(lambda: any("terminating connection" in line for line in said))
            await seen.reach((1, 41), (2, 7))

    anyio.run(main)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("delete from orders where release = %(group)s returning 1, 1", "read-only transaction"),
        ("select 1, 2, %(group)s", "1 rows of 3 columns"),
        ("select 'NaN'::numeric, 5 where %(group)s <> ''", "column 1 is no count"),
        ("select sum(1) filter (where state = 'failed'), 5 from orders where release = %(group)s", "column 1 is no count: None"),
        ("select no, such from orders where release = %(group)s", "does not exist"),
        ("select 1, 1 from pg_sleep(30) where %(group)s <> ''", ""),
    ],
)
def test_a_query_that_gives_no_two_counts_in_time_is_unknown_and_changes_nothing(shop: Server, query: str, reason: str) -> None:
    orders(shop, "one", "done", 1)

    async def main() -> None:
        said: list[str] = []
        async with SqlMetrics(share(shop, query, timeout=0.5 if not reason else 10), said.append).watch(
            {"one"}, {"two"}
        ) as counted:
            assert counted.shares() == [None, None]
        assert (reason or "0.5 s") in said[0] or "statement timeout" in said[0]

    anyio.run(main)
    assert shop.sql("select count(*) from orders") == [(1,)]


def test_a_server_that_is_not_there_is_unknown() -> None:
    async def main() -> None:
        said: list[str] = []
        nowhere = SqlShare(name="orders", dsn="postgresql://x@127.0.0.1:1/x", query=QUERY, every=0.02)
        async with SqlMetrics(nowhere, said.append).watch({"one"}, {"two"}) as counted:
            assert counted.shares() == [None, None]
        assert said[0].startswith("orders: ")

    anyio.run(main)


def test_a_query_about_all_releases_at_once_is_refused() -> None:
    with pytest.raises(WiringError, match="asks about all releases at once"):
        SqlShare(name="orders", dsn="", query="select 1, 2")
