"""Which engine a run gets: by what answers on this machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import EngineError, Project, Store
from pipeline.engines import choose
from pipeline.settings import Settings


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Path]:
    """A Unix socket on which something accepts connections."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        yield tmp_path / "s"


@pytest.fixture
def nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No engine and no runtime of this machine is looked at."""
    monkeypatch.setattr(choose, "local_engine", lambda: tmp_path / "none")
    return tmp_path


def test_an_engine_of_this_machine_goes_before_a_container_runtime(listening: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "local_engine", lambda: listening)
    assert choose.runner({"DOCKER_HOST": f"unix://{listening}"}) == f"an engine listens on {listening}"


def test_a_container_runtime_that_answers_is_where_an_engine_is_to_be_had(listening: Path, nothing: Path) -> None:
    found = choose.runner({"DOCKER_HOST": f"unix://{listening}"})
    assert found is not None
    assert found == f"a container runtime answers on {listening}"
    assert choose.choose("auto", {"DOCKER_HOST": f"unix://{listening}"}) == choose.Choice("dagger", found)
    assert choose.choose("dagger", {"DOCKER_HOST": f"unix://{listening}"}) == choose.Choice("dagger", found)


def test_where_nothing_answers_the_host_is_taken(nothing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "container_sockets", lambda _: [nothing / "none"])
    assert choose.choose("auto", {}).name == "host"


def test_a_runner_that_does_not_answer_is_named_and_not_said_to_be_missing(tmp_path: Path) -> None:
    named = f"unix://{tmp_path}/none"
    said = f"nothing answers at {named}, which {choose.RUNNER} names: no such file or directory"
    assert choose.choose("auto", {choose.RUNNER: named}) == choose.Choice("host", said)
    with pytest.raises(EngineError) as caught:
        choose.choose("dagger", {choose.RUNNER: named})
    assert caught.value.what == f"no Dagger engine can be reached: {said}"
    assert caught.value.right == "an engine that answers there, or the variable unset"


def test_an_engine_that_belongs_to_somebody_else_is_said_to_be_denied(listening: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "local_engine", lambda: listening)
    monkeypatch.setattr(choose, "container_sockets", lambda _: [])
    listening.chmod(0)
    user = os.geteuid()
    if user == 0:  # whom nothing is denied
        os.seteuid(65534)
    try:
        found = choose.choose("auto", {})
    finally:
        os.seteuid(user)
    assert found == choose.Choice("host", f"{listening}: permission denied")


def test_what_is_not_there_is_not_listed(nothing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "container_sockets", lambda _: [nothing / "none"])
    assert choose.choose("auto", {}).reason == "no Dagger runner is configured and no container runtime answers"


def test_a_file_and_a_socket_nobody_listens_on_answer_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket has to be short
    Path("file").write_text("")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("left")
    assert not any(choose.answers(Path(name)) for name in ("file", "left", "none"))


@pytest.mark.parametrize("name", ["host", "dagger"])
def test_the_engine_that_is_opened_is_the_one_that_was_planned_for(tmp_path: Path, name: str) -> None:
    project = Project(root=tmp_path, home=tmp_path / "home", settings=Settings(image="mine:1"))
    engine = choose.open_engine(name, project, Store(tmp_path / "store"))
    assert (engine.name, engine.platform) == (name, choose.platform_of(name, project))
