"""Seals of secrets."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from pipeline import StageFailed
from stages.delivery.seal import key, seal


def test_a_seal_is_another_one_for_each_value_and_name(tmp_path: Path) -> None:
    place = tmp_path / "key"
    seals = [seal(values, place) for values in ({"A": "x"}, {"A": "y"}, {"B": "x"}, {"A": "x", "B": "x"}, {"A": "xB", "B": ""})]
    assert len(set(seals)) == len(seals)
    assert seal({"B": "x", "A": "x"}, place) == seals[3]


def test_a_seal_cannot_be_made_without_the_key(tmp_path: Path) -> None:
    assert seal({"A": "x"}, tmp_path / "one") != seal({"A": "x"}, tmp_path / "two")


@pytest.mark.parametrize("found", [b"", b"x" * 31])
def test_nothing_is_sealed_with_a_key_that_was_damaged(tmp_path: Path, found: bytes) -> None:
    place = tmp_path / "key"
    place.write_bytes(found)
    with pytest.raises(StageFailed, match=f"the key of seals cannot be read: it has {len(found)} bytes, not 32"):
        seal({"A": "1234"}, place)


def test_nothing_is_sealed_without_a_secret(tmp_path: Path) -> None:
    assert seal({}, tmp_path / "key") == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("left", [False, True])
def test_a_key_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path, left: bool) -> None:
    if left:  # by a run that was killed before the key was whole
        (tmp_path / "key.unfinished").write_bytes(b"hal")
    made = key(tmp_path / "key")
    assert len(made) == 32
    assert key(tmp_path / "key") == made
    (found,) = tmp_path.iterdir()
    assert stat.S_IMODE(found.stat().st_mode) == 0o600
