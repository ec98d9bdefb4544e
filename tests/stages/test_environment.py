"""Python environments: what their result depends on."""

from __future__ import annotations

import pytest

from pipeline import Stage
from pipeline.key import _module_files
from stages.environment import PythonEnvironment, Tool


@pytest.mark.parametrize("stage", [PythonEnvironment, Tool])
def test_the_program_that_installs_is_part_of_the_key(stage: type[Stage[object]]) -> None:
    assert "stages.scripts.install" in _module_files(stage.__module__)
