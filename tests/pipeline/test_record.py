"""Records of results."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from pipeline import Blob, Store, StoreError, digest, record
from tests.pipeline.toys import Constant, Number


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_a_result_is_read_back_as_the_type_its_stage_returns(store: Store) -> None:
    assert record.result(store, Constant(value=0), "it", store.put(b'{"value":7}')) == Number(value=7)


@pytest.mark.parametrize("written", [b'{"value":"many"}', b'{"other":7}', b"{"])
def test_a_result_of_another_shape_is_refused_with_the_stage_it_is_of(store: Store, written: bytes) -> None:
    with pytest.raises(StoreError, match="the recorded result of it is no Number"):
        record.result(store, Constant(value=0), "it", store.put(written))


def test_a_result_that_is_gone_is_not_taken_for_one_of_another_shape(store: Store) -> None:
    with pytest.raises(StoreError, match="is not in the store"):
        record.result(store, Constant(value=0), "it", Blob(digest="0" * 64, size=1))


ODD = some.text(alphabet=some.characters(codec="utf-8") | some.sampled_from("\udc80\udcff"))
"""Also what stands for the bytes of a file's name that are no UTF-8."""


@given(
    summary=ODD,
    seconds=some.floats(min_value=0, allow_infinity=False),
    size=some.integers(min_value=0),
)
def test_a_record_is_read_as_it_was_written(summary: str, seconds: float, size: int) -> None:
    kept = record.Record("0" * 64, size, "run", seconds, summary, "", [["1" * 64, size, -1]], '{"code":"x"}')
    assert record.read(record.written(kept), digest.of_text(kept.parts)) == kept
