"""`[tool.pipeline]`, where the command line does not show it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.errors import ConfigError
from pipeline.settings import Settings, checked, read


def test_a_project_without_a_file_has_the_defaults(tmp_path: Path) -> None:
    assert read(tmp_path) == Settings()


def test_a_file_that_cannot_be_read_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").mkdir()
    with pytest.raises(ConfigError) as caught:
        read(tmp_path)
    assert str(caught.value) == f"{tmp_path}/pyproject.toml: cannot be read: Is a directory"


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_bytes("[project]\nname = 'é'\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="is not valid TOML: 'utf-8' codec"):
        read(tmp_path)


VALUES = st.none() | st.booleans() | st.integers(-2, 2) | st.floats(0, 2) | st.text(max_size=3) | st.lists(st.text(max_size=3))


@given(st.dictionaries(st.sampled_from(sorted(Settings.model_fields)), VALUES | st.sampled_from(["auto", "host", "dagger"])))
def test_what_is_plainly_right_is_taken_as_if_it_had_been_checked_and_the_rest_is_refused(table: dict[str, Any]) -> None:
    try:
        expected = Settings.model_validate(table, strict=True)
    except ValidationError:
        with pytest.raises(ConfigError):
            checked(table, Path("pyproject.toml"))
    else:
        assert checked(table, Path("pyproject.toml")) == expected


def test_a_list_for_an_order_that_there_is_not_is_refused_as_it_would_limit_nobody() -> None:
    """Who may promote is everybody where the list is about `promot`."""
    with pytest.raises(ConfigError, match=r"there is no order 'promot': .*promote"):
        checked({"operators": {"promot": ["anna"]}}, Path("pyproject.toml"))
    assert checked({"operators": {"promote": ["anna"], "*": []}}, Path("p")).operators == {"promote": ["anna"], "*": []}
