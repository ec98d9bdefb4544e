"""The workflow and the action for GitHub: pinned, least permissions, no input in a shell; the action's script works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

yaml: Any = pytest.importorskip("yaml", reason="PyYAML is not installed")

ROOT = Path(__file__).parents[1]
ACTION = ROOT / "action.yml"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FILES = [*WORKFLOWS, ACTION]

PIPELINE = """
from pipeline import Pipeline
from tests.pipeline.toys import Constant, Fails

one = Constant(value=1)
pipeline = Pipeline("thing", one=one, two=Constant(value=2), no=Fails(of=one))
"""


def load(file: Path) -> Any:
    return yaml.safe_load(file.read_text())


def jobs(file: Path) -> dict[str, Any]:
    return dict(load(file).get("jobs", {}))


def steps(file: Path) -> Iterator[dict[str, Any]]:
    yield from load(file).get("runs", {}).get("steps", [])
    for job in jobs(file).values():
        yield from job["steps"]


def ids(file: Path) -> str:
    return file.name


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_every_action_is_pinned_by_commit_with_its_version_beside_it(file: Path) -> None:
    lines = [line for line in file.read_text().splitlines() if re.match(r"\s*(- )?uses:", line)]
    assert len(lines) == sum("uses" in step for step in steps(file))
    for line in lines:
        assert re.search(r"uses: (\./\S*|[\w.-]+(/[\w.-]+)+@[0-9a-f]{40} # v\d+\.\d+\.\d+)$", line), line


@pytest.mark.parametrize("file", WORKFLOWS, ids=ids)
def test_nothing_is_permitted_but_what_each_job_asks_for(file: Path) -> None:
    assert load(file)["permissions"] == {}
    for name, job in jobs(file).items():
        assert "permissions" in job, name
        writes = {scope for scope, access in job["permissions"].items() if access == "write"}
        assert writes <= {"security-events"}, name
        assert not writes or not any("run" in step for step in job["steps"]), f"{name} may write and runs code"
        assert job["timeout-minutes"] <= 60, name


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_no_expression_stands_in_a_shell(file: Path) -> None:
    for step in steps(file):
        assert "${{" not in step.get("run", ""), step


def test_the_reports_are_kept_whatever_becomes_of_the_run() -> None:
    listed = jobs(ROOT / ".github" / "workflows" / "ci.yml")["pipeline"]["steps"]
    started = next(number for number, step in enumerate(listed) if step.get("run") == "python -m pipeline run")
    assert len(listed) > started + 1
    assert all(step.get("if") == "always()" for step in listed[started + 1 :])


def test_zizmor_finds_nothing() -> None:
    command = [
        str(Path(sys.executable).parent / "zizmor"),
        "--offline",
        "--persona=pedantic",
        "--no-progress",
        str(ROOT / ".github"),
        str(ACTION),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@dataclass
class Job:
    """A job of GitHub, as far as the action's script knows it."""

    place: Path

    def __call__(self, **inputs: str) -> tuple[int, dict[str, str], str]:
        """Run the script; its exit code, its outputs and the job summary."""
        (step,) = [step for step in steps(ACTION) if step.get("id") == "run"]
        output, summary = self.place / "output", self.place / "summary"
        output.write_text("")
        summary.write_text("")
        env = {
            **dict.fromkeys(step["env"], ""),
            **inputs,
            "PATH": os.environ["PATH"],
            "RUNNER_TEMP": str(self.place),
            "GITHUB_OUTPUT": str(output),
            "GITHUB_STEP_SUMMARY": str(summary),
        }
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]  # as GitHub calls it
        done = subprocess.run(command, cwd=self.place, env=env, capture_output=True, text=True, timeout=120, check=False)
        return done.returncode, dict(line.split("=", 1) for line in output.read_text().splitlines()), summary.read_text()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    project = tmp_path / "project"
    project.mkdir()
    (project / "pyproject.toml").write_text('[tool.pipeline]\nengine = "host"\n')
    (project / "delivery.py").write_text(PIPELINE)
    python = tmp_path / "lockgate" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return Job(tmp_path)


def test_the_action_runs_the_stages_it_is_given_and_tells_run_and_exit_code(job: Job) -> None:
    code, outputs, summary = job(DIRECTORY="project", STAGES="one two", ENGINE="host")
    assert code == 0
    assert outputs["exit"] == "0"
    assert outputs["run"] in summary
    assert summary.startswith("# thing: passed")
    assert "| two |" in summary


def test_the_action_writes_the_summary_of_a_run_that_failed_and_fails_with_its_exit_code(job: Job) -> None:
    code, outputs, summary = job(DIRECTORY="project")
    assert (code, outputs["exit"]) == (1, "1")
    assert summary.startswith("# thing: failed")


def test_the_action_tells_of_no_run_when_none_began(job: Job) -> None:
    job(DIRECTORY="project", STAGES="one")
    code, outputs, summary = job(DIRECTORY="project", STAGES="nobody")
    assert (code, outputs) == (2, {"run": "", "exit": "2"})
    assert summary == ""
    assert job(DIRECTORY="elsewhere")[:2] == (2, {"run": "", "exit": "2"})


def test_what_the_action_is_given_is_never_a_command(job: Job) -> None:
    for inputs in ({"STAGES": "$(touch made) `touch made`;touch made"}, {"ENGINE": "host; touch made"}, {"STAGES": "--help"}):
        code, outputs, _ = job(DIRECTORY="project", **inputs)
        assert (code, outputs["run"]) == (2, "")
        assert not (job.place / "made").exists()
