"""What the client asks, and that no answer holds it up or is taken for another."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http.server import BaseHTTPRequestHandler

import anyio
import pytest

from pipeline import digest
from pipeline.remote import client
from pipeline.remote.access import Access
from pipeline.remote.client import Client, Failure, Pace
from tests.pipeline.remote.servers import Adversary, adversary

NAME = digest.of_bytes(b"abc")


def ask(server: Adversary, what: Callable[[Client], Awaitable[object]], authorization: str = "") -> object:
    async def main() -> object:
        with anyio.fail_after(60):
            async with Client(Access(address=server.address, authorization=authorization)) as found:
                return await what(found)

    return anyio.run(main)


def drip(server: Adversary, request: BaseHTTPRequestHandler) -> bool:
    """Never stalls, and never comes to an end."""
    while not server.stopped.wait(0.01):
        request.wfile.write(b"x")
        request.wfile.flush()
    return True


def drip_headers(server: Adversary, request: BaseHTTPRequestHandler) -> bool:
    request.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    return drip(server, request)


def drip_body(server: Adversary, request: BaseHTTPRequestHandler) -> bool:
    request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
    return drip(server, request)


@pytest.mark.parametrize("trick", [drip_headers, drip_body])
def test_an_answer_that_drips_is_given_up_however_large_it_is_said_to_be(
    trick: Callable[[Adversary, BaseHTTPRequestHandler], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PATIENCE", 0.1)
    with adversary(trick) as server, pytest.raises(Failure, match=r"slower than|took longer than"):
        ask(server, lambda found: found.receive(NAME, 10**12, lambda _piece: None, Pace()))


@pytest.mark.parametrize("body", [b"abd", b"ab", b"abcd", b""])
def test_other_bytes_than_the_digest_says_are_a_failure(body: bytes) -> None:
    with adversary() as server:
        server.kept[f"/cas/{NAME}"] = body
        with pytest.raises(Failure, match="sent other bytes than those of ba7816bf8f01"):
            ask(server, lambda found: found.receive(NAME, 3, lambda _piece: None, Pace()))


def test_no_more_is_written_than_there_should_be() -> None:
    written: list[bytes] = []
    with adversary() as server:
        server.kept[f"/cas/{NAME}"] = b"abc" * 1_000_000
        with pytest.raises(Failure, match="sent other bytes"):
            ask(server, lambda found: found.receive(NAME, 3, written.append, Pace()))
    assert len(b"".join(written)) <= 3


def test_what_was_written_is_there_and_what_was_not_is_not() -> None:
    async def both(found: Client) -> list[object]:
        await found.write("cas", NAME, b"abc")
        other = "0" * 64
        return [await found.has("cas", NAME), await found.has("cas", other), await found.read("ac", other, 10)]

    with adversary() as server:
        assert ask(server, both) == [True, False, None]
        assert server.kept == {f"/cas/{NAME}": b"abc"}


def test_who_asks_is_said_each_time() -> None:
    said: list[str | None] = []

    def listen(_server: Adversary, request: BaseHTTPRequestHandler) -> bool:
        said.append(request.headers["Authorization"])
        return False

    async def each(found: Client) -> None:
        await found.read("ac", NAME, 10)
        await found.write("cas", NAME, b"abc")

    with adversary(listen) as server:
        ask(server, each, authorization="Bearer abc")
    assert said == ["Bearer abc", "Bearer abc"]
