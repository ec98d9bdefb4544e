"""The typed wiring, held by four type checkers run as a user runs them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BIN = Path(sys.executable).parent


def run(*command: str | Path) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"}, check=False)
    return done.stdout + done.stderr


FILES = (HERE / "right.py", HERE / "wrong.py")
"""Checked together: most of the time goes into what both import."""

Lines = dict[str, set[int]]
"""The name of a file to the numbers of its lines that were refused."""


def of_text(text: str) -> Lines:
    """From `path:line:` in a checker's output."""
    return _by_file(
        (Path(path).name, int(number)) for path, number in re.findall(r"^(\S+\.py):(\d+)[:\d]*:? error", text, re.MULTILINE)
    )


def _by_file(found: Iterable[tuple[str, int]]) -> Lines:
    lines: Lines = {file.name: set() for file in FILES}
    for name, line in found:
        lines.setdefault(name, set()).add(line)
    return lines


def mypy() -> Lines:
    return of_text(
        run(BIN / "python", "-m", "mypy", "--strict", "--no-incremental", "--config-file=", "--explicit-package-bases", *FILES)
    )


def pyright() -> Lines:
    answer = json.loads(run(BIN / "basedpyright", "--outputjson", "--level", "error", "--pythonpath", sys.executable, *FILES))
    found = [one for one in answer["generalDiagnostics"] if one["severity"] == "error"]
    return _by_file((Path(one["file"]).name, one["range"]["start"]["line"] + 1) for one in found)


def ty() -> Lines:
    return of_text(run(BIN / "ty", "check", "--output-format", "concise", "--python", sys.executable, *FILES))


def pyrefly() -> Lines:
    text = run(BIN / "pyrefly", "check", "--output-format", "json", "--python-interpreter-path", sys.executable, *FILES)
    answer = json.loads(text[text.index("{") : text.rindex("}") + 1])
    found = [one for one in answer["errors"] if one.get("severity", "error") == "error"]
    return _by_file((Path(one["path"]).name, one["line"]) for one in found)


CHECKERS: dict[str, Callable[[], Lines]] = {"mypy": mypy, "pyright": pyright, "ty": ty, "pyrefly": pyrefly}


def wrong_lines() -> set[int]:
    lines = (HERE / "wrong.py").read_text().splitlines()
    return {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}


def test_there_are_at_least_fifteen_wrong_wirings() -> None:
    assert len(wrong_lines()) >= 15


@pytest.mark.parametrize("checker", CHECKERS)
def test_every_wrong_wiring_is_refused_every_right_one_accepted_and_nothing_else_found(checker: str) -> None:
    assert CHECKERS[checker]() == {"right.py": set(), "wrong.py": wrong_lines()}
