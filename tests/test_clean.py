"""The whole tree is clean under the linter and the type checkers it is developed with, and under its own gate."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


@pytest.mark.long
@pytest.mark.parametrize(
    "command",
    [("ruff", "check"), ("ruff", "format", "--check"), ("mypy",), ("basedpyright", "--level", "error")],
    ids=" ".join,
)
def test_nothing_is_found(command: tuple[str, ...]) -> None:
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_its_own_gate_holds_nothing_against_it(tmp_path: Path, shared_home: Path) -> None:
    """But for what other tests see anyway: tests, lint, types, the wheel."""
    for shared in ("caches", "store"):
        (shared_home / shared).mkdir(exist_ok=True)
        (tmp_path / shared).symlink_to(shared_home / shared)
    command = [sys.executable, "-m", "pipeline", "run", *(f"checks[{name}]" for name in ("metrics", "bandit", "secrets"))]
    env = {**os.environ, "PIPELINE_HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(" passed: ") == 3
