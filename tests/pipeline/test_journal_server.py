"""A journal in PostgreSQL, where it differs from a file: many runners, lost sessions, rights, formats."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import re
import threading
from collections.abc import Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Literal

import psycopg
import pytest

from pipeline import Event, Journal
from pipeline.errors import JournalError
from pipeline.formats import POSTGRESQL, scripts
from pipeline.history import fold
from pipeline.journal_server import JournalServer
from pipeline.postgres import Database
from tests.postgres import Server, Wire, wire

WRITERS, EACH = 50, 4

STRICT = "?options=-cdefault_transaction_isolation%3Dserializable"
"""As a server may be set up; then a transaction sees what was committed before its first statement, which waits for its turn."""


@pytest.fixture
def name(tmp_path: Path) -> str:
    """Of a pipeline that has no journal yet."""
    return str(tmp_path)


@pytest.fixture
def schema(postgres: Server, name: str) -> str:
    return f'"{Database(postgres.address, name).schema}"'


@pytest.fixture
def journal(postgres: Server, name: str) -> Iterator[Journal]:
    with contextlib.closing(Journal(JournalServer(postgres.address, name))) as found:
        yield found


@pytest.fixture
def line(postgres: Server) -> Iterator[Wire]:
    with wire(postgres) as found:
        yield found


def kinds(journal: Journal) -> list[str]:
    return [event.kind for event in journal.events()]


@pytest.mark.parametrize("statement", ["update {} set {} = {}", "delete from {}", "truncate {}"])
@pytest.mark.parametrize(("table", "column"), [("event", "seq"), ("text", "digest"), ("batch", "first")])
def test_nothing_recorded_can_be_changed_or_removed(
    postgres: Server, journal: Journal, schema: str, statement: str, table: str, column: str
) -> None:
    journal.append(Event(run="r", kind="a", data={"x": "y" * 10_000}))
    with pytest.raises(psycopg.errors.RaiseException, match="the journal is append-only"):
        postgres.sql(statement.format(f"{schema}.{table}", column, column))


def write(address: str, name: str, writer: int) -> None:
    with contextlib.closing(Journal(JournalServer(address, name))) as journal:
        for number in range(EACH):
            journal.append(Event(run=f"w{writer}", kind="k", data={"n": number}), Event(run=f"w{writer}", kind="l"))


def test_fifty_writers_lose_nothing_are_not_locked_out_and_who_follows_misses_nothing(
    postgres: Server, journal: Journal, name: str
) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write, args=(postgres.address + STRICT, name, number)) for number in range(WRITERS)]
    for process in writers:
        process.start()
    followed = list[Event]()
    while any(process.is_alive() for process in writers):
        followed += journal.events(after=followed[-1].seq if followed else 0)
    followed += journal.events(after=followed[-1].seq)
    assert [process.exitcode for process in writers] == [0] * WRITERS
    assert [event.seq for event in followed] == list(range(1, WRITERS * EACH * 2 + 1))
    for writer in range(WRITERS):
        assert [event.data["n"] for event in followed if event.run == f"w{writer}" and event.kind == "k"] == list(range(EACH))
    pairs = zip(followed[::2], followed[1::2], strict=True)
    assert all((one.run, one.kind, two.kind) == (two.run, "k", "l") for one, two in pairs)  # what is appended together stays so


def test_a_journal_whose_sessions_were_lost_is_read_and_written_by_others(postgres: Server, journal: Journal) -> None:
    journal.append(Event(run="r", kind="a"))
    postgres.end_sessions()
    assert kinds(journal) == ["a"]
    postgres.end_sessions()
    journal.append(Event(run="r", kind="b"))
    assert kinds(journal) == ["a", "b"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_was_on_its_way_when_the_session_was_lost_is_written_once(
    line: Wire, name: str, when: Literal["before", "after"]
) -> None:
    told = list[tuple[str, int]]()
    with contextlib.closing(Journal(JournalServer(line.address, name))) as journal:
        journal.listen(lambda event: told.append((event.kind, event.seq)))
        journal.append(Event(run="r", kind="a"))
        line.cut = when
        journal.append(Event(run="r", kind="b"), Event(run="r", kind="c"))
        assert not line.cut
        assert kinds(journal) == ["a", "b", "c"]
    assert told == [("a", 1), ("b", 2), ("c", 3)]


def test_what_another_session_is_still_committing_is_written_once(
    postgres: Server, line: Wire, journal: Journal, name: str, schema: str
) -> None:
    """The server has the commit and takes its time, the writer has lost its session and comes again."""
    journal.append(Event(run="r", kind="a"))
    slow = "begin perform pg_advisory_xact_lock_shared(7); return null; end"
    postgres.sql(f"create function {schema}.slow() returns trigger language plpgsql as $$ {slow} $$")
    postgres.sql(
        f"create constraint trigger slow after insert on {schema}.event deferrable initially deferred "
        f"for each row execute function {schema}.slow()"
    )
    waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
    with psycopg.connect(postgres.address) as holder, contextlib.closing(Journal(JournalServer(line.address, name))) as other:
        holder.execute("select pg_advisory_xact_lock(7)")
        assert kinds(other) == ["a"]
        line.cut = "during"
        writer = threading.Thread(target=other.append, args=(Event(run="r", kind="b"),))
        writer.start()
        while postgres.sql(waiting) != [(2,)]:  # the commit waits for the holder, and who comes again for the commit
            assert writer.is_alive()
        holder.commit()
        writer.join()
    assert kinds(journal) == ["a", "b"]


def test_what_was_noted_and_written_though_nobody_could_tell_is_not_written_again(line: Wire, name: str) -> None:
    with contextlib.closing(Journal(JournalServer(line.address, name))) as journal:
        journal.append(Event(run="r", kind="a"))
        journal.note(Event(run="r", kind="noted"))
        line.cut, line.dead = "after", True
        with pytest.raises(JournalError, match="the server does not answer"):
            journal.append(Event(run="r", kind="b"))
        line.dead = False
        journal.append(Event(run="r", kind="c"))
        assert kinds(journal) == ["a", "noted", "b", "c"]


def test_a_server_that_does_not_answer_is_a_clear_error_with_a_way_to_look(line: Wire, name: str) -> None:
    line.dead = True
    with contextlib.closing(Journal(JournalServer(line.address, name))) as journal:
        with pytest.raises(JournalError, match="cannot be read: the server does not answer") as caught:
            journal.runs()
        assert (caught.value.where, caught.value.next) == (line.address, f"psql '{line.address}' -c 'select 1'")
        with pytest.raises(JournalError, match="cannot be written: the server does not answer"):
            journal.append(Event(run="r", kind="a"))


def test_an_error_of_the_server_leaves_the_session_fit_for_use(postgres: Server, journal: Journal, schema: str) -> None:
    journal.append(Event(run="r", kind="a"))
    postgres.sql(f"alter table {schema}.event add constraint no_b check (kind <> 'b')")
    with pytest.raises(JournalError, match=r"the journal cannot be written: new row .* violates"):
        journal.append(Event(run="r", kind="b"))
    journal.append(Event(run="r", kind="c"))
    assert [(event.kind, event.seq) for event in journal.events()] == [("a", 1), ("c", 2)]


def test_a_concern_with_a_nul_is_journalled_though_postgresql_knows_none(journal: Journal) -> None:
    finished = {"key": "k", "result": "a", "concern": "b\0"}
    journal.append(Event(run="r", kind="stage.finished", stage="s", data=finished))
    assert [event.data for event in journal.events()] == [finished]
    assert journal.made(["k"]) == {"k": "ab\N{REPLACEMENT CHARACTER}"}


def test_a_long_concern_is_journalled_and_found_by_its_key(journal: Journal) -> None:
    concern = "".join(map(chr, range(0x4E00, 0x4E00 + 9000)))  # three bytes each, and no two the same: nothing to compress
    journal.append(Event(run="r", kind="stage.finished", stage="s", data={"key": "k", "result": "a", "concern": concern}))
    assert journal.made(["k"]) == {"k": f"a{concern}"}


def test_a_journal_that_was_put_back_to_an_earlier_state_is_seen(postgres: Server, journal: Journal, schema: str) -> None:
    journal.check()  # nothing was written, so nothing can be lost
    journal.append(Event(run="r", kind="a"))
    journal.check()
    postgres.sql(f"set session_replication_role = replica; delete from {schema}.batch")
    with pytest.raises(JournalError, match="what this run recorded is not there any more"):
        journal.check()


def granted(name: str, role: str) -> list[str]:
    """What docs/journal.md says a runner's role needs, for this pipeline and role."""
    page = (Path(__file__).parents[2] / "docs" / "journal.md").read_text()
    found = [line for line in page.splitlines() if re.match(r"grant .* to runner;", line)]
    schema = Database("postgresql://db/ci", name).schema
    return [line.replace("lockgate_camera-counting", schema).replace("to runner;", f"to {role};") for line in found]


def test_a_runner_needs_what_the_docs_say_and_can_remove_nothing(
    postgres: Server, journal: Journal, name: str, schema: str
) -> None:
    role = f"runner_{abs(hash(name))}"
    postgres.sql(f"create role {role} login")
    address = postgres.address.replace("//postgres@", f"//{role}@")
    with contextlib.closing(Journal(JournalServer(address, name))) as runner:
        with pytest.raises(JournalError, match="permission denied") as caught:
            runner.append(Event(run="r", kind="a"))
        assert "docs/journal.md" in caught.value.next
        journal.append(Event(run="r", kind="a"))  # by who may make the tables
        with pytest.raises(JournalError, match="permission denied"):
            runner.append(Event(run="r", kind="b"))
        for statement in granted(name, role):
            postgres.sql(statement)
        runner.append(Event(run="r", kind="b", data={"x": "y" * 10_000}))
        runner.check()
        assert runner.effects_lock().try_take()
        assert kinds(runner) == ["a", "b"]
    with psycopg.connect(address) as session, pytest.raises(psycopg.errors.InsufficientPrivilege):
        session.execute(f"alter table {schema}.event disable trigger all".encode())
    postgres.sql(f"drop owned by {role}")
    postgres.sql(f"drop role {role}")


def test_a_journal_of_a_newer_version_is_a_clear_error_also_for_who_had_it_open(
    postgres: Server, journal: Journal, name: str, schema: str
) -> None:
    journal.append(Event(run="r", kind="a"))
    postgres.sql(f"insert into {schema}.format (number) values (99)")
    with pytest.raises(JournalError, match=r"newer version \(format 99\)") as caught:
        journal.append(Event(run="r", kind="b"))
    assert caught.value.next == "pip install --upgrade lockgate"
    with contextlib.closing(Journal(JournalServer(postgres.address, name))) as later:
        with pytest.raises(JournalError, match=r"newer version \(format 99\)"):
            later.runs()
        with pytest.raises(JournalError, match=r"newer version \(format 99\)"):
            later.append(Event(run="r", kind="a"))
    assert postgres.sql(f"select kind from {schema}.event") == [("a",)]


def migrate(address: str, name: str, number: int, ready: Barrier) -> None:
    with contextlib.closing(Journal(JournalServer(address, name))) as journal:
        assert journal.exists
        ready.wait()
        if number % 2:
            assert journal.made(["k"]) == {"k": "ab"}
        else:
            journal.append(Event(run=f"m{number}", kind="x"))


def test_runners_of_a_new_version_that_come_at_once_bring_the_journal_to_its_format_and_keep_what_it_had(
    postgres: Server, journal: Journal, name: str, schema: str
) -> None:
    finished = {"key": "k", "result": "a", "seconds": 2.0, "summary": "", "concern": "b"}
    planned = [{"name": "s", "inputs": [], "reason": "", "type": "S", "decision": "run"}]
    old = [
        ("r", "run.started", "", {"pipeline": "p", "engine": "host", "stages": planned}),
        ("r", "stage.finished", "s", finished),
    ]
    first = JournalServer(postgres.address, name, scripts(POSTGRESQL)[:1])
    first._migrate(first._connected())
    first.close()
    for seq, (run, kind, stage, data) in enumerate(old, 1):
        values = f"{seq}, '{run}', 1, '{kind}', '{stage}', '{json.dumps(data)}'"
        postgres.sql(f"insert into {schema}.event (seq, run, at, kind, stage, data) values ({values})")
    context = multiprocessing.get_context("fork")
    ready = context.Barrier(8)
    runners = [context.Process(target=migrate, args=(postgres.address, name, number, ready)) for number in range(8)]
    for process in runners:
        process.start()
    for process in runners:
        process.join()
    assert [process.exitcode for process in runners] == [0] * 8
    assert postgres.sql(f"select number from {schema}.format order by 1") == [(1,), (2,)]
    assert [(event.run, event.kind, event.stage, event.data) for event in journal.events()][:2] == old
    assert kinds(journal)[2:] == ["x"] * 4
    assert journal.last_keys()("s") == "k"
    assert fold(journal.events("r"))["r"].stages["s"].state == "passed"
    with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
        postgres.sql(f"update {schema}.event set run = 'x'")


def test_an_old_version_refuses_what_a_new_one_has_written(postgres: Server, journal: Journal, name: str) -> None:
    journal.append(Event(run="r", kind="a"))
    with contextlib.closing(Journal(JournalServer(postgres.address, name, scripts(POSTGRESQL)[:1]))) as old:
        with pytest.raises(JournalError, match=r"newer version \(format 2\)") as caught:
            old.runs()
        assert caught.value.right == "format 1 or older"
