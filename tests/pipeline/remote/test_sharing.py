"""What machines share through a remote cache, and that no server can fail a run or change what it finds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gates import Check, QualityGate
from gates.verdict import Verdict, failed, passed
from pipeline import Blob, Pipeline, Result, Stage, Work, digest
from pipeline import record as records
from pipeline.engines.local import free_port
from pipeline.errors import Exit, JournalError
from pipeline.remote import client, upload
from pipeline.remote.access import Access
from pipeline.remote.action_result import ActionResult, decode, encode
from pipeline.store import CHUNK
from tests.pipeline.remote.conftest import NewHome
from tests.pipeline.remote.homes import building
from tests.pipeline.remote.servers import (
    BASIC,
    LOCKED,
    READABLE,
    WRITABLE,
    Adversary,
    Nginx,
    adversary,
    bazel_remote,
    needs_bazel_remote,
    needs_nginx,
    nginx,
    respond,
)
from tests.pipeline.toys import Constant, Counted, Fails, FromFile, Half, Make, Number, Sends

RAN = {"number": "passed", "writes": "passed", "reads": "passed"}
SHARED = {"number": "cached", "writes": "cached", "reads": "cached"}
RESULT = Number(value=7)

SPOILT: list[Callable[[bytes], bytes]] = [
    lambda data: bytes([data[0] ^ 1]) + data[1:] if data else b"x",
    lambda data: data[:-1],
    lambda data: data + b"x",
]


def a_key() -> tuple[bytes, bytes]:
    """A private key and its public one."""
    private = Ed25519PrivateKey.generate()
    return private.private_bytes_raw(), private.public_key().public_bytes_raw()


PRIVATE, PUBLIC = a_key()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Nginx]:
    with nginx(tmp_path / "nginx") as found:
        yield found


@needs_nginx
def test_a_second_machine_takes_everything_from_the_server_and_executes_nothing(server: Nginx, new_home: NewHome) -> None:
    first, second = new_home(), new_home()
    assert first.states(building(), Access(address=server.address, write=True)) == RAN
    assert second.states(building(), Access(address=server.address)) == SHARED
    assert second.events("action.started") == []
    assert [event.data["from"] for event in second.events("stage.cached")] == [server.address] * 3
    assert second.events("stage.cached")[0].data["made_in"] == first.runs[0]


@needs_nginx
def test_what_is_taken_is_what_was_made_and_large_files_too(server: Nginx, new_home: NewHome) -> None:
    first, second, pipeline = new_home(), new_home(), building(size=3 * CHUNK + 1)
    _, made = first.run(pipeline, Access(address=server.address, write=True))
    _, taken = second.run(pipeline, Access(address=server.address))
    assert taken == made
    assert second.store.checked(taken["writes"].note).stat().st_size == 3 * CHUNK + 1
    assert second.store.entries(taken["writes"].tree) == first.store.entries(made["writes"].tree)
    assert not list(second.store.root.glob(".new-*"))


@needs_nginx
def test_what_a_stage_leaves_runs_on_where_the_stage_below_it_is_new(server: Nginx, new_home: NewHome) -> None:
    first, second, pipeline = new_home(), new_home(), building()
    first.run(pipeline, Access(address=server.address, write=True))
    states = second.states(pipeline, Access(address=server.address), again=frozenset({"reads"}))
    assert states == {**SHARED, "reads": "passed"}


@needs_nginx
def test_nothing_is_sent_twice(server: Nginx, new_home: NewHome) -> None:
    access = Access(address=server.address, write=True)
    new_home().run(building(), access)
    before = server.requests("PUT")
    assert all(request.endswith(" 201") for request in before)
    new_home().states(building(), access, again=frozenset({"number", "writes", "reads"}))
    assert server.requests("PUT")[len(before) :] == []


@needs_nginx
def test_who_only_reads_never_writes(server: Nginx, new_home: NewHome) -> None:
    assert new_home().states(building(), Access(address=server.address)) == RAN
    assert server.requests("GET")
    assert not server.requests("PUT")
    assert not server.requests("HEAD")


@needs_nginx
def test_a_stage_that_is_to_run_again_does(server: Nginx, new_home: NewHome) -> None:
    new_home().run(building(), Access(address=server.address, write=True))
    states = new_home().states(building(), Access(address=server.address), again=frozenset({"writes"}))
    assert states == {**SHARED, "writes": "passed"}


@needs_nginx
def test_a_source_is_read_here(server: Nginx, new_home: NewHome) -> None:
    source = FromFile(path="n")
    pipeline = Pipeline("thing", source=source, half=Half(of=source))
    new_home().run(pipeline, Access(address=server.address, write=True))
    assert new_home().states(pipeline, Access(address=server.address)) == {"source": "passed", "half": "cached"}


@needs_nginx
@pytest.mark.parametrize("kind", ["ac", "cas"])
def test_bytes_that_were_changed_on_the_server_are_a_miss(server: Nginx, new_home: NewHome, kind: str) -> None:
    new_home().run(building(), Access(address=server.address, write=True))
    for path in server.objects():
        if path.parent.name == kind:
            path.write_bytes(SPOILT[0](path.read_bytes()))
    home = new_home()
    assert home.states(building(), Access(address=server.address)) == RAN
    assert home.events("remote.failed")
    assert home.run(building(), None)[1]["reads"] == RESULT
    for blob in (home.store.root / "blobs").rglob("*"):
        assert blob.is_dir() or home.store.checked(Blob(digest=blob.name, size=0)) == blob


@needs_nginx
@pytest.mark.parametrize("spoil", SPOILT)
@pytest.mark.parametrize("kind", ["ac", "cas"])
def test_bytes_that_were_changed_on_the_server_are_put_right_by_who_may_write(
    server: Nginx, new_home: NewHome, spoil: Callable[[bytes], bytes], kind: str
) -> None:
    first, access = new_home(), Access(address=server.address, write=True)
    first.run(building(), access)
    writes = first.history().stages["writes"]
    path = server.place / "data" / kind / (writes.key if kind == "ac" else writes.result)
    path.write_bytes(spoil(path.read_bytes()))
    assert new_home().states(building(), access) == {**SHARED, "writes": "passed"}
    assert new_home().states(building(), access) == SHARED


@needs_nginx
def test_an_entry_that_lost_an_object_is_made_whole_by_who_may_write(server: Nginx, new_home: NewHome) -> None:
    access = Access(address=server.address, write=True)
    new_home().run(building(), access)
    kept = {path: path.read_bytes() for path in server.objects()}
    for path in kept:
        if path.parent.name == "cas":
            path.unlink()
    assert new_home().states(building(), access) == RAN
    assert new_home().states(building(), Access(address=server.address)) == SHARED


@needs_nginx
def test_the_record_of_another_key_is_a_miss(server: Nginx, new_home: NewHome) -> None:
    new_home().run(building(), Access(address=server.address, write=True))
    entries = [path for path in server.objects() if path.parent.name == "ac"]
    bodies = [path.read_bytes() for path in entries]
    for path, body in zip(entries, [*bodies[1:], bodies[0]], strict=True):
        path.write_bytes(body)
    home = new_home()
    assert home.states(building(), Access(address=server.address)) == RAN
    assert {event.data["reason"] for event in home.events("remote.failed")} == {
        "its record is damaged, or belongs under another key"
    }


def changed(text: bytes, key: str, **fields: Any) -> bytes:
    """A record as somebody would write it who makes things up."""
    record = records.read(text, key)
    assert record is not None
    return records.written(record._replace(**fields))


@needs_nginx
def test_a_summary_that_somebody_made_up_is_not_shown(server: Nginx, new_home: NewHome) -> None:
    new_home().run(building(), Access(address=server.address, write=True))
    for path in [path for path in server.objects() if path.parent.name == "ac"]:
        entry = decode(path.read_bytes())
        record = server.place / "data" / "cas" / entry.files[0].digest
        text = changed(record.read_bytes(), path.name, summary="\x1b[2J", concern="no", contents=[])
        name = digest.of_bytes(text)
        (server.place / "data" / "cas" / name).write_bytes(text)
        forged = type(entry.files[0])("record", name, len(text))
        path.write_bytes(encode(ActionResult((forged, *entry.files[1:]))))
    home = new_home()
    assert home.states(building(), Access(address=server.address)) == SHARED
    assert [event.data["summary"] for event in home.events("stage.cached")] == ["7", "3 files, 4 bytes", "7"]
    assert {event.data["concern"] for event in home.events("stage.cached")} == {""}


class Found(Result):
    """Evidence that may be used again when nothing was found."""

    count: int

    def reusable(self) -> bool:
        return self.count == 0


class Looks(Stage[Found]):
    async def run(self, work: Work) -> Found:
        return Found(count=0)


@needs_nginx
def test_a_result_that_is_not_to_be_used_again_is_not_taken(server: Nginx, new_home: NewHome) -> None:
    first, pipeline = new_home(), Pipeline("thing", looks=Looks())
    first.run(pipeline, Access(address=server.address, write=True))
    path = server.place / "data" / "ac" / first.history().stages["looks"].key
    record = decode(path.read_bytes()).files[0]
    result = digest.canonical({"count": 1})
    name = digest.of_bytes(result)
    text = changed(_kept(server, record.digest).read_bytes(), path.name, result=name)
    for data in (result, text):
        _kept(server, digest.of_bytes(data)).write_bytes(data)
    files = (type(record)("record", digest.of_bytes(text), len(text)), type(record)("objects/it", name, len(result)))
    path.write_bytes(encode(ActionResult(files)))
    home = new_home()
    assert home.states(pipeline, Access(address=server.address)) == {"looks": "passed"}
    assert home.events("remote.failed")[0].data["reason"] == "its result is not to be used again"


@needs_nginx
@pytest.mark.parametrize(("which", "said"), [("result", "are the most"), ("note", "more than half of")])
def test_what_is_said_to_be_too_large_is_not_even_asked_for(server: Nginx, new_home: NewHome, which: str, said: str) -> None:
    first = new_home()
    _, results = first.run(building(), Access(address=server.address, write=True))
    writes = first.history().stages["writes"]
    name = writes.result if which == "result" else results["writes"].note.digest
    path = server.place / "data" / "ac" / writes.key
    entry = decode(path.read_bytes())
    files = (replace(file, size=2**60) if file.digest == name else file for file in entry.files)
    path.write_bytes(encode(ActionResult(tuple(files))))
    home = new_home()
    assert home.states(building(), Access(address=server.address)) == {**SHARED, "writes": "passed"}
    assert said in home.events("remote.failed")[0].data["reason"]
    assert not [request for request in server.requests("GET") if name in request]


def _kept(server: Nginx, name: str) -> Path:
    return server.place / "data" / "cas" / name


# trust


def has_value(number: Number) -> Verdict:
    return passed("has value", "it has", wanted="one")


def gated() -> Pipeline:
    """A number that a gate weighs, and one beside it that nothing weighs."""
    source = FromFile(path="n")
    number, thing = Half(of=source), Make(of=source)
    gate = QualityGate(artifact=thing, checks=(Check(evidence=number, rule=has_value),))
    return Pipeline("thing", source=source, number=number, thing=thing, gate=gate, beside=Constant(value=4))


@needs_nginx
def test_what_nobody_signed_is_kept_away_from_gates_and_taken_elsewhere(server: Nginx, new_home: NewHome) -> None:
    new_home().run(gated(), Access(address=server.address, write=True))
    home = new_home()
    states = home.states(gated(), Access(address=server.address, trusted=(PUBLIC,)))
    assert {name for name, state in states.items() if state == "cached"} == {"beside"}
    assert {event.stage for event in home.events("remote.failed")} == {"number", "thing", "check"}


@needs_nginx
def test_what_a_trusted_key_signed_is_taken_for_a_gate_which_decides_here(server: Nginx, new_home: NewHome) -> None:
    new_home().run(gated(), Access(address=server.address, write=True, signing=PRIVATE))
    home = new_home()
    states = home.states(gated(), Access(address=server.address, trusted=(a_key()[1], PUBLIC)))
    assert {name for name, state in states.items() if state == "passed"} == {"source", "gate"}
    assert home.events("gate.decided")


@needs_nginx
def test_what_another_key_signed_is_as_good_as_unsigned(server: Nginx, new_home: NewHome) -> None:
    new_home().run(gated(), Access(address=server.address, write=True, signing=a_key()[0]))
    states = new_home().states(gated(), Access(address=server.address, trusted=(PUBLIC,)))
    assert states["number"] == "passed"


@needs_nginx
def test_a_later_run_with_a_gate_does_not_find_what_nobody_signed(server: Nginx, new_home: NewHome) -> None:
    source = FromFile(path="n")
    alone = Pipeline("thing", source=source, number=Half(of=source))
    new_home().run(alone, Access(address=server.address, write=True))
    home = new_home()
    reader = Access(address=server.address, trusted=(PUBLIC,))
    assert home.states(alone, reader)["number"] == "cached"
    assert home.states(alone, reader)["number"] == "cached"
    assert home.states(gated(), reader)["number"] == "passed"


@needs_nginx
def test_what_was_signed_is_kept_as_what_was_made_here(server: Nginx, new_home: NewHome) -> None:
    new_home().run(building(), Access(address=server.address, write=True, signing=PRIVATE))
    home = new_home()
    home.run(building(), Access(address=server.address, trusted=(PUBLIC,)))
    assert home.states(building(), None) == SHARED
    assert "from" not in home.events("stage.cached")[0].data


@needs_nginx
def test_who_signs_takes_only_what_is_signed(server: Nginx, new_home: NewHome) -> None:
    new_home().run(building(), Access(address=server.address, write=True))
    signer = Access(address=server.address, write=True, signing=PRIVATE, trusted=(PUBLIC,))
    assert new_home().states(building(), signer) == RAN
    assert new_home().states(building(), signer) == SHARED


@needs_nginx
def test_who_cannot_sign_does_not_take_a_signature_away(server: Nginx, new_home: NewHome) -> None:
    new_home().run(building(), Access(address=server.address, write=True, signing=PRIVATE))
    new_home().run(building(), Access(address=server.address, write=True), again=frozenset({"number", "writes", "reads"}))
    signer = Access(address=server.address, signing=PRIVATE, trusted=(PUBLIC,))
    assert new_home().states(building(), signer) == SHARED


@needs_nginx
def test_evidence_that_a_judge_said_no_to_is_taken_by_nobody_any_more(server: Nginx, new_home: NewHome, tmp_path: Path) -> None:
    lenient = tmp_path / "lenient"
    counter = tmp_path / "counter"

    def rule(number: Number) -> Verdict:
        return passed("r", "ok", wanted="") if lenient.exists() else failed("r", "too high", wanted="less")

    evidence = Counted(of=Constant(value=3), file=counter)
    pipeline = Pipeline("thing", evidence=evidence, check=Check(evidence=evidence, rule=rule))
    access = Access(address=server.address, write=True)
    first, second = new_home(), new_home()
    first.run(pipeline, access)
    first.run(pipeline, access)
    assert len(counter.read_text().splitlines()) == 2
    second.run(pipeline, access)
    assert len(counter.read_text().splitlines()) == 3
    assert not second.events("remote.failed")
    lenient.touch()
    second.run(pipeline, access)
    assert new_home().states(pipeline, Access(address=server.address))["evidence"] == "cached"
    assert len(counter.read_text().splitlines()) == 4


@needs_nginx
def test_evidence_that_a_judge_here_said_no_to_is_made_again_here_also_by_who_only_reads(
    server: Nginx, new_home: NewHome, tmp_path: Path
) -> None:
    def too_much(number: Number) -> Verdict:
        return failed("r", "too high", wanted="less")

    evidence = Counted(of=Constant(value=3), file=tmp_path / "counter")
    reader, home = Access(address=server.address), new_home()
    new_home().run(Pipeline("thing", evidence=evidence), Access(address=server.address, write=True))
    for state in ("cached", "passed"):
        home.run(Pipeline("thing", evidence=evidence, check=Check(evidence=evidence, rule=too_much)), reader)
        assert home.history().stages["evidence"].state == state


# authentication, and what a server refuses


@needs_nginx
def test_who_has_the_password_is_let_in(tmp_path: Path, new_home: NewHome) -> None:
    with nginx(tmp_path / "nginx", LOCKED) as server:
        access = Access(address=server.address, write=True, authorization=BASIC)
        assert new_home().states(building(), access) == RAN
        assert new_home().states(building(), access) == SHARED


@needs_nginx
def test_the_configuration_of_nginx_in_the_documentation_lets_anybody_read_and_who_has_the_password_write(
    tmp_path: Path, new_home: NewHome
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "remote-cache.md").read_text()
    found = re.search(r"location /lockgate/ \{\n(.*?)\n    \}\n", page, re.DOTALL)
    assert found is not None
    location = found[1].replace("/var/cache/lockgate", "PLACE").replace("/etc/nginx/cache-users", "PLACE/users")
    with nginx(tmp_path / "nginx", location) as server:
        address = f"{server.address}/lockgate"
        home = new_home()
        assert home.states(building(), Access(address=address, write=True)) == RAN
        assert [event.data["of"] for event in home.events("remote.off")] == ["writing"]
        assert new_home().states(building(), Access(address=address, write=True, authorization=BASIC)) == RAN
        assert new_home().states(building(), Access(address=address)) == SHARED


@needs_nginx
def test_who_has_no_password_is_told_once_and_asks_no_more(tmp_path: Path, new_home: NewHome) -> None:
    with nginx(tmp_path / "nginx", LOCKED) as server:
        home = new_home()
        assert home.states(building(), Access(address=server.address, write=True)) == RAN
        (off,) = home.events("remote.off")
        assert off.data["of"] == "reading and writing"
        assert "401" in off.data["reason"]
        assert "PIPELINE_REMOTE_CACHE_TOKEN" in off.data["reason"]
        assert len(server.requests("GET")) == 2  # one to see that it is up
        assert not server.requests("PUT")


@needs_nginx
@pytest.mark.parametrize(("location", "most", "status"), [(READABLE, "0", "405"), (WRITABLE, "1", "413")])
def test_where_nothing_can_be_written_reading_goes_on(
    tmp_path: Path, new_home: NewHome, location: str, most: str, status: str
) -> None:
    with nginx(tmp_path / "nginx") as server:
        new_home().run(building(), Access(address=server.address, write=True))
    with nginx(tmp_path / "nginx", location, most=most) as server:
        home = new_home()
        states = home.states(building(), Access(address=server.address, write=True), again=frozenset({"number"}))
        assert states == {**SHARED, "number": "passed"}
        for path in server.objects():
            path.unlink()
        assert home.states(building(), Access(address=server.address, write=True), again=frozenset(SHARED)) == RAN
        (off,) = home.events("remote.off")
        assert off.data["of"] == "writing"
        assert status in off.data["reason"]
        (unsent,) = home.events("remote.unsent")
        assert unsent.data["stages"] == ["number", "reads", "writes"]


# servers that misbehave


def same_as_ever(home_of: NewHome, address: str) -> list[str]:
    """A run against a server that is of no use: passes, finds the same, and says once that it asks no more. What it said."""
    home = home_of()
    outcome, results = home.run(building(), Access(address=address, write=True))
    assert outcome.exit is Exit.PASSED
    assert results["reads"] == RESULT
    assert len(home.events("remote.off")) == 1
    assert home.events("remote.unsent")[0].data["stages"]
    return [event.data["reason"] for event in home.events("remote.off")]


def test_a_dead_server_changes_nothing_and_is_told_once(new_home: NewHome) -> None:
    (reason,) = same_as_ever(new_home, f"http://127.0.0.1:{free_port()}")
    assert reason.startswith("3 failures in a row, the last one: no connection")


def test_a_server_that_never_answers_is_left_alone(new_home: NewHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "STALL", 0.2)
    with adversary(lambda server, _request: server.stopped.wait(60)) as found:
        (reason,) = same_as_ever(new_home, found.address)
        assert "nothing was heard for 0.2 s" in reason


def test_a_run_does_not_wait_for_ever_for_what_is_still_being_sent(new_home: NewHome, monkeypatch: pytest.MonkeyPatch) -> None:
    def deaf(server: Adversary, request: BaseHTTPRequestHandler) -> bool:
        return request.command != "GET" and server.stopped.wait(60)

    monkeypatch.setattr(upload, "LONGEST", 0.2)
    monkeypatch.setattr(client, "STALL", 60.0)
    monkeypatch.setattr(client, "PATIENCE", 60.0)
    with adversary(deaf) as found:
        home = new_home()
        assert home.states(building(), Access(address=found.address, write=True)) == RAN
        (unsent,) = home.events("remote.unsent")
        assert unsent.data["stages"] == ["number", "reads", "writes"]
        assert unsent.data["reason"] == "the run did not wait longer than 0.2 s"
        assert home.history().exit == 0


def trickle(server: Adversary, request: BaseHTTPRequestHandler) -> bool:
    """Enough to be alive, and never all of it."""
    request.send_response(200)
    request.send_header("Content-Length", "1000")
    request.end_headers()
    while not server.stopped.wait(0.02):
        request.wfile.write(b"x")
        request.wfile.flush()
    return True


def test_a_server_that_trickles_holds_nothing_up(new_home: NewHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PATIENCE", 0.1)
    with adversary(trickle) as found:
        (reason,) = same_as_ever(new_home, found.address)
        assert "slower than" in reason


def elsewhere(_server: Adversary, request: BaseHTTPRequestHandler) -> bool:
    respond(request, 302, Location="http://127.0.0.1:1/")
    return True


def broken(_server: Adversary, request: BaseHTTPRequestHandler) -> bool:
    respond(request, 500)
    return True


def endless(server: Adversary, request: BaseHTTPRequestHandler) -> bool:
    """More than anybody asked for, with no length."""
    request.send_response(200)
    request.end_headers()
    while not server.stopped.is_set():
        request.wfile.write(bytes(1 << 20))
    return True


def cut(_server: Adversary, request: BaseHTTPRequestHandler) -> bool:
    respond(request, 200, b"abc", length="1000")
    return True


def garbage(_server: Adversary, request: BaseHTTPRequestHandler) -> bool:
    respond(request, 200, b"\xff" * 100)
    return True


@pytest.mark.parametrize(
    ("trick", "said"),
    [(elsewhere, "302"), (broken, "500"), (endless, "more than"), (cut, "closed"), (garbage, "no message")],
)
def test_a_server_that_answers_wrongly_is_left_alone(
    new_home: NewHome, trick: Callable[[Adversary, BaseHTTPRequestHandler], bool], said: str
) -> None:
    with adversary(trick) as found:
        (reason,) = same_as_ever(new_home, found.address)
        assert said in reason


def test_a_full_server_is_only_read(new_home: NewHome) -> None:
    def full(_server: Adversary, request: BaseHTTPRequestHandler) -> bool:
        if request.command == "PUT":
            request.rfile.read(int(request.headers["Content-Length"]))
            respond(request, 507)
        return request.command == "PUT"

    with adversary(full) as found:
        (reason,) = same_as_ever(new_home, found.address)
        assert "507" in reason


def test_failures_that_are_not_in_a_row_do_not_turn_it_off(new_home: NewHome) -> None:
    def odd(server: Adversary, request: BaseHTTPRequestHandler) -> bool:
        return request.command == "GET" and len(server.asked) % 2 == 0 and broken(server, request)

    with adversary(odd) as found:
        home = new_home()
        numbers = {f"n{value}": Constant(value=value) for value in range(12)}
        assert set(home.states(Pipeline("thing", **numbers), Access(address=found.address)).values()) == {"passed"}
        assert len(home.events("remote.failed")) == 6
        assert not home.events("remote.off")


def test_a_run_that_fails_fails_with_a_remote_cache_too(new_home: NewHome) -> None:
    number = Constant(value=1)
    pipeline = Pipeline("thing", bad=Fails(of=number))
    with adversary() as found:
        for _ in range(2):
            outcome, _ = new_home().run(pipeline, Access(address=found.address, write=True))
            assert outcome.exit is Exit.FAILED
            assert outcome.failed.keys() == {"bad"}


def test_side_effects_take_place_once_and_are_confirmed_as_ever(new_home: NewHome, tmp_path: Path) -> None:
    pipeline = Pipeline("thing", sends=Sends(of=Constant(value=1), file=tmp_path / "sent"))
    with adversary() as found:
        access = Access(address=found.address, write=True)
        assert new_home().states(pipeline, access)["sends"] == "passed"
        assert new_home().states(pipeline, access)["sends"] == "passed"
    assert (tmp_path / "sent").read_text() == "sent\nsent\n"


def test_a_journal_that_is_gone_stops_the_run_as_ever(new_home: NewHome) -> None:
    home = new_home()

    def remove(_server: Adversary, _request: BaseHTTPRequestHandler) -> bool:
        for path in Path(home.journal.where).parent.glob("journal.db*"):
            path.unlink()
        return False

    with adversary(remove) as found, pytest.raises(JournalError, match="was removed while it was in use"):
        home.run(building(), Access(address=found.address, write=True))


# bazel-remote


@needs_bazel_remote
@pytest.mark.parametrize("locked", [False, True])
def test_bazel_remote_takes_entries_and_gives_them_back(tmp_path: Path, new_home: NewHome, locked: bool) -> None:
    with bazel_remote(tmp_path / "server", locked=locked) as address:
        access = Access(address=address, write=True, authorization=BASIC if locked else "", signing=PRIVATE, trusted=(PUBLIC,))
        first, second = new_home(), new_home()
        assert first.states(building(size=2 * CHUNK), access) == RAN
        assert not first.events("remote.unsent")
        assert second.states(building(size=2 * CHUNK), access) == SHARED
        assert second.events("action.started") == []
