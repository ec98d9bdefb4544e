"""JSON for what is written many times."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.json_text import json_text

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(plain)
def test_plain_data_is_read_back_as_it_was_from_one_line(data: Any) -> None:
    text = json_text(data)
    assert json.loads(text) == data
    assert "\n" not in text


@given(st.lists(st.characters(categories=["Cs"]) | st.characters(), min_size=1).map("".join))
def test_text_that_is_no_utf_8_is_read_back_as_it_was(text: str) -> None:
    assert json.loads(json_text({text: text}), strict=False) == json.loads(json.dumps({text: text}))


def test_what_json_has_nothing_for_is_refused() -> None:
    with pytest.raises(TypeError):
        json_text({"it": object()})
