"""Who gets a release before everybody does: pure parts, and both routers asked by many users."""

from __future__ import annotations

import http.client
import itertools
import os
import re
import signal
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import anyio
import anyio.abc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gates.judge import ErrorRate, Judge
from pipeline import StageFailed, WiringError
from pipeline.engines.local import free_port
from stages.delivery import process
from stages.delivery.audience import Audience, Chosen, Cohort, Cookie, Device, HasCookie, HasHeader, Header, Key, Region, Source
from stages.delivery.deployment import started_again
from stages.delivery.geo import networks, resolved
from stages.delivery.haproxy import HAProxyRouter
from stages.delivery.haproxy_audience import quoted
from stages.delivery.local import LocalTarget
from stages.delivery.model import Address, Group, State
from stages.delivery.router import Watch
from stages.delivery.step import Split, Weigh
from stages.delivery.strategy import BlueGreen, Canary
from stages.image import Image
from tests.stages.delivery.bench import AnyRouter, Bench, Make, end_processes
from tests.stages.delivery.conftest import blue_and_green, release, up
from tests.stages.delivery.load import Load

BY_UID = Cohort(Cookie("uid"))

# Pure.


def here(*names: str) -> dict[str, Group]:
    return {name: Group(name, (Address(host="127.0.0.1", port=4000 + number),)) for number, name in enumerate(names)}


def splits(canary: Canary, **blue: int) -> list[Split]:
    now = State(groups=here(*blue), weights=blue)
    return [step for step in canary.forward(now, "green") if isinstance(step, Split)]


AUDIENCES: tuple[Audience, ...] = (BY_UID, HasHeader(name="x-beta"), Region(networks=("10.0.0.0/8",)), Device("iPhone"))


@given(st.sampled_from(AUDIENCES), st.sets(st.integers(1, 99), min_size=1), st.integers(1, 99))
def test_an_audience_grows_everybody_else_stays_and_at_the_end_there_is_no_audience(
    audience: Audience, below: set[int], blue: int
) -> None:
    found = splits(Canary(shares=(*sorted(below), 100), audience=audience), one=blue, two=100 - blue)
    *grows, last = found
    assert last == Split((("green", 100),))
    for split, share in zip(grows, sorted(below), strict=True):
        assert dict(split.weights) == {"one": blue, "two": 100 - blue}
        assert split.chosen is not None
        assert split.chosen.audience == audience
        assert dict(split.chosen.weights)["green"] == share
        assert sum(share for _, share in split.chosen.weights) == 100


def test_all_of_an_audience_gets_it_before_everybody_only_when_that_is_said() -> None:
    beta = HasHeader(name="x-beta")
    said = splits(Canary(shares=(50, 100), audience=beta, whole=True), one=100)
    assert [str(split) for split in said] == [
        "send 50 % of requests with header x-beta to green, 50 % to one; of everybody else 100 % to one",
        "send 100 % of requests with header x-beta to green; of everybody else 100 % to one",
        "send 100 % to green",
    ]
    assert len(splits(Canary(shares=(100,), audience=beta, whole=True), one=100)) == 2
    with pytest.raises(WiringError, match="would get nothing before everybody does"):
        Canary(shares=(100,), audience=beta)
    for wrong in (None, BY_UID):
        with pytest.raises(WiringError, match=r"Canary\.whole"):
            Canary(audience=wrong, whole=True)


def test_the_way_back_is_a_split_without_an_audience() -> None:
    before = State(groups=here("one"), weights={"one": 100})
    back = Canary(audience=BY_UID).back(before, "green")
    assert [step for step in back if isinstance(step, Split)] == [Split((("one", 100),))]
    forward = Canary(audience=BY_UID, shares=(10, 100)).forward(before, "green")
    assert [step.against for step in forward if isinstance(step, Weigh)] == [("one",)]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Cookie("a b"), "Cookie: the name is 'a b'"),
        (lambda: Header(""), "Header: the name is ''"),
        (lambda: HasHeader(name="x", value="a\nb"), "HasHeader.value is"),
        (lambda: HasCookie(name="x", value="a", prefix="b"), "HasCookie has a value and a prefix"),
        (Region, "Region has neither networks nor countries"),
        (lambda: Region(networks=("10.0.0.1/8",)), "has host bits set"),
        (lambda: Region(countries=("AT",)), "Region has countries and no database"),
        (lambda: Region.of_countries(("at",), database=Path("x")), "Region.countries: at"),
        (lambda: Device("("), "Device.pattern"),
        (lambda: Device("a(?=b)"), "without look-around"),
    ],
)
def test_an_audience_that_no_router_could_tell_is_refused(make: object, said: str) -> None:
    assert callable(make)
    with pytest.raises(WiringError, match=re.escape(said)):
        make()


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_a_quoted_word_ends_where_it_ends(text: str) -> None:
    inside = quoted(text)[1:-1]
    assert re.sub(r"\\(.)", r"\1", inside) == text
    assert not re.search(r'(?<!\\)(?:\\\\)*["$]', inside)


def database(place: Path) -> Path:
    from mmdb_writer import MMDBWriter
    from netaddr import IPSet  # type: ignore[import-untyped]

    writer = MMDBWriter(ip_version=6, ipv4_compatible=True, database_type="Test-Country")
    for code, found in (("AT", ["127.0.1.0/25", "127.0.1.128/25"]), ("DE", ["127.0.2.0/24"]), ("FR", ["127.0.3.0/24"])):
        writer.insert_network(IPSet(found), {"country": {"iso_code": code}})
    writer.to_db_file(str(place))
    return place


def test_countries_are_looked_up_as_networks(tmp_path: Path) -> None:
    place = database(tmp_path / "countries.mmdb")
    assert networks(place, ("AT", "DE")) == ("127.0.1.0/24", "127.0.2.0/24")
    region = Region.of_countries(("FR",), database=place)
    found = resolved(Chosen(region, (("green", 100),)))
    assert found is not None
    assert isinstance(found.audience, Region)
    assert found.audience.networks == ("127.0.3.0/24",)
    with pytest.raises(StageFailed, match="knows no network in IT"):
        networks(place, ("AT", "IT"))
    place.write_bytes(b"nothing")
    with pytest.raises(StageFailed, match="the database of countries cannot be read"):
        networks(place, ("AT",))
    with pytest.raises(StageFailed, match="the database of countries cannot be read"):
        networks(tmp_path / "missing", ("AT",))


# Both routers.


@pytest.fixture
def router(make: Make) -> AnyRouter:
    return make(port=free_port())


class Two:
    """Two small servers that say their name to everybody, on kept connections."""

    def __init__(self, router: AnyRouter) -> None:
        self.router = router
        self.groups: dict[str, Group] = {}

    async def start(self, tasks: anyio.abc.TaskGroup) -> None:
        for name in ("blue", "green"):
            server = await anyio.create_tcp_listener(local_host="127.0.0.1")
            port = server.extra(anyio.abc.SocketAttribute.local_port)
            self.groups[name] = Group(name, (Address(host="127.0.0.1", port=port),))
            tasks.start_soon(self._serve, server, name.encode())

    async def _serve(self, server: anyio.abc.Listener[anyio.abc.SocketStream], name: bytes) -> None:
        async def answer(stream: anyio.abc.SocketStream) -> None:
            async with stream:
                left = b""
                try:
                    while True:
                        while b"\r\n\r\n" not in left:
                            left += await stream.receive()
                        _, _, left = left.partition(b"\r\n\r\n")
                        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(name), name))
                except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                    return

        async with server:
            await server.serve(answer)

    async def split(self, audience: Audience | None, share: int = 100) -> None:
        """So many percent of the audience, or else of all, to green; the others to blue."""
        weights = tuple((name, part) for name, part in (("green", share), ("blue", 100 - share)) if part)
        if audience is None:
            await self.router.split(dict(weights), self.groups)
        else:
            await self.router.split({"blue": 100}, self.groups, Chosen(audience, weights))


async def with_two(router: AnyRouter, work: object) -> None:
    assert callable(work)
    two = Two(router)
    async with anyio.create_task_group() as tasks:
        await two.start(tasks)
        await work(two)
        tasks.cancel_scope.cancel()


def asked(router: AnyRouter, requests: Iterable[tuple[str, dict[str, str]]], source: str = "127.0.0.1") -> list[tuple[str, str]]:
    """What each of the requests (a key, and headers) is answered, all on one kept connection."""
    connection = http.client.HTTPConnection("127.0.0.1", router.config.port, timeout=30, source_address=(source, 0))
    found = []
    for key, headers in requests:
        connection.request("GET", "/", headers=headers)
        answer = connection.getresponse()
        said = answer.read().decode()
        found.append((key, said if answer.status == 200 else str(answer.status)))
    connection.close()
    return found


def sent(key: Key, number: int) -> tuple[str, dict[str, str]]:
    name = f"user-{number:04}@example.org"
    headers = {"Cookie": f"theme=dark; {key.name}={name}; x=1"} if isinstance(key, Cookie) else {"x-user": name}
    return name, headers


@pytest.mark.parametrize("key", [Cookie("uid"), Header("x-user")], ids=str)
def test_a_cohort_has_its_share_of_keys_each_of_them_is_always_on_the_same_side_and_who_is_in_stays_in(
    router: AnyRouter, key: Key
) -> None:
    keys = 200

    async def work(two: Two) -> None:
        inside: dict[int, set[str]] = {}
        for share in (2, 10, 25, 50, 90):
            await two.split(Cohort(key), share)
            rounds = 3 if share == 10 else 1
            requests = [sent(key, number % keys) for number in range(rounds * keys)]
            found = await anyio.to_thread.run_sync(asked, router, requests)
            sides: dict[str, set[str]] = defaultdict(set)
            for name, answer in found:
                sides[name].add(answer)
            assert {len(answers) for answers in sides.values()} == {1}
            inside[share] = {name for name, answers in sides.items() if answers == {"green"}}
            assert {answer for _, answer in found} == {"blue", "green"}
            assert await router.current() == {"blue": 100, "green": 1}
        met = {share: 100 * len(who) / keys for share, who in inside.items()}
        print(f"{type(router).__name__}: percent of {keys} keys in: {met}")
        for less, more in itertools.pairwise(sorted(inside)):
            assert inside[less] <= inside[more]
        for share, who in inside.items():
            # by chance: so many keys in 10,000 buckets; four standard deviations
            assert abs(len(who) / keys - share / 100) <= 4 * (share * (100 - share)) ** 0.5 / 100 / keys**0.5
        await two.split(None, 100)
        assert {answer for _, answer in await anyio.to_thread.run_sync(asked, router, requests)} == {"green"}

    anyio.run(with_two, router, work)


def test_a_cohort_of_addresses_is_one_by_where_connections_come_from(router: AnyRouter) -> None:
    async def work(two: Two) -> None:
        inside: list[set[str]] = []
        for share in (25, 75):
            await two.split(Cohort(Source()), share)
            found = [
                (source, answer)
                for source in (f"127.0.{number // 200 + 1}.{number % 200 + 1}" for number in range(400))
                for _, answer in await anyio.to_thread.run_sync(asked, router, [("", {})] * 2, source)
            ]
            inside.append({source for source, answer in found if answer == "green"})
            assert not inside[-1] & {source for source, answer in found if answer == "blue"}
            assert abs(len(inside[-1]) / 400 - share / 100) < 0.09
        assert inside[0] <= inside[1]

    anyio.run(with_two, router, work)


@pytest.mark.parametrize(
    "headers", [{}, {"Cookie": "uid="}, {"Cookie": "uidx=a; notuid=b"}], ids=["no cookie", "empty", "others"]
)
def test_who_has_no_key_is_in_no_cohort(router: AnyRouter, headers: dict[str, str]) -> None:
    async def work(two: Two) -> None:
        await two.split(BY_UID, 99)
        assert {answer for _, answer in await anyio.to_thread.run_sync(asked, router, [("", headers)] * 20)} == {"blue"}

    anyio.run(with_two, router, work)


IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15"


@pytest.mark.parametrize(
    ("audience", "members", "others"),
    [
        (HasHeader(name="x-beta"), [{"X-Beta": "no"}], [{}, {"X-Bet": "1"}]),
        (
            HasHeader(name="x-beta", value='a "b" $c \\ #d'),
            [{"x-beta": 'a "b" $c \\ #d'}],
            [{}, {"x-beta": "a"}, {"x-beta": 'a "b" $c \\ #d e'}],
        ),
        (HasHeader(name="x-tenant", prefix="eu-"), [{"x-tenant": "eu-1"}, {"x-tenant": "eu-"}], [{"x-tenant": "us-eu-"}, {}]),
        (HasCookie(name="beta"), [{"Cookie": "a=b; beta=off"}], [{}, {"Cookie": "alphabeta=1"}, {"beta": "1"}]),
        (HasCookie(name="beta", value="on"), [{"Cookie": "beta=on"}, {"Cookie": "a=b; beta=on; c=d"}], [{"Cookie": "beta=one"}]),
        (HasCookie(name="beta", prefix="o"), [{"Cookie": "beta=on"}, {"Cookie": "a=b; beta=off; c=d"}], [{"Cookie": "beta=no"}]),
        (
            Device(r"iphone|Android [0-9]{2}"),
            [{"User-Agent": IPHONE}, {"User-Agent": "x Android 14"}],
            [{}, {"User-Agent": "Linux"}],
        ),
    ],
    ids=str,
)
def test_only_who_is_in_the_audience_gets_the_release(
    router: AnyRouter, audience: Audience, members: list[dict[str, str]], others: list[dict[str, str]]
) -> None:
    async def work(two: Two) -> None:
        await two.split(audience)
        for every, answer in ((members, "green"), (others, "blue")):
            found = await anyio.to_thread.run_sync(
                asked, router, [(str(headers), headers) for headers in every for _ in range(3)]
            )
            assert {said for _, said in found} == {answer}, found

    anyio.run(with_two, router, work)


@pytest.mark.parametrize("looked_up", [False, True], ids=["networks", "countries"])
def test_a_region_is_told_by_the_address_of_the_connection(router: AnyRouter, tmp_path: Path, looked_up: bool) -> None:
    async def work(two: Two) -> None:
        region = Region(networks=("127.0.1.0/24", "127.0.2.0/24", "2001:db8::/32"))
        if looked_up:
            found = resolved(Chosen(Region.of_countries(("AT", "DE"), database=database(tmp_path / "db.mmdb")), ()))
            assert found is not None
            assert isinstance(found.audience, Region)
            region = found.audience
        await two.split(region)
        for source, answer in (("127.0.1.7", "green"), ("127.0.2.255", "green"), ("127.0.3.1", "blue"), ("127.0.0.1", "blue")):
            spoofed = [("", {}), ("", {"X-Forwarded-For": "127.0.1.7"})]
            assert {said for _, said in await anyio.to_thread.run_sync(asked, router, spoofed, source)} == {answer}

    anyio.run(with_two, router, work)


def test_countries_that_were_not_looked_up_are_nobody_and_refused(router: AnyRouter) -> None:
    async def work(two: Two) -> None:
        with pytest.raises(StageFailed, match="nobody knows the networks of users in AT"):
            await two.split(Region(countries=("AT",), database=Path("x")))
        with pytest.raises(StageFailed, match="nobody is picked for users by cookie uid"):
            await router.split({"blue": 100}, two.groups, Chosen(BY_UID, (("blue", 100),)))

    anyio.run(with_two, router, work)


def test_a_share_below_all_of_an_audience_is_met_request_by_request(router: AnyRouter) -> None:
    async def work(two: Two) -> None:
        await two.split(HasHeader(name="x-beta"), 25)
        members = await anyio.to_thread.run_sync(asked, router, [("", {"x-beta": "1"})] * 200)
        others = await anyio.to_thread.run_sync(asked, router, [("", {})] * 50)
        assert abs(Counter(answer for _, answer in members)["green"] - 50) <= 4
        assert {answer for _, answer in others} == {"blue"}

    anyio.run(with_two, router, work)


async def counted(watch: Watch, number: int) -> list[int]:
    """Requests of green and of blue, once there are so many."""
    seen = [0, 0]
    with anyio.fail_after(10):
        while sum(seen) < number:
            await anyio.sleep(0.05)
            windows = watch.windows(["green"], ["blue"])
            seen = [have + (one.requests if one else 0) for have, one in zip(seen, windows, strict=True)]
    return seen


def test_of_groups_that_share_an_audience_only_what_it_asks_is_counted(router: AnyRouter) -> None:
    """Everybody else is served by blue alone: what they do is no comparison."""

    async def work(two: Two) -> None:
        keyed = [sent(Cookie("uid"), number) for number in range(100)]
        beta: list[tuple[str, dict[str, str]]] = [("", {"x-beta": "1"})] * 100
        for audience, share, members in ((BY_UID, 30, keyed), (HasHeader(name="x-beta"), 50, beta)):
            await two.split(audience, share)
            async with router.watch() as watch:
                found = Counter(answer for _, answer in await anyio.to_thread.run_sync(asked, router, members))
                await anyio.to_thread.run_sync(asked, router, [("", {})] * 70)
                assert found["green"] > 0
                seen = await counted(watch, 100)
                await anyio.sleep(0.5)  # what is not to be counted would be by now
                assert [one.requests for one in watch.windows(["green"], ["blue"]) if one] == [0, 0]
                assert seen == [found["green"], found["blue"]]
        await two.split(HasHeader(name="x-beta"), 100)
        async with router.watch() as watch:
            await anyio.to_thread.run_sync(asked, router, [("", {})] * 10 + beta[:5])
            assert await counted(watch, 15) == [5, 10]  # where blue has none of the audience, it is compared by everybody else

    anyio.run(with_two, router, work)


def test_no_request_is_lost_while_audiences_change(target: LocalTarget, router: AnyRouter, image: Image, posts: Path) -> None:
    audiences: tuple[Audience, ...] = (
        BY_UID,
        HasHeader(name="x-beta"),
        Region(networks=("127.0.0.0/8",)),
        Cohort(Source()),
        Device("."),
    )

    async def main() -> Load:
        blue = await up(target, release(image, posts, version="blue", instances=2))
        green = await up(target, release(image, posts, version="green", instances=2))
        groups = {blue.name: blue, green.name: green}
        await router.split({blue.name: 100}, groups)
        with Load(router.config.port) as load:
            for audience in audiences:
                for share in (10, 50, 100) if not isinstance(audience, Cohort) else (10, 99):
                    rest = ((blue.name, 100 - share),) if share < 100 else ()
                    await router.split({blue.name: 100}, groups, Chosen(audience, ((green.name, share), *rest)))
                    await anyio.to_thread.run_sync(load.more, 20)
                    if share == 50:
                        await router.split({blue.name: 100}, groups)
                        await anyio.to_thread.run_sync(load.more, 20)
            await router.split({green.name: 100}, groups)
            await anyio.to_thread.run_sync(load.more, 20)
        return load

    load = anyio.run(main)
    print(f"{load.sent} requests, {len(load.failures)} lost while audiences changed")
    assert load.failures == []
    assert min(load.answers["blue"], load.answers["green"]) > 20
    assert sorted(posts.read_text().splitlines()) == sorted(load.posted)


def test_a_router_that_is_killed_comes_back_with_its_audience(router: AnyRouter, make: Make) -> None:
    async def work(two: Two) -> None:
        requests = [sent(Cookie("uid"), number) for number in range(200)]
        await two.split(BY_UID, 30)
        before = await anyio.to_thread.run_sync(asked, router, requests)
        for running in list(process.running(str(router.state))):
            os.kill(running.pid, signal.SIGKILL)
            while process.alive(running):
                await anyio.sleep(0.01)
        two.router = make(port=router.config.port)
        assert await two.router.current() == {"blue": 100, "green": 1}
        await two.split(BY_UID, 30)
        assert await anyio.to_thread.run_sync(asked, router, requests) == before
        await two.split(None, 0)
        assert {answer for _, answer in await anyio.to_thread.run_sync(asked, router, requests)} == {"blue"}
        assert await two.router.current() == {"blue": 100, "green": 0}

    anyio.run(with_two, router, work)


def test_a_router_that_died_is_started_again_as_it_was_with_its_audience(
    target: LocalTarget, router: AnyRouter, image: Image, make: Make
) -> None:
    async def main() -> None:
        blue, green, groups = await blue_and_green(target, image)
        await router.split({blue.name: 100}, groups, Chosen(HasHeader(name="x-beta"), ((green.name, 100),)))
        assert await started_again(target, router) == ""
        await end_processes(router)
        said = await started_again(target, make(port=free_port()))  # it comes back where its users find it
        assert said == f"the router had died, and was started again at {router.address.summary()} for {blue.name}, {green.name}"
        for headers, version in (({}, "blue"), ({"x-beta": "1"}, "green")):
            found = await anyio.to_thread.run_sync(asked, router, [("", headers)] * 100)
            assert {answer for _, answer in found} == {version}

    anyio.run(main)


def test_a_router_that_died_is_started_again_where_the_settings_say_if_somebody_else_is_where_it_was(
    target: LocalTarget, router: AnyRouter, image: Image, make: Make
) -> None:
    async def main() -> None:
        blue, _, groups = await blue_and_green(target, image)
        await router.split({blue.name: 100}, groups)
        await end_processes(router)
        async with await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=router.config.port, reuse_port=False):
            moved = make(port=free_port())
            assert moved.address.summary() in await started_again(target, moved)
            assert await anyio.to_thread.run_sync(asked, moved, [("", {})]) == [("", "blue")]

    anyio.run(main)


def test_a_router_that_was_on_its_way_to_another_port_is_not_started_a_second_time(
    target: LocalTarget, router: AnyRouter, image: Image, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that had it move was killed before it noted that it has."""

    async def main() -> None:
        blue, _, groups = await blue_and_green(target, image)
        await router.split({blue.name: 100}, groups)
        moved = make(port=free_port())
        with monkeypatch.context() as patch:
            patch.setattr(type(router), "_here", killed)
            with pytest.raises(KeyboardInterrupt):
                await moved.split({blue.name: 100}, groups)
        await started_again(target, moved)
        assert await anyio.to_thread.run_sync(asked, router, [("", {})]) == [("", "blue")]
        with anyio.fail_after(20):
            while len(list(process.running(str(router.state)))) > 1:  # HAProxy's older ones have nothing to answer
                await anyio.sleep(0.01)

    def killed(_router: AnyRouter) -> None:
        raise KeyboardInterrupt

    anyio.run(main)


def test_requests_of_an_audience_are_in_flight_also_when_there_is_none_any_more(
    target: LocalTarget, router: AnyRouter, image: Image
) -> None:
    async def main() -> None:
        blue, green, groups = await blue_and_green(target, image)
        await router.split({blue.name: 100}, groups, Chosen(HasHeader(name="x-beta"), ((green.name, 100),)))
        answers: list[str] = []

        def ask() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", router.config.port, timeout=30)
            connection.request("GET", "/slow?4", headers={"x-beta": "1"})
            answers.append(connection.getresponse().read().decode())
            connection.close()

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.to_thread.run_sync, ask)
                while await router.in_flight(green.name) != 1:
                    await anyio.sleep(0.01)
                await router.split({blue.name: 100}, groups)
                assert await router.in_flight(green.name) == 1
        while await router.in_flight(green.name):
            await anyio.sleep(0.01)
        assert answers == ["green"]
        await router.forget(green.name)
        assert await router.current() == {blue.name: 100}

    anyio.run(main)


def test_a_cohort_whose_release_died_is_served_by_the_other_one_behind_haproxy_and_told_to_wait_by_envoy(
    target: LocalTarget, router: AnyRouter, image: Image
) -> None:
    async def main() -> None:
        blue, green, groups = await blue_and_green(target, image)
        await router.split({blue.name: 100}, groups, Chosen(BY_UID, ((green.name, 50), (blue.name, 50))))
        requests = [sent(Cookie("uid"), number) for number in range(40)]
        before = dict(await anyio.to_thread.run_sync(asked, router, requests))
        assert set(before.values()) == {"blue", "green"}
        await target.stop(green.name)
        wanted = "blue" if isinstance(router, HAProxyRouter) else "503"
        after = {key: wanted if side == "green" else side for key, side in before.items()}
        with anyio.fail_after(20):
            while dict(await anyio.to_thread.run_sync(asked, router, requests)) != after:
                await anyio.sleep(0.1)

    anyio.run(main)


# Whole canaries.

SURE = Judge(measures=(ErrorRate(budget=0.2),), beta=0.2, warm_up=0, floor=10, at_least=0, at_most=60)


@pytest.mark.parametrize("audience", [BY_UID, HasHeader(name="x-beta")], ids=str)
def test_a_whole_canary_for_an_audience(bench: Bench, image: Image, audience: Audience) -> None:
    async def main() -> None:
        one, two = release(image), release(image, version="two")
        await bench.rollout(one).forward(BlueGreen())
        canary = Canary(shares=(30, 60, 100), audience=audience, whole=audience != BY_UID, judge=SURE, tick=0.2)
        with (
            Load(bench.router.config.port, posts=False, pause=0.01) as others,
            Load(bench.router.config.port, posts=False, pause=0.01, keys="uid", headers={"x-beta": "1"}) as members,
        ):
            await bench.rollout(two).forward(canary)
            await anyio.to_thread.run_sync(members.more, 20)
        assert others.failures == members.failures == []
        done = [data for kind, data in bench.notes.events if kind == "rollout.done" and "weights" in data]
        assert [data.get("audience") for data in done] == [str(audience)] * (len(done) - 1) + [None]
        assert done[0]["weights"] == {two.group: 30, one.group: 70}
        assert next(data["share"] for kind, data in bench.notes.events if kind == "rollout.looked") == 30
        assert await bench.router.current() == {one.group: 0, two.group: 100}

    anyio.run(main)


@pytest.mark.parametrize("audience", [BY_UID, HasHeader(name="x-beta")], ids=str)
def test_a_release_that_harms_an_audience_goes_back_and_nobody_else_saw_it(
    bench: Bench, image: Image, audience: Audience
) -> None:
    async def main() -> None:
        one, bad = release(image), release(image, version="bad", BROKEN="1")
        await bench.rollout(one).forward(BlueGreen())
        canary = Canary(shares=(30, 100), audience=audience, judge=SURE, tick=0.2)
        with (
            Load(bench.router.config.port, posts=False, pause=0.01) as others,
            Load(bench.router.config.port, posts=False, pause=0.01, keys="uid", headers={"x-beta": "1"}) as members,
        ):
            with pytest.raises(StageFailed, match=f"{bad.group} may not go on: abort"):
                await bench.rollout(bad).forward(canary)
            before = len(members.failures)
            await anyio.to_thread.run_sync(members.more, 100)
        assert others.failures == []
        assert 0 < before == len(members.failures)
        assert await bench.router.current() == {one.group: 100}

    anyio.run(main)
