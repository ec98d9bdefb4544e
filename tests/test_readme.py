"""The pipeline in the README is one: it is taken out of the page and planned."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.fixture
def code() -> str:
    (found,) = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return str(found)


def test_the_pipeline_of_the_readme_is_planned(tmp_path: Path, code: str) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.pipeline]\nengine = "host"\n')
    (tmp_path / "delivery.py").write_text(code)
    (tmp_path / "test.lock").write_text("")
    command = [sys.executable, "-m", "pipeline", "plan", "--output", "json"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    decisions = {row["stage"]: row["decision"] for row in map(json.loads, done.stdout.splitlines())}
    assert decisions["gate"] == decisions["unit_tests"] == decisions["checks[2]"] == "run"


def test_the_pipeline_of_the_readme_is_short(code: str) -> None:
    assert len(code.splitlines()) <= 25


def test_the_picture_is_whole_and_loads_nothing_from_elsewhere() -> None:
    text = (ROOT / "docs" / "run.svg").read_text()
    assert ET.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    assert "url(http" not in text
    assert "<script" not in text
    assert "docs/run.svg" in README
