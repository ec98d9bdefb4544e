"""`init`: what is detected, and that what is written runs."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from pipeline.scaffold import detect, identifier, needed_locks, text
from tests import warm

ROOT = Path(__file__).parents[2]
PYTHONPATH = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
HASHED = "pytest==9.0.2 \\\n    --hash=sha256:" + "0" * 64 + "\n"


def command(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": PYTHONPATH}
    return warm.run(["-m", "pipeline", *words], cwd=root, env=env)


@pytest.mark.parametrize(("name", "expected"), [("My_Project", "my-project"), ("9", "p-9"), ("...", "project"), ("a", "a")])
def test_a_project_gets_a_name_a_pipeline_may_have(name: str, expected: str) -> None:
    assert identifier(name) == expected


def test_an_empty_project_gets_lint_and_scan(tmp_path: Path) -> None:
    found = detect(tmp_path)
    assert (found.sources, found.tests, found.lock, needed_locks(found)) == (".", "", "", {})
    compile(text(found), "delivery.py", "exec")
    assert "UnitTests" not in text(found)


def test_what_is_there_is_detected(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "dev.lock").write_text(HASHED)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "X"\n[build-system]\nrequires = ["hatchling"]\n[tool.mypy]\n')
    found = detect(tmp_path)
    assert (found.name, found.sources, found.tests, found.lock, found.types) == ("x", "src", "tests", "dev.lock", True)
    assert needed_locks(found) == {"delivery-build.lock": ("build", "hatchling")}
    written = text(found)
    compile(written, "delivery.py", "exec")
    for word in ("UnitTests", "TypeCheck", "BuildDistributions", "QualityGate", "dev.lock"):
        assert word in written
    assert 'source = WorkingCopy(exclude=("delivery.py", "dev.lock", "delivery-build.lock"))' in written


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ("[project]", ()),
        ("[project]\ndependencies = ['x']", ("pyproject.toml",)),
        ("[project.optional-dependencies]\ndocs = []\ndev = []\ntest = []", ("pyproject.toml", "--extra", "test")),
        ("[dependency-groups]\ndev = []", ("--group", "dev")),
        (
            "[project]\ndependencies = ['x']\n[dependency-groups]\ntests = []\n[project.optional-dependencies]\ndev = []",
            ("pyproject.toml", "--extra", "dev", "--group", "tests"),
        ),
    ],
)
def test_what_tests_need_besides_is_found_as_projects_name_it(tmp_path: Path, document: str, named: tuple[str, ...]) -> None:
    (tmp_path / "pyproject.toml").write_text(document)
    assert detect(tmp_path).dependencies == named


@pytest.mark.parametrize("named", ["[project.optional-dependencies]\ntest", "[dependency-groups]\ndev"])
def test_what_tests_need_besides_is_in_the_lock(tmp_path: Path, named: str) -> None:
    root = project(tmp_path)
    (root / "delivery.lock").unlink()
    (root / "pyproject.toml").write_text(f'[project]\nname = "thing"\nversion = "1"\n{named} = ["sortedcontainers"]\n')
    done = command(root, "init")
    if "could not be resolved" in done.stderr:
        pytest.skip(f"no package index can be reached: {done.stderr}")
    assert done.stdout.startswith("resolved delivery.lock: pytest and the project's dependencies\n")
    assert "\nsortedcontainers==" in (root / "delivery.lock").read_text()


def project(tmp_path: Path) -> Path:
    (tmp_path / "tests").mkdir()
    (tmp_path / "delivery.lock").write_text(HASHED)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "thing"\n')
    return tmp_path


def test_what_is_written_is_a_pipeline_that_plans(tmp_path: Path) -> None:
    done = command(project(tmp_path), "init")
    assert done.returncode == 0, done.stderr
    assert "wrote delivery.py" in done.stdout
    planned = command(tmp_path, "plan", "--output", "json", "--engine", "host")
    assert "unit" in {json.loads(line)["stage"] for line in planned.stdout.splitlines()}


def test_what_was_done_is_told_as_objects_where_that_is_asked_for(tmp_path: Path) -> None:
    root = project(tmp_path)
    (root / "pyproject.toml").write_text('[project]\nname = "thing"\n[build-system]\nrequires = []\nbuild-backend = "x"\n')
    done = command(root, "init", "--output", "json")
    assert done.returncode == 0, done.stderr
    (row,) = [row for row in map(json.loads, done.stdout.splitlines()) if row["kind"] == "init"]
    stages = command(root, "list", "--output", "json").stdout.splitlines()
    assert row == {"kind": "init", "file": "delivery.py", "pipeline": "thing", "stages": len(stages)}


def test_a_lock_that_was_resolved_is_told_as_an_object(tmp_path: Path) -> None:
    root = project(tmp_path)
    (root / "delivery.lock").unlink()
    done = command(root, "init", "--output", "json")
    if "could not be resolved" in done.stderr:
        pytest.skip(f"no package index can be reached: {done.stderr}")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows[0] == {"kind": "lock", "file": "delivery.lock", "requirements": ["pytest"], "dependencies": False}
    assert [row["kind"] for row in rows] == ["lock", "init"]
    assert "--hash=sha256:" in (root / "delivery.lock").read_text()


def test_a_file_that_is_there_is_not_written_over_unless_asked(tmp_path: Path) -> None:
    command(project(tmp_path), "init")
    (tmp_path / "delivery.py").write_text("# mine\n")
    done = command(tmp_path, "init")
    assert done.returncode == 2
    assert "there is a pipeline file already" in done.stderr
    assert (tmp_path / "delivery.py").read_text() == "# mine\n"
    assert command(tmp_path, "init", "--force").returncode == 0


def test_a_lock_that_cannot_be_resolved_is_said_with_the_way_out(tmp_path: Path) -> None:
    root = project(tmp_path)
    (root / "delivery.lock").unlink()
    (root / "pyproject.toml").write_text('[project]\nname = "thing"\nversion = "1"\ndependencies = ["no such thing"]\n')
    done = command(root, "init")
    assert done.returncode == 2
    assert "delivery.lock could not be resolved" in done.stderr
    assert "next: make delivery.lock" in done.stderr


def test_a_lock_that_was_resolved_is_told_in_words(tmp_path: Path) -> None:
    root = project(tmp_path)
    (root / "delivery.lock").unlink()
    done = command(root, "init")
    if "could not be resolved" in done.stderr:
        pytest.skip(f"no package index can be reached: {done.stderr}")
    assert done.stdout.startswith("resolved delivery.lock: pytest\nwrote delivery.py: ")


def test_a_file_that_cannot_be_written_is_said_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "delivery.py").mkdir()
    done = command(tmp_path, "init", "--force")
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path}/delivery.py: Is a directory\n"


def test_of_a_project_without_src_only_its_own_code_is_checked(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'flat'\n[tool.mypy]\nstrict = true\n")
    for name in ("flat/__init__.py", "tests/__init__.py", "tests/test_it.py", "more.py", "delivery.py", "setup.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    found = detect(tmp_path)
    assert found.code == ("flat", "more.py")
    assert 'TypeCheck(source=source, environment=environment, paths=("flat", "more.py"))' in text(found)
    assert 'Bandit(source=source, paths=("flat", "more.py"))' in text(found)


def test_where_no_code_is_found_all_of_the_project_is_checked(tmp_path: Path) -> None:
    assert detect(tmp_path).code == (".",)
