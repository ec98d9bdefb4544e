"""Python environments: what their result depends on, and what is in it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from pipeline import Project, Stage, Store
from pipeline.key import _module_files
from stages.environment import PythonEnvironment, Tool, shipped
from stages.scripts.install import compile_modules
from stages.source import WorkingCopy
from tests.conftest import RunStage

TOP = Path(__file__).parents[2]


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


def test_byte_code_is_made_of_modules_and_of_nothing_that_is_only_called_like_one(tmp_path: Path) -> None:
    long, extension = "m" * 245, f"fast{EXTENSION_SUFFIXES[0]}"
    for name in ("good.py", "old.py", "fast.py", f"{long}.py", "tests/test_good.py", "templates.py/text"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("print 1\n" if name == "old.py" else "x = 1\n")
    (tmp_path / extension).touch()
    (tmp_path / "gone.py").symlink_to("nowhere")
    compile_modules(tmp_path)
    assert [code.name for code in tmp_path.rglob("*.pyc")] == [f"good.{sys.implementation.cache_tag}.pyc"]


def test_equal_modules_have_equal_byte_code_wherever_and_by_whichever_process_it_is_made(tmp_path: Path) -> None:
    script = "import sys; from pathlib import Path; from stages.scripts.install import compile_modules; "
    made = []
    for seed, place in (("1", tmp_path / "one"), ("2", tmp_path / "farther" / "two")):
        place.mkdir(parents=True)
        (place / "a.py").write_text("x = 'a' in {'a', 'b', 'c'}\ndef f(): return __file__\n")
        command = [sys.executable, "-c", script + "compile_modules(Path(sys.argv[1]))", str(place)]
        subprocess.run(command, check=True, cwd=TOP, env={**os.environ, "PYTHONHASHSEED": seed})
        made += [code.read_bytes() for code in place.rglob("*.pyc")]
    assert len(made) == 2
    assert made[0] == made[1]
