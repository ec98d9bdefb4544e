"""HTTPS for users: certificates that are looked at first, and switched without ending a connection."""

from __future__ import annotations

import hashlib
import http.client
import os
import signal
import stat
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from pipeline import Journal, Pipeline, Project, StageFailed, Store, WiringError
from pipeline.engines.local import free_port
from pipeline.journal import Event
from stages.delivery import process
from stages.delivery.haproxy import HAProxy
from stages.delivery.local import LocalTarget
from stages.delivery.preflight import Preflight
from stages.delivery.switch_certificate import SwitchCertificate
from stages.delivery.tls import Pair, Secret, Tls, checked, covers
from stages.image import Image
from tests.pipeline.toys import Constant, Fails
from tests.running import run_pipeline
from tests.stages.delivery.bench import Make
from tests.stages.delivery.conftest import release, up
from tests.stages.delivery.load import Load
from tests.stages.delivery.papers import DAY, Authority, Files, fingerprint, shown
from tests.stages.delivery.small import delivery, deployment
from tests.web import browser


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def files(tmp_path: Path, authority: Authority) -> Files:
    found = Files(tmp_path, free_port())
    found.write(authority.pair("localhost"))
    return found


def told(certificate: Path | Secret = Path("c"), *hosts: str) -> Tls:
    return Tls(port=8443, certificate=certificate, key=Path("k"), hosts=hosts or ("localhost",))


# Pure: which certificates are good.

LABEL = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)


@given(st.lists(LABEL, min_size=2, max_size=4))
def test_a_star_is_exactly_one_label(labels: list[str]) -> None:
    host, parent = ".".join(labels), ".".join(labels[1:])
    assert covers(host, host)
    assert covers(host.upper(), host)
    assert covers(f"*.{parent}", host)
    assert not covers(f"*.{host}", host)
    assert not covers(f"*.{parent}", f"more.{host}")
    assert not covers("*", host)


def test_a_star_is_no_address() -> None:
    assert not covers("*.0.2.1", "192.0.2.1")


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda who: who.pair("localhost", until=-DAY / 2), "is good no more"),
        (lambda who: who.pair("localhost", since=DAY), "is not good yet"),
        (
            lambda who: who.pair("localhost", key=ec.generate_private_key(ec.SECP256R1())),
            "the key is not that of",
        ),
        (lambda who: who.pair("other.example.org"), "not good for localhost"),
        (lambda who: who.pair(), "not good for localhost"),
        (lambda who: Pair(b"nothing", who.pair("localhost").key), "it is no certificate"),
        (lambda who: Pair(who.pair("localhost").chain, b"nothing"), "it is no key"),
    ],
)
def test_a_certificate_that_users_would_not_take_is_refused(
    make: Callable[[Authority], Pair], why: str, authority: Authority
) -> None:
    with pytest.raises(StageFailed, match=why):
        checked(make(authority), told(), datetime.now(UTC))


def test_a_certificate_is_good_for_names_stars_and_addresses(authority: Authority) -> None:
    pair = authority.pair("localhost", "*.example.org", "127.0.0.1")
    found = checked(pair, told(Path("c"), "localhost", "shop.example.org", "*.example.org", "127.0.0.1"), datetime.now(UTC))
    assert found.fingerprint == fingerprint(pair)
    with pytest.raises(StageFailed, match=r"not good for example\.org, 127\.0\.0\.2\n  expected: .* localhost, \*\.example\.org"):
        checked(pair, told(Path("c"), "example.org", "127.0.0.2"), datetime.now(UTC))


def test_one_that_is_over_by_the_second_is_over(authority: Authority) -> None:
    pair = authority.pair("localhost", until=DAY)
    until = checked(pair, told(), datetime.now(UTC)).until
    assert checked(pair, told(), until).until == until
    with pytest.raises(StageFailed, match="is good no more"):
        checked(pair, told(), until + timedelta(seconds=1))


def test_no_key_is_ever_printed(authority: Authority) -> None:
    pair = authority.pair("localhost")
    assert pair.key.decode().splitlines()[1] not in repr(pair)
    assert Pair.of(pair.pem) == Pair(pair.chain, pair.key)


@pytest.mark.parametrize("hosts", [(), ("https://localhost",), ("a b",)])
def test_hosts_that_are_none_are_refused_when_the_pipeline_is_built(hosts: tuple[str, ...]) -> None:
    with pytest.raises(WiringError, match=r"Tls\.hosts"):
        Tls(port=8443, certificate=Path("c"), key=Path("k"), hosts=hosts)


def test_http_and_https_on_one_port_are_refused_when_the_pipeline_is_built() -> None:
    with pytest.raises(WiringError, match="HTTP and HTTPS on one port, 8443"):
        HAProxy(name="app", port=8443, tls=told())


# Real routers.


def test_certificates_are_switched_under_load_and_no_connection_ends(
    target: LocalTarget, make: Make, image: Image, authority: Authority, files: Files, posts: Path
) -> None:
    router = make(port=free_port(), tls=files.tls, pair=files.read)
    trusting = authority.trusting
    first = fingerprint(files.read())

    def asked(connection: http.client.HTTPSConnection) -> str:
        connection.request("GET", "/")
        return connection.getresponse().read().decode()

    async def main() -> Load:
        blue = await up(target, release(image, posts, version="blue", instances=2))
        await router.split({blue.name: 100}, {blue.name: blue})
        assert shown(files.port, trusting) == first
        old = http.client.HTTPSConnection("localhost", files.port, timeout=30, context=trusting)
        with Load(files.port, tls=trusting) as load:
            for _ in range(25):
                assert asked(old) == "blue"
                pair = authority.pair("localhost")
                files.write(pair)
                found = await router.certify()
                assert found is not None
                assert found.fingerprint == fingerprint(pair) == shown(files.port, trusting)
                await anyio.to_thread.run_sync(load.more, 5)
        assert (
            hashlib.sha256(old.sock.getpeercert(binary_form=True) or b"").hexdigest() == first
        )  # the same connection all the time
        old.close()
        return load

    load = anyio.run(main)
    print(f"{load.sent} requests, {len(load.failures)} lost in 25 switches of a certificate")
    assert load.failures == []
    assert sorted(posts.read_text().splitlines()) == sorted(load.posted)


def test_a_router_that_was_killed_comes_back_with_the_certificate_it_had(
    target: LocalTarget, make: Make, image: Image, authority: Authority, files: Files
) -> None:
    router = make(port=free_port(), tls=files.tls, pair=files.read)

    async def main() -> None:
        blue = await up(target, release(image))
        await router.split({blue.name: 100}, {blue.name: blue})
        second = authority.pair("localhost")
        files.write(second)
        await router.certify()
        files.write(authority.pair("localhost", until=-DAY / 2))  # who goes back now need not care
        (running,) = process.running(str(router.state))
        os.kill(running.pid, signal.SIGKILL)
        with anyio.fail_after(10):
            while process.alive(running):
                await anyio.sleep(0.01)
        await router.split({blue.name: 100}, {blue.name: blue})
        assert shown(files.port, authority.trusting) == fingerprint(second)
        third = authority.pair("localhost")
        files.write(third)
        await router.stop()
        await router.certify()  # while it does not run
        await router.split({blue.name: 100}, {blue.name: blue})
        assert shown(files.port, authority.trusting) == fingerprint(third)

    anyio.run(main)


def test_a_certificate_that_is_no_good_changes_nothing(
    target: LocalTarget, make: Make, image: Image, authority: Authority, files: Files
) -> None:
    router = make(port=free_port(), tls=files.tls, pair=files.read)

    async def main() -> None:
        blue = await up(target, release(image))
        await router.split({blue.name: 100}, {blue.name: blue})
        before = fingerprint(files.read())
        kept = {path: path.read_bytes() for path in router.state.rglob("*certificate*")}
        files.write(authority.pair("localhost", until=-DAY / 2))
        with pytest.raises(StageFailed, match="good no more"):
            await router.certify()
        with pytest.raises(StageFailed, match="good no more"):
            await router.check()
        assert shown(files.port, authority.trusting) == before
        assert {path: path.read_bytes() for path in router.state.rglob("*certificate*")} == kept

    anyio.run(main)


def test_a_certificate_that_the_router_itself_does_not_take_changes_nothing(
    target: LocalTarget, make: Make, image: Image, authority: Authority, files: Files
) -> None:
    router = make(port=free_port(), tls=files.tls, pair=files.read)
    odd = authority.pair("localhost", curve=ec.SECP256K1)  # no curve of Envoy's
    if router.called == "HAProxy":
        good = authority.pair("localhost")
        odd = Pair(good.chain * 40, good.key)  # more than it takes through its socket

    async def main() -> None:
        blue = await up(target, release(image))
        await router.split({blue.name: 100}, {blue.name: blue})
        before = fingerprint(files.read())
        files.write(odd)
        with pytest.raises(StageFailed, match=router.called):
            await router.certify()
        assert shown(files.port, authority.trusting) == before
        assert fingerprint(Pair.of((router.state / "certificate.pem").read_bytes())) == before
        second = authority.pair("localhost")
        files.write(second)
        await router.certify()
        assert shown(files.port, authority.trusting) == fingerprint(second)

    anyio.run(main)


def test_keys_are_for_their_owner_alone(
    target: LocalTarget, make: Make, image: Image, authority: Authority, files: Files
) -> None:
    router = make(port=free_port(), tls=files.tls, pair=files.read)

    async def main() -> None:
        blue = await up(target, release(image))
        await router.split({blue.name: 100}, {blue.name: blue})
        files.write(authority.pair("localhost"))
        await router.certify()

    anyio.run(main)
    secret = b"PRIVATE KEY"
    found = [path for path in router.state.rglob("*") if path.is_file() and secret in path.read_bytes()]
    assert len(found) >= 2
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in found)


def test_https_comes_beside_http_without_losing_a_request_and_instances_are_told_of_it(
    target: LocalTarget, make: Make, image: Image, authority: Authority, files: Files, posts: Path
) -> None:
    plain = make(port=free_port())

    async def main() -> Load:
        blue = await up(target, release(image, posts, version="blue"))
        await plain.split({blue.name: 100}, {blue.name: blue})
        with Load(plain.config.port) as load:
            await anyio.to_thread.run_sync(load.more, 30)
            both = make(port=plain.config.port, tls=files.tls, pair=files.read)
            await both.certify()
            await both.split({blue.name: 100}, {blue.name: blue})
            await anyio.to_thread.run_sync(load.more, 60)
        async with browser(verify=authority.trusting) as client:
            assert (await client.get(f"https://localhost:{files.port}/header?x-forwarded-proto")).text == "https"
            assert (await client.get(f"{both.address.url}/header?x-forwarded-proto")).text == "http"
        await plain.split({blue.name: 100}, {blue.name: blue})
        with pytest.raises(OSError, match="refused"):
            shown(files.port, authority.trusting)
        again = authority.pair("localhost")
        files.write(again)
        await both.certify()
        await both.split({blue.name: 100}, {blue.name: blue})
        assert shown(files.port, authority.trusting) == fingerprint(again)
        return load

    assert anyio.run(main).failures == []


# Deliveries.


def test_a_deploy_switches_to_the_certificate_that_the_files_have_by_now(
    project: Project, store: Store, journal: Journal, authority: Authority, files: Files
) -> None:
    router = HAProxy(name="app", port=free_port(), tls=files.tls)

    deploy_stage = replace(deployment(router.port, "one"), router=router)

    def deploy() -> Mapping[str, str]:
        return run_pipeline(delivery(deploy_stage, "one"), project, store, journal)[0].failed

    assert deploy() == {}
    assert shown(files.port, authority.trusting) == fingerprint(files.read())
    second = authority.pair("localhost")
    files.write(second)
    assert deploy() == {}
    assert shown(files.port, authority.trusting) == fingerprint(second)
    noted = [event.data for event in journal.events() if event.kind == "router.certified"]
    assert [one["fingerprint"] for one in noted][1:] == [fingerprint(second)]
    files.write(authority.pair("other.example.org"))
    assert "the certificate is not good for localhost" in deploy()["deploy"]
    assert shown(files.port, authority.trusting) == fingerprint(second)


@pytest.mark.parametrize("kept", [True, False])
def test_a_certificate_that_was_switched_is_shown_until_a_check_below_fails(
    project: Project, store: Store, journal: Journal, authority: Authority, files: Files, *, kept: bool
) -> None:
    router = HAProxy(name="app", port=free_port(), tls=files.tls)
    deploy = replace(deployment(router.port, "one"), router=router)
    assert run_pipeline(delivery(deploy, "one"), project, store, journal)[0].failed == {}
    first, second = files.read(), authority.pair("localhost")
    files.write(second)
    switch = SwitchCertificate(router=router)
    one = Constant(value=1, after=(switch,))
    check = one if kept else Fails(of=one)
    failed = run_pipeline(Pipeline("switch", switch=switch, check=check), project, store, journal)[0].failed
    assert sorted(failed) == ([] if kept else ["check"])
    assert shown(files.port, authority.trusting) == fingerprint(second if kept else first)


def test_a_switch_whose_run_was_killed_is_taken_back_by_the_next_when_its_check_fails(
    project: Project, store: Store, authority: Authority, files: Files
) -> None:
    router = HAProxy(name="app", port=free_port(), tls=files.tls)

    def run(pipeline: Pipeline, *, die: bool = False) -> list[str]:
        """What failed; or it is killed when the certificate has just been switched."""
        with closing(Journal(project.home / "journal.db")) as journal:
            if die:
                journal.listen(lambda event: die_at(event, "switch", "stage.finished"))
            return sorted(run_pipeline(pipeline, project, store, journal)[0].failed)

    deploy = replace(deployment(router.port, "one"), router=router)
    assert run(delivery(deploy, "one")) == []
    first, second = files.read(), authority.pair("localhost")
    files.write(second)

    def switched() -> Pipeline:
        switch = SwitchCertificate(router=router)
        return Pipeline("switch", switch=switch, check=Fails(of=Constant(value=1, after=(switch,))))

    if not (child := os.fork()):
        with suppress(BaseException):
            run(switched(), die=True)
        os._exit(1)  # it was not killed
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert shown(files.port, authority.trusting) == fingerprint(second)
    assert run(switched()) == ["check"]
    assert shown(files.port, authority.trusting) == fingerprint(first)


def die_at(event: Event, stage: str, kind: str) -> None:
    if (event.stage, event.kind) == (stage, kind):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_kept_certificate_that_cannot_be_read_is_said_with_its_place(make: Make, files: Files) -> None:
    router = make(port=free_port(), tls=files.tls, pair=files.read)
    (router.state / "certificate.pem").write_text("half of it")
    with pytest.raises(StageFailed, match="the certificate of the router cannot be read: there is no key in it") as caught:
        anyio.run(router.certify)
    assert caught.value.where == str(router.state / "certificate.pem")


def test_a_certificate_that_is_not_the_one_that_was_switched_to_is_not_switched_back(
    make: Make, authority: Authority, files: Files
) -> None:
    router = make(port=free_port(), tls=files.tls, pair=files.read)

    async def main() -> None:
        only = await router.certify()
        assert only is not None
        assert (await router.certify_back(only) or "").startswith("no certificate was shown before")
        same = await router.certify()
        assert same is not None
        assert await router.certify_back(same) == "the same certificate was shown before"
        files.write(authority.pair("localhost"))
        second = await router.certify()
        assert second is not None
        files.write(authority.pair("localhost"))
        third = await router.certify()
        assert third is not None
        assert "another certificate is shown by now" in (await router.certify_back(second) or "")
        assert await router.certify_back(third) is None
        assert "another certificate is shown by now" in (await router.certify_back(third) or "")  # to repeat it does no harm

    anyio.run(main)


def test_a_key_may_be_a_secret_and_is_found_nowhere_else_than_with_the_router(
    project: Project, store: Store, journal: Journal, authority: Authority, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = authority.pair("localhost")
    monkeypatch.setenv("APP_CERTIFICATE", pair.chain.decode())
    monkeypatch.setenv("APP_KEY", pair.key.decode())
    tls = Tls(port=files.port, certificate=Secret("APP_CERTIFICATE"), key=Secret("APP_KEY"), hosts=("localhost",))
    router = HAProxy(name="app", port=free_port(), tls=tls)
    deploy = replace(deployment(router.port, "one"), router=router)
    assert run_pipeline(delivery(deploy, "one"), project, store, journal)[0].failed == {}
    assert shown(files.port, authority.trusting) == fingerprint(pair)
    line = pair.key.splitlines()[1]
    found = {path.name for path in project.home.rglob("*") if path.is_file() and line in path.read_bytes()}
    assert found == {"certificate.pem"}
    monkeypatch.delenv("APP_KEY")
    outcome = run_pipeline(delivery(deploy, "one"), project, store, journal)[0]
    assert "the secret APP_KEY is not set" in outcome.failed["deploy"]


def test_files_are_looked_for_in_the_project(
    project: Project, store: Store, journal: Journal, authority: Authority, files: Files
) -> None:
    tls = Tls(port=files.port, certificate=Path("tls/app.crt"), key=Path("tls/app.key"), hosts=("localhost",))
    router = HAProxy(name="app", port=free_port(), tls=tls)
    pipeline = Pipeline("preflight", check=Preflight(router=router))
    why = run_pipeline(pipeline, project, store, journal)[0].failed["check"]
    assert "tls/app.crt: it cannot be read: No such file or directory" in why
    (project.root / "tls").mkdir()
    Files(project.root / "tls", files.port).write(authority.pair("localhost"))
    outcome, found = run_pipeline(pipeline, project, store, journal)
    assert outcome.failed == {}
    assert f"127.0.0.1:{files.port} is free for HAProxy" in found["check"].said


def test_to_switch_the_certificate_of_a_router_without_one_is_refused_when_the_pipeline_is_built() -> None:
    with pytest.raises(WiringError, match=r"expected: a router with tls=Tls\(\.\.\.\)"):
        SwitchCertificate(router=HAProxy(name="app", port=8080))
