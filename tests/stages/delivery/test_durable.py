"""Files that outlive a run, and what is said of one that was damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import StageFailed, Store
from pipeline.errors import StoreError
from stages.delivery import docker, durable, systemd
from stages.delivery.wanted import Wanted


def wanted(place: Path) -> object:
    return Wanted(place).read()


def daemon(place: Path) -> object:
    return docker.known(place, Store(place / "store"))


def machine(place: Path) -> object:
    return systemd.known(place, Store(place / "store"))


@pytest.mark.parametrize("damaged", [b"", b"{", b"[1]", b"7", b"null", b"\xff"])
@pytest.mark.parametrize(
    ("file", "reads", "what"),
    [
        ("wanted.json", wanted, "the list of instances that shall run cannot be read"),
        ("docker.json", daemon, "the file that says at which daemon the instances are cannot be read"),
        ("systemd.json", machine, "the file that says on which machine the instances are cannot be read"),
    ],
)
def test_a_damaged_file_is_said_with_its_place_and_what_to_do(
    tmp_path: Path, damaged: bytes, file: str, reads: Callable[[Path], object], what: str
) -> None:
    (tmp_path / file).write_bytes(damaged)
    with pytest.raises(StageFailed, match=what) as caught:
        reads(tmp_path)
    assert caught.value.where == str(tmp_path / file)
    assert caught.value.next


def test_a_list_that_is_whole_is_read_and_where_there_is_none_nothing_is_wanted(tmp_path: Path) -> None:
    assert Wanted(tmp_path).read() == {}
    Wanted(tmp_path).write({8080: "a", 8081: ""})
    assert Wanted(tmp_path).read() == {8080: "a", 8081: ""}


def test_what_is_shown_is_there_whole_at_once_and_can_be_synced_afterwards(tmp_path: Path) -> None:
    durable.write(tmp_path / "it", b"before")
    durable.show(tmp_path / "it", b"now", mode=0o600)
    assert (tmp_path / "it").read_bytes() == b"now"
    assert (tmp_path / "it").stat().st_mode & 0o777 == 0o600
    durable.sync(tmp_path / "it")
    with pytest.raises(StoreError):
        durable.sync(tmp_path / "nowhere")
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


def test_a_file_that_is_not_there_is_no_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        durable.read(tmp_path / "nowhere", len, "nothing")
