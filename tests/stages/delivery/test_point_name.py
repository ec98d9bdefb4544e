"""Names pointed elsewhere, on real BIND servers: a primary that takes updates or reads a file, and a secondary that follows."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from pipeline import Journal, Pipeline, Project, Stage, StageFailed, Store, WiringError, Work
from pipeline.run import Outcome
from stages.delivery.dns import OpensDns
from stages.delivery.model import Address, Binding
from stages.delivery.point_name import Pointed, PointName
from stages.delivery.records import Records, host_name, normal, records, within
from stages.delivery.rfc2136 import Rfc2136
from stages.delivery.zone_file import ZoneFile
from tests import warm
from tests.running import run_pipeline
from tests.stages.delivery.named import BETWEEN, PRIMARY, SECRET, STRANGER, ZONE, Between, Zone, needs_named, zone

TOP = Path(__file__).parents[3]

APP = f"app.{ZONE}"


@pytest.fixture
def dynamic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Zone]:
    """A zone that takes updates signed by the key `deploy`."""
    monkeypatch.setenv("DNS_KEY", SECRET)
    with zone(tmp_path, "allow-update {{ key deploy; }};") as found:
        yield found


@pytest.fixture
def filed(tmp_path: Path) -> Iterator[Zone]:
    """A zone that its primary reads from a file."""
    with zone(tmp_path, "") as found:
        yield found


def updates(port: int, **more: Any) -> Rfc2136:
    return Rfc2136(**{"server": PRIMARY, "zone": ZONE, "key": "deploy", "secret": "DNS_KEY", "port": port, **more})


def file_of(zone: Zone) -> Path:
    return zone.primary.place / "zone"


def filed_in(zone: Zone, **more: Any) -> ZoneFile:
    process = zone.primary.process
    assert process is not None
    about: dict[str, Any] = {"reload": ("kill", "-HUP", str(process.pid)), **more}
    return ZoneFile(path=str(file_of(zone)), zone=ZONE, port=zone.port, **about)


class Fails(Stage[Pointed]):
    """What comes after a name was pointed, and finds that it should not have been."""

    pointed: Stage[Pointed]

    async def run(self, work: Work) -> Pointed:
        raise StageFailed("it should not point there")


class Run:
    """Runs pipelines of one project, whose stage `point` is the one under test."""

    def __init__(self, project: Project, store: Store, journal: Journal) -> None:
        self.project, self.store, self.journal = project, store, journal

    def __call__(self, point: PointName, *, then_fails: bool = False) -> tuple[Outcome, Pointed | None]:
        more = {"check": Fails(pointed=point)} if then_fails else {}
        outcome, found = run_pipeline(Pipeline("names", point=point, **more), self.project, self.store, self.journal)
        return outcome, found.get("point")

    def passes(self, point: PointName) -> Pointed:
        outcome, found = self(point)
        assert outcome.failed == {}
        assert found is not None
        return found

    def fails(self, point: PointName) -> str:
        outcome, _ = self(point)
        return outcome.failed["point"]

    def data(self, kind: str) -> list[dict[str, Any]]:
        return [event.data for event in self.journal.events(kind=kind, stage="point")]

    def said(self) -> str:
        return "".join(path.read_text() for path in self.project.home.glob("logs/*/point/*"))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    from pipeline.settings import Settings

    root = tmp_path / "project"
    root.mkdir()
    (root / "pyproject.toml").write_text("[project]\nname = 'thing'\nversion = '1'\n")
    return Project(root=root, home=tmp_path / "home", settings=Settings())


@pytest.fixture
def run(project: Project, store: Store, journal: Journal) -> Run:
    project.home.mkdir()
    return Run(project, store, journal)


def point(dns: OpensDns, *values: str, **more: Any) -> PointName:
    return PointName(**{"dns": dns, "name": APP, "values": values, "ttl": 60, "within": 30, **more})


@needs_named
def test_a_name_is_pointed_at_other_addresses_and_every_server_of_the_zone_answers_with_them(dynamic: Zone, run: Run) -> None:
    done = run.passes(point(updates(dynamic.port), "192.0.2.20", "192.0.2.10"))
    for server in (dynamic.primary, dynamic.secondary):
        assert server.answer(APP) == ["60 192.0.2.10", "60 192.0.2.20"]
    assert done.servers == (f"ns1.{ZONE}", f"ns2.{ZONE}")
    assert done.before == Records(name=APP, type="A", ttl=300, values=("192.0.2.1",))
    assert run.data("dns.intended")[0]["before"] == {"name": APP, "type": "A", "ttl": 300, "values": ["192.0.2.1"]}
    assert {data["server"] for data in run.data("dns.seen")} == set(done.servers)
    assert "resolvers may go on with A 192.0.2.1 for 300 s" in run.said()


@needs_named
def test_a_name_that_has_no_records_gets_some_and_nothing_is_left_of_them_on_the_way_back(dynamic: Zone, run: Run) -> None:
    fresh = {"name": f"new.{ZONE}", "type": "AAAA"}
    run(point(updates(dynamic.port), "2001:DB8::1", **fresh), then_fails=True)
    assert dynamic.primary.answer(f"new.{ZONE}", "AAAA") == dynamic.secondary.answer(f"new.{ZONE}", "AAAA") == []
    run.passes(point(updates(dynamic.port), "2001:DB8::1", **fresh))
    assert dynamic.secondary.answer(f"new.{ZONE}", "AAAA") == ["60 2001:db8::1"]
    assert "resolvers may go on with no AAAA for 30 s" in run.said()


@needs_named
def test_records_that_are_so_already_are_left_alone(dynamic: Zone, run: Run) -> None:
    before = dynamic.primary.serial()
    done = run.passes(point(updates(dynamic.port), "192.0.2.1", ttl=300))
    assert dynamic.primary.serial() == before
    assert done.summary() == f"{APP} is A 192.0.2.1 (ttl 300), as before"
    assert run.data("dns.changed") == []


@needs_named
def test_another_ttl_is_a_change_too(dynamic: Zone, run: Run) -> None:
    run.passes(point(updates(dynamic.port), "192.0.2.1"))
    assert dynamic.secondary.answer(APP) == ["60 192.0.2.1"]


@needs_named
@pytest.mark.parametrize("kind", ["dynamic", "filed"])
def test_what_fails_below_points_the_name_back_at_what_it_was(kind: str, request: pytest.FixtureRequest, run: Run) -> None:
    found: Zone = request.getfixturevalue(kind)
    dns = updates(found.port) if kind == "dynamic" else filed_in(found)
    outcome, _ = run(point(dns, "192.0.2.20", "192.0.2.30"), then_fails=True)
    assert list(outcome.failed) == ["check"]
    assert [data["now"]["values"] for data in run.data("dns.changed")] == [["192.0.2.20", "192.0.2.30"], ["192.0.2.1"]]
    assert found.primary.answer(APP) == found.secondary.answer(APP) == ["300 192.0.2.1"]
    assert run.journal.latest("point", ("undo.done",)) is not None


@needs_named
def test_a_failover_goes_to_the_second_site_and_back(dynamic: Zone, run: Run) -> None:
    for site in ("198.51.100.7", "192.0.2.1", "198.51.100.7"):
        run.passes(point(updates(dynamic.port), site))
        assert dynamic.primary.answer(APP) == dynamic.secondary.answer(APP) == [f"60 {site}"]


@needs_named
def test_an_alias_is_pointed_at_another_host_and_never_stands_beside_other_records(dynamic: Zone, run: Run) -> None:
    alias = {"name": f"alias.{ZONE}", "type": "CNAME"}
    run.passes(point(updates(dynamic.port), "Edge.Example.net.", **alias))
    assert dynamic.secondary.answer(f"alias.{ZONE}", "CNAME") == ["60 edge.example.net."]
    assert "is an alias of edge.example.net (CNAME)" in run.fails(point(updates(dynamic.port), "192.0.2.5", name=f"alias.{ZONE}"))
    assert "does the name have records of other types?" in run.fails(
        point(updates(dynamic.port), "edge.example.net", type="CNAME")
    )
    assert dynamic.primary.answer(APP) == ["300 192.0.2.1"]


@needs_named
def test_the_answer_of_a_wildcard_is_not_taken_for_records_of_the_name(dynamic: Zone, run: Run) -> None:
    assert "is it an answer of a wildcard" in run.fails(point(updates(dynamic.port), "192.0.2.5", name=f"one.wild.{ZONE}"))
    assert dynamic.primary.answer(f"one.wild.{ZONE}") == ["300 192.0.2.50"]


@needs_named
def test_a_change_by_somebody_else_in_between_is_refused_and_not_overwritten(dynamic: Zone, run: Run) -> None:
    def first(hand_on: Callable[[], bytes]) -> bytes:
        dynamic.put(APP, "203.0.113.9")
        return hand_on()

    with Between(dynamic.port, [first]):
        said = run.fails(point(updates(dynamic.port, server=BETWEEN), "192.0.2.20"))
    assert f"{APP} is A 203.0.113.9 by now, where it was A 192.0.2.1: somebody else changed it meanwhile" in said
    assert dynamic.primary.answer(APP) == ["300 203.0.113.9"]


@needs_named
def test_on_the_way_back_too_what_somebody_else_has_put_there_stays(dynamic: Zone, run: Run) -> None:
    class Meddles(Stage[Pointed]):
        pointed: Stage[Pointed]

        async def run(self, work: Work) -> Pointed:
            dynamic.put(APP, "203.0.113.9")
            raise StageFailed("somebody was here")

    subject = point(updates(dynamic.port), "192.0.2.20")
    run_pipeline(Pipeline("names", point=subject, check=Meddles(pointed=subject)), run.project, run.store, run.journal)
    assert dynamic.primary.answer(APP) == ["300 203.0.113.9"]
    assert "which somebody else has changed: it stays" in run.data("undo.done")[0]["said"]


@needs_named
@pytest.mark.parametrize("arrives", [True, False])
def test_after_an_answer_that_was_lost_it_is_found_out_whether_the_update_took_place(
    arrives: bool, dynamic: Zone, run: Run
) -> None:
    def lost(hand_on: Callable[[], bytes]) -> None:
        if arrives:
            hand_on()

    before = dynamic.primary.serial()
    with Between(dynamic.port, [lost]) as between:
        run.passes(point(updates(dynamic.port, server=BETWEEN), "192.0.2.20"))
    assert dynamic.secondary.answer(APP) == ["60 192.0.2.20"]
    assert dynamic.primary.serial() == before + 1
    assert between.updates == (1 if arrives else 2)


@needs_named
def test_a_primary_that_dies_over_an_update_leaves_it_open_and_the_next_run_finds_out(
    dynamic: Zone, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(hand_on: Callable[[], bytes]) -> None:
        hand_on()
        dynamic.primary.stop()

    monkeypatch.setattr("stages.delivery.rfc2136.PATIENCE", 1.0)
    with Between(dynamic.port, [dies]):
        said = run.fails(point(updates(dynamic.port, server=BETWEEN), "192.0.2.20"))
    assert f"nobody knows whether {APP} is A 192.0.2.20" in said
    dynamic.primary.start()
    run.passes(point(updates(dynamic.port), "192.0.2.30"))
    assert dynamic.secondary.answer(APP) == ["60 192.0.2.30"]
    backs = [data for data in run.data("dns.changed") if data.get("back")]
    assert [data["now"]["values"] for data in backs] == [["192.0.2.1"]]


@needs_named
def test_a_server_that_does_not_follow_is_named_and_the_name_points_back(dynamic: Zone, run: Run) -> None:
    dynamic.secondary.stop()
    said = run.fails(point(updates(dynamic.port), "192.0.2.20", within=2))
    assert f"not every server of the zone answers with A 192.0.2.20 after 2 s: ns2.{ZONE}: ::1" in said
    assert dynamic.primary.answer(APP) == ["300 192.0.2.1"]


@needs_named
@pytest.mark.parametrize(
    ("more", "secret", "said"),
    [
        ({}, STRANGER, "the secret in DNS_KEY is not that of its key deploy"),
        ({"key": "unknown"}, SECRET, "it knows no key unknown for hmac-sha256"),
        ({"algorithm": "hmac-sha512"}, SECRET, "it knows no key deploy for hmac-sha512"),
        ({"key": "stranger"}, STRANGER, "answers REFUSED: it does not let key stranger do this in example.test"),
        ({"zone": "example.org", "name": "app.example.org"}, SECRET, "answers REFUSED"),
        ({"server": "127.0.0.9"}, SECRET, "127.0.0.9 port .* does not answer: .*, and nothing was changed"),
        ({}, "this is no base64", "DNS_KEY is no secret of a TSIG key"),
    ],
)
def test_an_update_that_is_not_taken_says_why_and_changes_nothing(
    more: dict[str, Any], secret: str, said: str, dynamic: Zone, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    import re

    monkeypatch.setenv("DNS_KEY", secret)
    name = more.pop("name", APP) if "name" in more else APP
    failed = run.fails(point(updates(dynamic.port, **more), "192.0.2.20", name=name))
    assert re.search(said, failed), failed
    assert secret not in failed
    assert dynamic.primary.answer(APP) == ["300 192.0.2.1"]


@needs_named
def test_the_secret_of_the_key_is_in_no_file_that_the_run_leaves(dynamic: Zone, run: Run) -> None:
    run.passes(point(updates(dynamic.port), "192.0.2.20"))
    files = [path for path in run.project.home.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


@needs_named
def test_a_zone_in_a_file_is_written_whole_with_a_higher_serial_and_what_else_it_says(filed: Zone, run: Run) -> None:
    file = file_of(filed)
    file.chmod(0o640)
    before = filed.primary.serial()
    run.passes(point(filed_in(filed), "192.0.2.20"))
    assert filed.primary.serial() == filed.secondary.serial() == before + 1
    assert filed.secondary.answer(APP) == ["60 192.0.2.20"]
    assert filed.primary.answer(f"other.{ZONE}") == ["300 192.0.2.99"]
    assert filed.primary.answer(f"alias.{ZONE}", "CNAME") == ["300 app.example.test."]
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert sorted(path.name for path in file.parent.glob("zone*")) == ["zone", "zone.lock"]


@needs_named
def test_a_file_that_is_so_already_is_not_written(filed: Zone, run: Run) -> None:
    before = file_of(filed).read_bytes()
    run.passes(point(filed_in(filed, reload=("false",)), "192.0.2.1", ttl=300))
    assert file_of(filed).read_bytes() == before


@needs_named
def test_a_reload_that_fails_takes_the_file_back(filed: Zone, run: Run) -> None:
    said = run.fails(point(filed_in(filed, reload=("sh", "-c", "echo rndc: error: connection refused; exit 1")), "192.0.2.20"))
    assert "ended with exit code 1: rndc: error: connection refused" in said
    assert "192.0.2.1\n" in file_of(filed).read_text()
    assert "192.0.2.20" not in file_of(filed).read_text()


@needs_named
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "the zone cannot be read: No such file"),
        ("no zone at all", "it is no master file of example.test"),
        ("@ NS ns1\n", "it is no master file of example.test"),
        ("$INCLUDE others\n", "it is no master file of example.test"),
    ],
)
def test_a_file_that_is_no_zone_is_left_alone(content: str | None, said: str, filed: Zone, run: Run) -> None:
    file = file_of(filed)
    file.unlink() if content is None else file.write_text(content)
    assert said in run.fails(point(filed_in(filed), "192.0.2.20"))
    assert content == (file.read_text() if file.exists() else None)


@needs_named
def test_in_a_file_too_no_alias_stands_beside_other_records(filed: Zone, run: Run) -> None:
    assert f"{APP} has A records, and a CNAME may stand beside nothing else" in run.fails(
        point(filed_in(filed), "edge.example.net", type="CNAME")
    )
    assert "is an alias of app.example.test" in run.fails(point(filed_in(filed), "192.0.2.5", name=f"alias.{ZONE}"))
    assert filed.primary.answer(APP) == ["300 192.0.2.1"]


class Found(Stage[Address]):
    """A host that is known once something runs."""

    host: str

    async def run(self, work: Work) -> Address:
        return Address(host=self.host, port=80)


class Bound(Stage[Binding]):
    """A value that is known once something runs."""

    value: str

    async def run(self, work: Work) -> Binding:
        return Binding(variable="EDGE", value=self.value)


@needs_named
def test_what_other_stages_found_is_pointed_at_too(dynamic: Zone, run: Run) -> None:
    found = (Found(host="192.0.2.31"), Bound(value="192.0.2.32"))
    subject = point(updates(dynamic.port), "192.0.2.30", found=found)
    pipeline = Pipeline("names", one=found[0], two=found[1], point=subject)
    assert run_pipeline(pipeline, run.project, run.store, run.journal)[0].failed == {}
    assert dynamic.primary.answer(APP) == ["60 192.0.2.30", "60 192.0.2.31", "60 192.0.2.32"]
    bad = Found(host="localhost")
    pipeline = Pipeline("names", one=bad, point=point(updates(dynamic.port), found=(bad,)))
    failed = run_pipeline(pipeline, run.project, run.store, run.journal)[0].failed["point"]
    assert f"{APP} cannot point at what was found" in failed


PROGRAM = "import sys; from tests.stages.delivery.test_point_name import main; sys.exit(main(*sys.argv[1:]))"


@needs_named
@pytest.mark.parametrize("at", ["effect.intended", "dns.intended", "dns.changed", "dns.seen", "stage.finished"])
def test_what_a_killed_run_left_is_taken_back_by_the_next_one_and_done_anew(at: str, dynamic: Zone, run: Run) -> None:
    words = (run.project.root, run.project.home, run.store.root, dynamic.port, "192.0.2.20", at)
    process = warm.start(["-c", PROGRAM, *map(str, words)], cwd=TOP, env=os.environ)
    assert process.wait() == -signal.SIGKILL, process.output
    reached = at in ("dns.changed", "dns.seen", "stage.finished")
    assert dynamic.primary.answer(APP) == (["60 192.0.2.20"] if reached else ["300 192.0.2.1"])
    journal = Journal(run.project.home / "journal.db")
    again = Run(run.project, run.store, journal)
    done = again.passes(point(updates(dynamic.port), "192.0.2.30"))
    assert done.before == Records(name=APP, type="A", ttl=300, values=("192.0.2.1",))
    assert dynamic.primary.answer(APP) == ["60 192.0.2.30"]
    journal.close()


def main(root: str, home: str, store: str, port: str, value: str, at: str) -> int:
    """A run that is killed as soon as an event of a kind about its stage is in the journal."""
    from pipeline.journal import Event
    from pipeline.settings import Settings

    project = Project(root=Path(root), home=Path(home), settings=Settings())
    journal = Journal(project.home / "journal.db")

    def die(event: Event) -> None:
        if event.stage == "point" and event.kind == at:
            os.kill(os.getpid(), signal.SIGKILL)

    journal.listen(die)
    subject = point(updates(int(port)), value)
    pipeline = Pipeline("names", point=subject, check=Fails(pointed=subject))
    run_pipeline(pipeline, project, Store(Path(store)), journal)
    return 0


@needs_named
def test_a_dry_run_says_from_where_to_where_and_changes_nothing(dynamic: Zone, project: Project, run: Run) -> None:
    import anyio

    subject = point(updates(dynamic.port), "192.0.2.20")

    looks: Any = SimpleNamespace(project=run.project, orders=lambda *, standing: [])
    steps = anyio.run(subject.steps, looks)
    assert steps == [f"point {APP} from A 192.0.2.1 (ttl 300) to A 192.0.2.20 (ttl 60)"]
    assert dynamic.primary.answer(APP) == ["300 192.0.2.1"]


DNS = updates(53)


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"name": "app.example.org"}, "app.example.org is not in the zone example.test"),
        ({"name": "notexample.test"}, "notexample.test is not in the zone"),
        ({"name": "a b.example.test"}, "is no host name"),
        ({"name": "*.example.test"}, "is no host name"),
        ({"name": f"{'a' * 64}.example.test"}, "is no host name"),
        ({"type": "MX"}, "type is 'MX'"),
        ({"ttl": -1}, "ttl is -1"),
        ({"ttl": 2**31}, "ttl is 2147483648"),
        ({"ttl": True}, "ttl is True"),
        ({"values": ()}, "would point nowhere"),
        ({"values": ("192.0.2.256",)}, "192.0.2.256"),
        ({"values": ("2001:db8::1",)}, "2001:db8::1"),
        ({"values": ("192.0.2.1",), "type": "AAAA"}, "192.0.2.1"),
        ({"values": ("a.net", "b.net"), "type": "CNAME"}, "a CNAME has one value"),
        ({"values": (APP,), "type": "CNAME"}, "an alias of itself"),
        ({"name": ZONE, "values": ("a.net",), "type": "CNAME"}, "is the zone itself"),
        ({"within": 0}, "within is 0"),
    ],
)
def test_a_name_a_ttl_or_a_value_that_no_zone_may_hold_is_refused_when_the_pipeline_is_built(
    more: dict[str, Any], problem: str
) -> None:
    with pytest.raises(WiringError, match=problem.replace("*", ".")):
        PointName(**{"dns": DNS, "name": APP, "values": ("192.0.2.1",), **more})


@pytest.mark.parametrize(
    "build",
    [
        lambda: updates(0),
        lambda: updates(53, zone="Example.test"),
        lambda: updates(53, zone=""),
        lambda: updates(53, algorithm="hmac-md5"),
        lambda: updates(53, secret="no name"),
        lambda: updates(53, timeout=0),
        lambda: ZoneFile(path="", zone=ZONE),
        lambda: ZoneFile(path="zone", zone=".test"),
    ],
)
def test_a_zone_that_nobody_could_reach_is_refused_when_the_pipeline_is_built(build: Callable[[], OpensDns]) -> None:
    with pytest.raises(WiringError):
        build()


LABELS = some.from_regex(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,20}[A-Za-z0-9_])?", fullmatch=True)


@given(some.lists(LABELS, min_size=1, max_size=6), some.booleans())
def test_a_name_has_one_form_however_it_is_written(labels: list[str], dot: bool) -> None:
    text = ".".join(labels)
    assert host_name(text + "." * dot) == host_name(text.upper()) == text.lower()
    assert host_name(host_name(text)) == host_name(text)


@given(some.lists(some.ip_addresses(v=4), min_size=1, max_size=5), some.randoms())
def test_the_order_and_the_number_of_times_a_value_is_given_make_no_difference(values: list[Any], shuffled: Any) -> None:
    texts = [str(one) for one in values]
    other = [*texts, texts[0]]
    shuffled.shuffle(other)
    assert records(APP, "A", 60, texts) == records(APP, "A", 60, other)


@given(some.ip_addresses(v=6))
def test_an_address_has_one_form_however_it_is_written(address: Any) -> None:
    assert normal("AAAA", address.exploded.upper()) == normal("AAAA", str(address)) == str(address)


def test_a_name_that_only_ends_like_the_zone_is_not_in_it() -> None:
    assert within("a.example.test", ZONE)
    assert within(ZONE, ZONE)
    assert not within("aexample.test", ZONE)
