import threading

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from camera_counting import schema
from camera_counting.__main__ import main
from camera_counting.counts import Counts, Pool

pytestmark = pytest.mark.integration


def tables(database: str) -> set[str]:
    with psycopg.connect(database) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        return {row[0] for row in rows} - {"alembic_version"}


def columns(database: str) -> list[tuple[str, ...]]:
    with psycopg.connect(database) as connection:
        return connection.execute(
            """
            SELECT table_name, column_name, data_type, is_nullable, column_default
            FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2
            """
        ).fetchall()


def test_going_down_and_up_again_restores_the_schema(empty_database: str) -> None:
    schema.upgrade(empty_database)
    before = columns(empty_database)
    assert tables(empty_database) == {"cameras", "frames"}
    schema.downgrade(empty_database, "base")
    assert tables(empty_database) == set()
    schema.upgrade(empty_database)
    assert columns(empty_database) == before


def test_migrating_twice_changes_nothing(database: str) -> None:
    before = columns(database)
    schema.upgrade(database)
    assert columns(database) == before


def test_running_totals_start_with_the_frames_counted_before(database: str) -> None:
    schema.downgrade(database, "0001")
    with psycopg.connect(database) as connection:
        connection.execute(
            """
            INSERT INTO cameras VALUES ('busy', 30, 90, '', 'x'), ('idle', 30, 90, '', 'y');
            INSERT INTO frames VALUES
                ('busy', '2', 5, '2024-01-01 00:00:02Z'), ('busy', '1', 3, '2024-01-01 00:00:01Z')
            """
        )
    schema.upgrade(database)
    pool: Pool = ConnectionPool(database, min_size=1, open=True)
    with pool:
        busy, idle = Counts(pool).totals()
    assert (busy.frames, busy.total, busy.last_count) == (2, 8, 5)
    assert busy.last_frame_at is not None
    assert busy.last_frame_at.timestamp() == 1704067202
    assert (idle.frames, idle.total, idle.last_count, idle.last_frame_at) == (0, 0, None, None)


def test_processes_that_migrate_at_once_wait_for_each_other(empty_database: str) -> None:
    # Alembic keeps its context in module globals, so the rivals need processes or, as
    # here, one rival that holds the lock by hand.
    with psycopg.connect(empty_database) as rival:
        rival.execute("SELECT pg_advisory_xact_lock(7302114)")
        thread = threading.Thread(target=schema.upgrade, args=(empty_database,))
        thread.start()
        thread.join(0.5)
        assert thread.is_alive()
        assert tables(empty_database) == set()
    thread.join(20)
    assert tables(empty_database) == {"cameras", "frames"}


def test_the_command_line_goes_up_and_down_and_says_where_it_is(
    empty_database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", empty_database)
    for _ in range(2):  # the second time there is nothing to do
        assert main(["migrate"]) == 0
        assert tables(empty_database) == {"cameras", "frames"}
        assert capsys.readouterr().out == "the schema is at 0002\n"
    assert main(["migrate", "--down-to", "base"]) == 0
    assert tables(empty_database) == set()
    assert capsys.readouterr().out == "the schema is at base\n"


def test_an_unknown_revision_is_one_clear_line(
    database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", database)
    assert main(["migrate", "--down-to", "nowhere"]) == 1
    assert capsys.readouterr().err.startswith("camera_counting: Can't locate revision")
