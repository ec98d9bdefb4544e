"""`[tool.pipeline]`, where the command line does not show it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.settings import Settings, read


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
