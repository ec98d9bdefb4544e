"""Canonical JSON: one text for one value, however it is written."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.digest import canonical

TEXT = st.text() | st.binary(max_size=5).map(os.fsdecode)
PLAIN = st.none() | st.booleans() | st.integers() | st.integers(min_value=10**15) | TEXT
ANY = st.recursive(PLAIN | st.floats(allow_nan=False, allow_infinity=False), lambda of: st.lists(of) | st.dictionaries(TEXT, of))


@given(st.dictionaries(TEXT, PLAIN) | ANY)
def test_canonical_json_has_sorted_keys_no_white_space_and_the_bytes_of_names_that_are_no_utf_8(value: Any) -> None:
    expected = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    assert canonical(value) == expected.encode(errors="surrogateescape")


@pytest.mark.parametrize("value", [float("nan"), {"a": float("inf")}, {"a": [float("-inf")]}], ids=str)
def test_what_is_no_number_has_no_canonical_json(value: Any) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical(value)


@pytest.mark.parametrize("value", [{"a": object()}, {1, 2}], ids=["object", "set"])
def test_what_json_cannot_hold_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        canonical(value)
