"""How often somebody may ask, and how much at once: what routers refuse by themselves, and that no release is blamed for it."""

from __future__ import annotations

import contextlib
import http.client
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import anyio
import httpx
import pytest

from pipeline import WiringError
from pipeline.engines.local import free_port
from stages.delivery.audience import Header
from stages.delivery.local import LocalTarget
from stages.delivery.rate import RateLimit
from stages.delivery.request_limits import RequestLimits
from stages.image import Image
from tests.stages.delivery.answering import instances
from tests.stages.delivery.bench import AnyRouter, Make
from tests.stages.delivery.conftest import release, up
from tests.stages.delivery.load import Load
from tests.web import PLAIN, browser

LONG = 3600.0
"""A period in which no test sees a second one begin."""


async def statuses(router: AnyRouter, number: int, *, address: str = "127.0.0.1", **headers: str) -> Counter[int]:
    found: Counter[int] = Counter()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    transport = httpx.AsyncHTTPTransport(local_address=address, verify=PLAIN)
    async with browser(transport=transport) as client:
        for _ in range(number):
            answer = await client.get(router.address.url, headers=named)
            found[answer.status_code] += 1
            if answer.status_code == 429:
                assert answer.headers["retry-after"] == str(int(LONG))
    return found


def test_who_asks_too_often_is_told_when_to_ask_again_and_others_are_served(make: Make) -> None:
    router = make(port=free_port(), rate=RateLimit(requests=5, seconds=LONG))

    async def main() -> None:
        await router.split({"one": 100}, {"one": group})
        assert await statuses(router, 12) == {200: 5, 429: 7}
        assert await statuses(router, 3, x_forwarded_for="192.0.2.1") == {429: 3}  # what somebody says of himself is nothing
        assert await statuses(router, 6, address="127.0.0.2") == {200: 5, 429: 1}

    with instances("one") as group:
        anyio.run(main)


def test_a_long_header_is_told_apart_by_its_end_and_none_is_taken_for_an_address(make: Make) -> None:
    router = make(port=free_port(), rate=RateLimit(requests=3, seconds=LONG, by=Header("x-key")))
    token = "Bearer " + "a" * 300

    async def main() -> None:
        await router.split({"one": 100}, {"one": group})
        assert await statuses(router, 4, x_key=f"{token}x") == {200: 3, 429: 1}
        assert await statuses(router, 3, x_key=f"{token}y") == {200: 3}
        assert await statuses(router, 4, x_key="127.0.0.1") == {200: 3, 429: 1}
        assert await statuses(router, 3) == {200: 3}

    with instances("one") as group:
        anyio.run(main)


def test_clients_are_told_apart_by_a_header_and_who_has_none_by_the_address(make: Make) -> None:
    router = make(port=free_port(), rate=RateLimit(requests=3, seconds=LONG, by=Header("x-key")))

    async def main() -> None:
        await router.split({"one": 100}, {"one": group})
        assert await statuses(router, 5, x_key="a") == {200: 3, 429: 2}
        assert await statuses(router, 5, x_key="b") == {200: 3, 429: 2}
        assert await statuses(router, 5, x_key="a", address="127.0.0.2") == {429: 5}
        assert await statuses(router, 5) == {200: 3, 429: 2}
        assert await statuses(router, 5, x_key="") == {429: 5}
        assert await statuses(router, 5, address="127.0.0.2") == {200: 3, 429: 2}

    with instances("one") as group:
        anyio.run(main)


def test_who_has_waited_may_ask_again(make: Make) -> None:
    router = make(port=free_port(), rate=RateLimit(requests=5, seconds=1))

    async def main() -> None:
        await router.split({"one": 100}, {"one": group})
        async with browser() as client:
            found = [(await client.get(router.address.url)).status_code for _ in range(40)]
            assert 429 in found
            with anyio.fail_after(20):
                while (await client.get(router.address.url)).status_code != 200:
                    await anyio.sleep(0.05)

    with instances("one") as group:
        anyio.run(main)


def test_what_was_refused_is_neither_a_success_nor_a_failure_of_a_release(target: LocalTarget, make: Make, image: Image) -> None:
    limits = RequestLimits(body=1000, headers=4)
    router = make(port=free_port(), rate=RateLimit(requests=10, seconds=LONG), limits=limits)

    async def main() -> None:
        blue = await up(target, release(image, version="blue"))
        green = await up(target, release(image, version="green"))
        await router.split({blue.name: 50, green.name: 50}, {blue.name: blue, green.name: green})
        async with router.watch() as watch, browser() as client:
            url = router.address.url
            assert (await client.post(url, content=b"x" * 1001)).status_code == 413
            assert (await client.get(url, headers={"x": "x" * 5000})).status_code == 431
            answers = [(await client.get(url)).status_code for _ in range(30)]
            served = answers.count(200)
            assert 0 < served <= 10
            assert answers.count(429) == 30 - served
            seen = 0
            with anyio.fail_after(10):
                while seen < served:
                    await anyio.sleep(0.05)
                    windows = watch.windows((blue.name,), (green.name,))
                    assert all(window is not None and window.errors == 0 for window in windows)
                    seen += sum(window.requests for window in windows if window is not None)
            await anyio.sleep(0.5)  # what would be counted wrongly has to have come by now
            windows = watch.windows((blue.name,), (green.name,))
            assert [window.requests for window in windows if window is not None] == [0, 0]
            assert seen == served

    anyio.run(main)


def raw(router: AnyRouter, *pieces: bytes) -> bytes:
    """What is answered to bytes, until the connection ends."""
    with socket.create_connection((router.config.host, router.config.port), timeout=30) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for piece in pieces:
                connection.sendall(piece)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(1 << 16):
                answer += piece
        return answer


def chunked(number: int, size: int) -> Iterator[bytes]:
    yield b"POST / HTTP/1.1\r\nHost: app\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    for _ in range(number):
        yield b"%x\r\n%s\r\n" % (size, b"x" * size)
    yield b"0\r\n\r\n"


def test_a_body_that_is_too_large_reaches_no_instance_however_it_is_sent(
    target: LocalTarget, make: Make, image: Image, posts: Path
) -> None:
    router = make(port=free_port(), limits=RequestLimits(body=1000))

    async def main() -> None:
        blue = await up(target, release(image, posts))
        await router.split({blue.name: 100}, {blue.name: blue})
        async with browser() as client:
            url = router.address.url
            assert (await client.post(url, content=b"x" * 1000)).status_code == 200
            assert (await client.post(url, content=b"y" * 1001)).status_code == 413
            assert (await client.get(url)).status_code == 200
        huge = b"POST / HTTP/1.1\r\nHost: app\r\nConnection: close\r\nContent-Length: 9223372036854775808\r\n\r\n" + b"z" * 5000
        assert b"HTTP/1.1 4" in await anyio.to_thread.run_sync(raw, router, huge)
        too_much = await anyio.to_thread.run_sync(raw, router, *chunked(20, 100))
        assert too_much.split()[1] in (b"411", b"413")
        little = await anyio.to_thread.run_sync(raw, router, *chunked(5, 100))
        assert little.split()[1] == (b"411" if router.called == "HAProxy" else b"200")

    anyio.run(main)
    assert posts.read_text().splitlines() == ["x" * 1000, *([] if router.called == "HAProxy" else ["x" * 500])]


@pytest.mark.parametrize("most", [4, 40])
def test_headers_may_be_as_large_as_is_said(make: Make, most: int) -> None:
    router = make(port=free_port(), limits=RequestLimits(headers=most))

    async def main() -> None:
        await router.split({"one": 100}, {"one": group})
        async with browser() as client:
            for size, status in ((most * 1024 - 500, 200), (most * 1024 + 200, 431)):
                answer = await client.get(router.address.url, headers={"x-large": "x" * size})
                assert answer.status_code == status

    with instances("one") as group:
        anyio.run(main)


def test_who_does_not_send_all_headers_in_time_is_not_waited_for(make: Make) -> None:
    router = make(port=free_port(), limits=RequestLimits(sending=0.5))

    async def main() -> None:
        await router.split({"one": 100}, {"one": group})
        with anyio.fail_after(20):
            answer = await anyio.to_thread.run_sync(raw, router, b"GET / HTTP/1.1\r\nHost: app\r\n")
        assert b" 408 " in answer.splitlines()[0]

    with instances("one") as group:
        anyio.run(main)


def test_more_connections_than_there_may_be_are_closed_and_those_that_are_there_go_on(make: Make) -> None:
    router = make(port=free_port(), limits=RequestLimits(connections=3))

    def answer(connection: http.client.HTTPConnection) -> str:
        try:
            connection.request("GET", "/")
            return connection.getresponse().read().decode()
        except (ConnectionError, http.client.HTTPException) as error:
            return f"closed: {error}"

    async def main() -> None:
        await router.split({"one": 100}, {"one": group})

    with instances("one") as group, contextlib.ExitStack() as stack:
        anyio.run(main)

        def connect() -> http.client.HTTPConnection:
            connection = http.client.HTTPConnection("127.0.0.1", router.config.port, timeout=10)
            return stack.enter_context(contextlib.closing(connection))

        there = [connect() for _ in range(3)]
        assert [answer(one) for one in there] == ["one"] * 3
        assert answer(connect()).startswith("closed")
        assert [answer(one) for one in there] == ["one"] * 3
        there.pop().close()
        for _ in range(200):  # as soon as the router has seen it go
            if answer(connect()) == "one":
                break
        else:
            pytest.fail("nobody gets the place that somebody left")


def test_switches_lose_no_request_with_all_of_it(target: LocalTarget, make: Make, image: Image, posts: Path) -> None:
    limits = RequestLimits(body=10_000, headers=8, sending=10, connections=1000)
    router = make(port=free_port(), rate=RateLimit(requests=100_000), limits=limits)

    async def main() -> Load:
        blue = await up(target, release(image, posts, version="blue"))
        green = await up(target, release(image, posts, version="green"))
        groups = {blue.name: blue, green.name: green}
        await router.split({blue.name: 100}, groups)
        with Load(router.config.port) as load:
            for number in range(20):
                await router.split({blue.name: 100 * (number % 2), green.name: 100 - 100 * (number % 2)}, groups)
                await anyio.to_thread.run_sync(load.more, 5)
        return load

    load = anyio.run(main)
    assert load.failures == []
    assert sorted(posts.read_text().splitlines()) == sorted(load.posted)


@pytest.mark.parametrize("wrong", [{"requests": 0}, {"requests": 1, "seconds": 0}, {"requests": 1, "seconds": 1e6}])
def test_a_rate_that_is_none_is_refused_when_the_pipeline_is_built(wrong: dict[str, float]) -> None:
    with pytest.raises(WiringError, match="expected: 1 request or more"):
        RateLimit(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"body": 0}, {"headers": 2000}, {"sending": -1}, {"connections": 0}])
def test_limits_that_are_none_are_refused_when_the_pipeline_is_built(wrong: dict[str, int]) -> None:
    with pytest.raises(WiringError, match="expected: more than 0 of everything"):
        RequestLimits(**wrong)
