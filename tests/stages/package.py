"""A small package to build, for tests."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from pipeline import Journal, Pipeline, Project, Stage, Store
from stages.environment import PythonEnvironment
from tests.running import run_pipeline
from tests.stages.installed import Lock

BUILD_LOCK = "build.lock"
EXAMPLE = Path(__file__).parents[2] / "examples" / "camera_counting"


def write_package(project: Project, version: str = "1.4.2") -> None:
    """A package `thing` with a program that greets; built by flit with the example's lock."""
    source = project.root / "src" / "thing"
    source.mkdir(parents=True)
    (project.root / "pyproject.toml").write_text(
        "[build-system]\nrequires = ['flit_core >=3.11,<5']\nbuild-backend = 'flit_core.buildapi'\n"
        "[project]\nname = 'thing'\ndynamic = ['version']\ndescription = 'Greets.'\nreadme = 'README.md'\n"
        "requires-python = '>=3.11'\n[project.scripts]\nthing = 'thing.__main__:main'\n"
    )
    (project.root / "README.md").write_text("# Thing\n\nGreets.\n")
    (source / "__init__.py").write_text(f'"""Greets."""\n__version__ = "{version}"\n')
    (source / "__main__.py").write_text(
        "import sys\n\n\ndef main() -> None:\n    print('hello', *sys.argv[1:])\n\n\nif __name__ == '__main__':\n    main()\n"
    )
    (project.root / BUILD_LOCK).write_text((EXAMPLE / "build.lock").read_text())


def build_environment() -> PythonEnvironment:
    """The packages of BUILD_LOCK."""
    return PythonEnvironment(source=Lock(text=(EXAMPLE / BUILD_LOCK).read_text()))


def commit(project: Project, date: str) -> None:
    """Commit everything there is, at a date."""
    identity = {f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    dates = {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
    for arguments in (("add", "-A"), ("commit", "-q", "-m", "a commit")):
        subprocess.run(["git", *arguments], cwd=project.root, check=True, env={**os.environ, **identity, **dates})


def run_again(stage: Stage[Any], project: Project, store: Store, journal: Journal) -> Any:
    """The result of a stage that is executed although an earlier result of it could be used."""
    outcome, found = run_pipeline(Pipeline("again", subject=stage), project, store, journal, again=frozenset({"subject"}))
    assert not outcome.failed
    return found["subject"]
