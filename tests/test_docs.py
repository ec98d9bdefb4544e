"""The documentation says what is: its pages are up to date, its links lead somewhere, its commands and its code work."""

from __future__ import annotations

import ast
import doctest
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from pipeline.cli.arguments import COMMANDS, parser
from pipeline.engines.local import free_port
from tests import warm
from tests.web import get

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
    if command[1:3] == ("-m", "pipeline"):
        return warm.run(command[1:], cwd=cwd, env=env)
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


def test_the_first_deployment_goes_as_the_page_says(tmp_path: Path) -> None:
    port = free_port()
    for name, text in files(ROOT / "docs" / "delivery" / "first.md").items():
        (tmp_path / name).write_text(text.replace("port=8080", f"port={port}"))
    (tmp_path / "pyproject.toml").write_text('[tool.pipeline]\nengine = "host"\n')
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    app = (tmp_path / "app.py").read_text()
    try:
        for greeting, code, answer in (
            ("hello, one", 0, "hello, one"),
            ("hello, two", 0, "hello, two"),
            ("good day", 1, "hello, two"),
        ):
            (tmp_path / "app.py").write_text(app.replace("hello, one", greeting))
            done = run(sys.executable, "-m", "pipeline", "run", cwd=tmp_path)
            assert done.returncode == code, done.stdout + done.stderr
            assert get(f"http://127.0.0.1:{port}/").text == f"{answer}\n"
        assert "the answer does not contain 'hello': good day" in done.stdout
        told = run(sys.executable, "-m", "pipeline", "deployments", cwd=tmp_path).stdout
        assert re.search(rf"taken back .*\n.*\n    HAProxy listens on 127.0.0.1:{port}\n    r-\w+: 2 instances, 100 % ", told)
    finally:
        ended = run(sys.executable, "-m", "stages.delivery.down", ".", cwd=tmp_path)
    assert ended.stdout == "took down 3 processes\n"


def blocks(page: Path) -> list[ast.Module]:
    """The code of a page that is Python; what stands for something (`...`) is Python too."""
    return [ast.parse(textwrap.dedent(code)) for code in re.findall(r"^ *```python\n(.*?)^ *```$", page.read_text(), re.M | re.S)]


DELIVERY = sorted((ROOT / "docs" / "delivery").glob("*.md"))


@pytest.mark.parametrize("page", DELIVERY, ids=names(DELIVERY))
def test_what_code_of_a_page_on_delivery_uses_is_imported_there_from_where_it_is(page: Path) -> None:
    """Classes, which begin with a capital: what is called otherwise is the reader's own."""
    nodes = [node for block in blocks(page) for node in ast.walk(block)]
    known = {name for node in nodes if isinstance(node, ast.ClassDef) for name in [node.name]}
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            ours = (node.module or "").startswith(("gates", "pipeline", "stages"))
            for alias in node.names:
                assert not ours or hasattr(import_module(node.module or ""), alias.name), f"{node.module} has no {alias.name}"
                known.add(alias.asname or alias.name)
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    used = {name for name in names if re.match(r"[A-Z][a-z]", name) or name in ("all_passed", "all_probes_passed", "no_findings")}
    assert used <= known, f"not imported: {', '.join(sorted(used - known))}"


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
