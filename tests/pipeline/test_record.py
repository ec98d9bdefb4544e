"""Records of results."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import Blob, Store, StoreError, record
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
