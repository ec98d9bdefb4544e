"""Waiting for services inside a container: until each of them serves, and no longer than allowed."""

from __future__ import annotations

import pytest

from pipeline.engines import ready
from pipeline.engines.local import free_port
from tests.pipeline.engines.answering import ASKS_WHO, STARTING, answering, http


def test_a_service_that_answers_200_is_ready(capsys: pytest.CaptureFixture[str]) -> None:
    with answering(http("200 OK")) as server:
        assert ready.main(5, [f"http://127.0.0.1:{server.port}/healthy"]) == 0
    assert [asked.splitlines()[0] for asked in server.asked] == [b"GET /healthy HTTP/1.1"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("before", [http("503 Service Unavailable"), http("204 No Content"), b"", b"220 no HTTP here\r\n\r\n"])
def test_a_service_that_answers_anything_else_is_asked_again(before: bytes) -> None:
    with answering(before, before, http("200 OK")) as server:
        assert ready.main(5, [f"http://127.0.0.1:{server.port}/"]) == 0
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (http("503 Service Unavailable"), "HTTP Error 503: Service Unavailable"),
        (http("204 No Content"), "status 204"),
        (b"220 no HTTP here\r\n\r\n", "220 no HTTP here"),
    ],
)
def test_a_service_that_is_not_ready_in_time_is_named_with_its_last_answer(
    capsys: pytest.CaptureFixture[str], answer: bytes, said: str
) -> None:
    with answering(answer) as server:
        url = f"http://127.0.0.1:{server.port}/"
        assert ready.main(0, [url]) == 1
    out = capsys.readouterr().out
    assert out.startswith(f"{url} was not ready within 0 s: ")
    assert said in out


def test_where_nothing_listens_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert ready.main(0, [f"postgresql://127.0.0.1:{free_port()}"]) == 1
    assert "Connection refused" in capsys.readouterr().out


def test_postgresql_is_ready_when_it_lets_a_session_in_and_not_before() -> None:
    with answering(STARTING, b"", ASKS_WHO) as server:
        assert ready.main(5, [f"postgresql://127.0.0.1:{server.port}"]) == 0
    assert len(server.asked) == 3
    assert server.asked[0].endswith(b"\0\x03\0\0user\0postgres\0\0")


def test_every_service_has_to_be_ready(capsys: pytest.CaptureFixture[str]) -> None:
    with answering(http("200 OK")) as one, answering(STARTING) as other:
        assert ready.main(0, [f"http://127.0.0.1:{one.port}/", f"postgresql://127.0.0.1:{other.port}"]) == 1
    assert "the database system is starting up" in capsys.readouterr().out


def test_a_proxy_of_the_environment_is_not_asked_about_a_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    with answering(http("200 OK")) as server:
        assert ready.main(0, [f"http://127.0.0.1:{server.port}/"]) == 0
