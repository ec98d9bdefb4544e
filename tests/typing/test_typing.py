"""The typed wiring, held by four type checkers run as a user runs them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BIN = Path(sys.executable).parent


def run(*command: str | Path) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"}, check=False)
    return done.stdout + done.stderr


def numbers(text: str, file: Path) -> set[int]:
    """The line numbers in `path:line:` of a checker's output."""
    return {int(number) for number in re.findall(rf"{re.escape(file.name)}:(\d+)", text)}


def mypy(file: Path) -> set[int]:
    command = (BIN / "python", "-m", "mypy", "--strict", "--no-incremental", "--config-file=", "--explicit-package-bases", file)
    return {int(number) for number in re.findall(rf"{re.escape(file.name)}:(\d+): error", run(*command))}


def pyright(file: Path) -> set[int]:
    answer = json.loads(run(BIN / "basedpyright", "--outputjson", "--level", "error", "--pythonpath", sys.executable, file))
    found = [one for one in answer["generalDiagnostics"] if one["severity"] == "error"]
    return {one["range"]["start"]["line"] + 1 for one in found if one["file"].endswith(file.name)}


def ty(file: Path) -> set[int]:
    return numbers(run(BIN / "ty", "check", "--output-format", "concise", "--python", sys.executable, file), file)


def pyrefly(file: Path) -> set[int]:
    command = (BIN / "pyrefly", "check", "--output-format", "json", "--python-interpreter-path", sys.executable, file)
    text = run(*command)
    answer = json.loads(text[text.index("{") : text.rindex("}") + 1])
    return {
        one["line"] for one in answer["errors"] if one["path"].endswith(file.name) and one.get("severity", "error") == "error"
    }


CHECKERS: dict[str, Callable[[Path], set[int]]] = {"mypy": mypy, "pyright": pyright, "ty": ty, "pyrefly": pyrefly}


def wrong_lines() -> set[int]:
    lines = (HERE / "wrong.py").read_text().splitlines()
    return {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}


def test_there_are_at_least_fifteen_wrong_wirings() -> None:
    assert len(wrong_lines()) >= 15


@pytest.mark.parametrize("checker", CHECKERS)
def test_every_wrong_wiring_is_refused_and_nothing_else(checker: str) -> None:
    assert CHECKERS[checker](HERE / "wrong.py") == wrong_lines()


@pytest.mark.parametrize("checker", CHECKERS)
def test_every_right_wiring_is_accepted(checker: str) -> None:
    assert CHECKERS[checker](HERE / "right.py") == set()
