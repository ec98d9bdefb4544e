"""Notices, sent to a real receiver on this machine."""

from __future__ import annotations

import json

import pytest

from pipeline import Journal, Result, Stage, Work
from pipeline.engines.local import free_port
from stages.notify import Notify
from tests.conftest import RunStage, StageDidNotPass
from tests.stages.served import Deployed, served

pytest.importorskip("apprise", reason="Apprise is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # imported by Apprise


def test_people_are_told_what_passed(run_stage: RunStage, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(lambda _: (200, "")) as receiver:
        monkeypatch.setenv(
            "NOTIFY_URLS", f"json://someone:passw0rd@127.0.0.1:{receiver.port}/a json://127.0.0.1:{receiver.port}/b"
        )
        found = run_stage(Notify(subject=Deployed(port=80), title="It is out"))
    sent = [json.loads(body) for _, _, body in receiver.requests]
    assert [(method, path) for method, path, _ in receiver.requests] == [("POST", "/a"), ("POST", "/b")]
    assert {(notice["title"], notice["message"]) for notice in sent} == {("It is out", "r-0 serves at http://127.0.0.1:80")}
    assert len(found.told) == 2
    assert "passw0rd" not in found.model_dump_json()


def test_a_receiver_that_refuses_fails_the_stage_and_its_secret_stays_one(
    run_stage: RunStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(lambda path: (500 if path == "/bad" else 200, "")) as receiver:
        addresses = (f"json://127.0.0.1:{receiver.port}/fine", f"json://who:passw0rd@127.0.0.1:{receiver.port}/bad")
        monkeypatch.setenv("NOTIFY_URLS", " ".join(addresses))
        with pytest.raises(StageDidNotPass, match="could not tell json://") as failure:
            run_stage(Notify(subject=Deployed(port=80), title="It is out"))
    assert "passw0rd" not in str(failure.value)
    assert "/fine" not in str(failure.value)


def test_who_was_told_is_not_told_again_because_another_could_not_be(
    run_stage: RunStage, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {"/first": 200, "/second": 500}
    with served(lambda path: (answers[path], "")) as receiver:
        first, second = (f"json://who:passw0rd@127.0.0.1:{receiver.port}{path}" for path in answers)
        monkeypatch.setenv("NOTIFY_URLS", f"{first} {second}")
        stage = Notify(subject=Deployed(port=80), title="It is out")
        with pytest.raises(StageDidNotPass):
            run_stage(stage)
        answers["/second"] = 200
        assert len(run_stage(stage).told) == 2
        assert [path for _, path, _ in receiver.requests] == ["/first", "/second", "/second"]
        run_stage(Notify(subject=Deployed(port=80), title="Another is out"))
        run_stage(stage)  # the same again, for a reason of its own
        assert [path for _, path, _ in receiver.requests][3:] == ["/first", "/second"] * 2
    assert "passw0rd" not in repr([event.data for event in journal.events(kind="notify.told")])


class Quiet(Result):
    """What has nothing to say."""

    def summary(self) -> str:
        return ""


class Silent(Stage[Quiet]):
    async def run(self, work: Work) -> Quiet:
        return Quiet()


def test_what_has_nothing_to_say_is_told_by_its_title(run_stage: RunStage, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(lambda _: (200, "")) as receiver:
        monkeypatch.setenv("NOTIFY_URLS", f"json://127.0.0.1:{receiver.port}/a")
        assert run_stage(Notify(subject=Silent(), title="It is out")).body == "It is out"
    assert json.loads(receiver.requests[0][2])["message"] == "It is out"


def test_a_receiver_that_is_not_there_fails_the_stage(run_stage: RunStage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_URLS", f"json://127.0.0.1:{free_port()}")
    with pytest.raises(StageDidNotPass, match=r"could not tell json://127\.0\.0\.1"):
        run_stage(Notify(subject=Deployed(port=80), title="It is out"))


def test_an_address_nobody_understands_is_shown_by_its_kind_alone(run_stage: RunStage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_URLS", "pigeon://secret-roof")
    with pytest.raises(StageDidNotPass, match=r"could not tell pigeon://\.\.\."):
        run_stage(Notify(subject=Deployed(port=80), title="It is out"))


def test_nobody_to_tell_is_an_error_unless_that_is_allowed(run_stage: RunStage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_URLS", raising=False)
    with pytest.raises(StageDidNotPass, match="nobody to tell: NOTIFY_URLS is not set"):
        run_stage(Notify(subject=Deployed(port=80), title="It is out"))
    found = run_stage(Notify(subject=Deployed(port=80), title="It is out", optional=True))
    assert (found.told, found.summary()) == ((), "nobody to tell")
