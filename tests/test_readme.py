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

from pipeline import scaffold

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.fixture
def code() -> str:
    (found,) = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return str(found)


def planned(root: Path, code: str) -> dict[str, str]:
    """What a plan of `code` decides for each stage."""
    (root / "pyproject.toml").write_text('[build-system]\nrequires = ["hatchling"]\n[tool.pipeline]\nengine = "host"\n')
    (root / "tests").mkdir(exist_ok=True)
    (root / "delivery.py").write_text(code)
    command = [sys.executable, "-m", "pipeline", "plan", "--output", "json"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return {row["stage"]: row["decision"] for row in map(json.loads, done.stdout.splitlines())}


def test_the_pipeline_of_the_readme_is_planned(tmp_path: Path, code: str) -> None:
    decisions = planned(tmp_path, code)
    assert decisions["gate"] == decisions["unit"] == decisions["checks[unit]"] == "run"


def test_init_writes_the_stages_and_makes_the_locks_of_the_readme(tmp_path: Path, code: str) -> None:
    stages = planned(tmp_path, code)
    found = scaffold.detect(tmp_path)
    assert planned(tmp_path, scaffold.text(found)).keys() == stages.keys()
    assert set(re.findall(r'lock="(.*?)"', code)) == scaffold.needed_locks(found).keys()


def test_the_pipeline_of_the_readme_is_short(code: str) -> None:
    assert len(code.splitlines()) <= 25


def test_the_picture_is_whole_and_loads_nothing_from_elsewhere() -> None:
    text = (ROOT / "docs" / "run.svg").read_text()
    assert ET.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    assert "url(http" not in text
    assert "<script" not in text
    assert "docs/run.svg" in README


def test_the_picture_shows_a_run_of_the_example_as_it_is() -> None:
    picture = ET.parse(ROOT / "docs" / "run.svg")
    text = "".join(picture.getroot().itertext()).replace("\xa0", " ")
    command = [sys.executable, "-m", "pipeline", "-C", "examples/camera_counting", "list", "--output", "json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    stages = [json.loads(line)["stage"] for line in done.stdout.splitlines()]
    shown = re.search(r"passed in [\d.]+s: (\d+) passed, (\d+) cached, (\d+) skipped", text)
    assert shown is not None
    assert sum(map(int, shown.groups())) == len(stages), "make it anew: the example has other stages now"
    verdicts = re.findall(r"✓ ([\w,]+): (?:[A-Z]\w+|valid|all_probes_passed): ", text)
    assert len(verdicts) > 10
    assert {f"checks[{name}]" for name in verdicts} <= {*stages, *(f"checks[{s.partition('[')[2]}" for s in stages)}
