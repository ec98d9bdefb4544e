"""The documentation says what is: its pages are up to date, its links lead somewhere, its commands and its code work."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from pipeline.cli.arguments import COMMANDS, parser

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WRITTEN = [page for page in PAGES if "reference" not in page.parts]


def names(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


def files(page: Path) -> dict[str, str]:
    """The code blocks of a page that a comment in front names as files."""
    found = re.findall(r"^<!-- file: (\S+) -->\n```\w+\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return dict(found)


def anchors(page: Path) -> set[str]:
    """The anchors GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.parametrize("script", ["reference.py", "schema.py"])
def test_what_is_generated_is_up_to_date(script: str) -> None:
    done = run(sys.executable, f"docs/{script}", "--check", cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{target}: there is no {found}"
        assert not anchor or anchor in anchors(found), f"{target}: {found.name} has no such heading"


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every `python -m pipeline ...` in a page."""
    for line in re.findall(r"python -m pipeline\b([^`\n|>&]*)", page.read_text()):
        words = line.split("#")[0].split("  ")[0].split()
        yield [word.strip("\"',;.:)") for word in words]


@pytest.mark.parametrize("page", WRITTEN, ids=names(WRITTEN))
def test_every_command_and_option_that_is_written_down_exists(page: Path) -> None:
    options = {
        name: {option for action in sub._actions for option in action.option_strings}
        for name, sub in next(action.choices for action in parser()._actions if isinstance(action.choices, dict)).items()
    }
    for words in commands(page):
        if words and words[0] not in ("X", "COMMAND") and not words[0].startswith(("-", "[")):
            assert words[0] in COMMANDS, f"python -m pipeline {' '.join(words)}"
            for word in words[1:]:
                assert not word.startswith("-") or word.partition("=")[0] in options[words[0]], f"{words[0]} {word}"


def test_the_command_line_is_documented_whole() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    for name, sub in next(action.choices for action in parser()._actions if isinstance(action.choices, dict)).items():
        assert f"## {name}\n" in page, name
        for action in sub._actions:
            for option in action.option_strings:
                assert f"`{option}" in page, f"{name} {option}"


def test_every_kind_of_event_is_documented() -> None:
    """Kinds are the literals that code hands to `Event`, `record`, `note` and `_write`."""
    source = "\n".join(path.read_text() for name in ("pipeline", "gates", "stages") for path in (ROOT / name).rglob("*.py"))
    first = (
        "run|stage|action|effect|gate|undo|rollout|baseline|notify|remote|store|workers|operator|preview|experiment|router|dns"
    )
    kinds = set(re.findall(rf'"((?:{first})\.(?!sh)[a-z]+)"', source))
    assert {"run.started", "stage.failed", "rollout.stuck"} <= kinds
    documented = set(re.findall(r"^\| `([a-z]+\.[a-z]+)`", (ROOT / "docs" / "journal.md").read_text(), re.MULTILINE))
    assert documented == kinds


def test_the_stage_of_the_tutorial_works_and_its_tests_pass(tmp_path: Path) -> None:
    for name, text in files(ROOT / "docs" / "write-a-stage.md").items():
        (tmp_path / name).write_text(text)
    done = run(
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "test_valid_json.py", cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


def test_the_commands_of_the_tutorial_show_what_the_page_says(tmp_path: Path) -> None:
    for name, text in files(ROOT / "docs" / "write-a-stage.md").items():
        (tmp_path / name).write_text(text)
    (tmp_path / "pyproject.toml").write_text('[tool.pipeline]\nengine = "host"\n')
    (tmp_path / "good.json").write_text("[1, 2]")
    done = run(sys.executable, "-m", "pipeline", "run", cwd=tmp_path)
    assert ": 1 JSON file, 0 broken" in done.stdout, done.stdout + done.stderr
    logs = run(sys.executable, "-m", "pipeline", "logs", "parsed", cwd=tmp_path)
    assert logs.stdout.splitlines() == ["== parsed: passed", "good.json: parsed"]


MODULES = sorted(
    file.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    for package in ("pipeline", "gates", "stages")
    for file in (ROOT / package).rglob("*.py")
    if ">>> " in file.read_text()
)


@pytest.mark.parametrize("name", MODULES)
def test_every_example_in_a_docstring_gives_what_it_says(name: str) -> None:
    done = doctest.testmod(import_module(name))
    assert done.attempted
    assert not done.failed
