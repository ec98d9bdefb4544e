"""Python environments: what their result depends on, and what is in it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import Project, Stage, Store
from pipeline.key import _module_files
from stages.environment import PythonEnvironment, Tool, shipped
from stages.source import WorkingCopy
from tests.conftest import RunStage


@pytest.mark.parametrize("stage", [PythonEnvironment, Tool])
def test_the_program_that_installs_is_part_of_the_key(stage: type[Stage[object]]) -> None:
    assert "stages.scripts.install" in _module_files(stage.__module__)


def test_every_module_comes_with_byte_code_that_holds_for_its_source_alone(
    run_stage: RunStage, store: Store, tmp_path: Path
) -> None:
    store.lay_out(run_stage(Tool(name="assets")), tmp_path / "site")
    modules = sorted((tmp_path / "site").rglob("*.py"))
    assert modules
    for module in modules:
        code = Path(importlib.util.cache_from_source(str(module))).read_bytes()
        assert int.from_bytes(code[4:8], "little") == 0b11, module  # by hash, and checked
        assert code[8:16] == importlib.util.source_hash(module.read_bytes()), module
    package = next(module for module in modules if module.name == "__init__.py" and module.parent.parent.name == "site")
    package.write_text("print(__name__, __file__)\n")
    command = [sys.executable, "-c", f"import {package.parent.name}"]
    done = subprocess.run(command, cwd=tmp_path / "site", capture_output=True, text=True, check=True)
    assert done.stdout == f"{package.parent.name} {package}\n"


def test_an_environment_that_is_shipped_holds_none(project: Project, run_stage: RunStage, store: Store) -> None:
    (project.root / "requirements.lock").write_text(shipped("assets"))
    tree = run_stage(PythonEnvironment(source=WorkingCopy(), byte_code=False))
    assert not [entry.path for entry in store.entries(tree) if entry.path.endswith(".pyc")]
