"""What stages print: all of it on disk, line by line, in memory that does not grow with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.logs import measure
from tests.pipeline.cli.test_cli import PYTHONPATH


def test_neither_a_run_nor_a_search_takes_more_memory_for_a_longer_log() -> None:
    figures = list(measure(short=2, long=40, line=30))
    assert [figure for figure in figures if not figure.holds] == []
    assert ["the log holds every byte" in figure.detail for figure in figures] == [True, False, True, False]
    assert ["it found 1" in figure.detail for figure in figures] == [False, True, False, True]


def pipeline(root: Path, *words: str) -> str:
    env = {**os.environ, "PYTHONPATH": PYTHONPATH}
    command = [sys.executable, "-m", "pipeline", *words]
    return subprocess.run(command, cwd=root, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text('[tool.pipeline]\nengine = "host"\n')
    return tmp_path


LONG = """
from pipeline import Pipeline, Stage, Work
from tests.pipeline.toys import Number

class Says(Stage[Number]):
    async def run(self, work: Work) -> Number:
        work.say("é" * (2**19 - 2) + "a needle" + "y" * 1000)
        work.say("a thread")
        return Number(value=0)

pipeline = Pipeline("thing", says=Says())
"""


def test_a_line_longer_than_what_is_read_at_once_comes_in_pieces_and_is_searched_across_them(root: Path) -> None:
    (root / "delivery.py").write_text(LONG)
    pipeline(root, "run")
    rows = [json.loads(line) for line in pipeline(root, "logs", "--output", "json").splitlines()]
    sizes = [(len(row["text"].encode()), row.get("more", False)) for row in rows]
    assert sizes == [(2**20, True), (1004, False), (8, False)]
    assert "".join(row["text"] for row in rows[:2]) == "é" * (2**19 - 2) + "a needle" + "y" * 1000
    found = pipeline(root, "logs", "--search", "a (needle|thread)").splitlines()
    assert [line[:12] for line in found] == ["says: edleyy", "says: a thre"]


TOGETHER = """
from pipeline import Action, Pipeline, Stage, Work
from tests.pipeline.toys import Number

PRINTS = '''
import os, sys
for _ in range(300):
    for _ in range(20):
        os.write(1, sys.argv[1].encode() * 3)
    os.write(1, b"\\\\n")
'''

class Prints(Stage[Number]):
    letter: str

    async def run(self, work: Work) -> Number:
        result = await work.execute(Action(argv=("python", "-c", PRINTS, self.letter)))
        return Number(value=result.exit_code)

pipeline = Pipeline("thing", a=Prints(letter="a"), b=Prints(letter="b"))
"""


def test_lines_of_stages_that_print_at_once_are_never_mixed(root: Path) -> None:
    (root / "delivery.py").write_text(TOGETHER)
    assert "aaa" not in pipeline(root, "run", "--jobs", "2")
    for letter in "ab":
        assert pipeline(root, "logs", letter).splitlines()[1:] == [letter * 60] * 300
    assert pipeline(root, "logs", "--search", ".").splitlines() == ["a: " + "a" * 60] * 300 + ["b: " + "b" * 60] * 300
