"""The user's project: where it is, where its state lives, and the occasion of a run."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.condition import Facts
from pipeline.errors import ConfigError, LockgateError
from pipeline.settings import Settings, read


@dataclass(frozen=True, kw_only=True)
class Project:
    """A directory with a pyproject.toml, its settings and its state directory."""

    root: Path
    home: Path
    """Where state lives: `.pipeline/` beside pyproject.toml, or PIPELINE_HOME."""
    settings: Settings

    @staticmethod
    def at(directory: Path, environment: Mapping[str, str]) -> Project:
        """The project `directory` lies in. Raises ConfigError when there is none."""
        start = directory.resolve()
        if not start.is_dir():
            raise ConfigError("is no directory", where=str(directory), right="the directory of your pyproject.toml")
        root = next((d for d in (start, *start.parents) if (d / "pyproject.toml").exists()), start)
        home = Path(environment["PIPELINE_HOME"]).resolve() if environment.get("PIPELINE_HOME") else root / ".pipeline"
        return Project(root=root, home=home, settings=read(root))

    @cached_property
    def files(self) -> tuple[str, ...]:
        """Paths of the project that git does not ignore, relative and sorted; listed once, so that all stages see the same."""
        return tuple(sorted(listed(self.root)))

    def secret(self, name: str) -> str:
        """The value of a secret, from the environment variable of its name. Raises LockgateError when unset."""
        value = os.environ.get(name)
        if not value:
            raise LockgateError(f"the secret {name} is not set", right=f"an environment variable {name}")
        return value


def log_directory(home: Path, run: str, stage: str) -> Path:
    """Where the log files of one stage of one run lie."""
    return home / "logs" / run / stage.replace("/", "_")


NEVER = (".git", ".pipeline")
"""Never part of the project, whatever git says."""


def listed(root: Path) -> list[str]:
    """Paths below `root`, relative, that git tracks or would track. Raises LockgateError without git."""
    program = shutil.which("git")
    if program is None:
        raise LockgateError("the program git is missing", right="git 2.20 or newer, which knows what is ignored")
    done = _ls_files(root, program)
    if done.returncode != 0:  # a tree without history still has its ignore files: an empty repository reads them
        with tempfile.TemporaryDirectory() as empty:
            subprocess.run([program, "init", "-q", "--bare", empty], check=True, capture_output=True)
            done = _ls_files(root, program, f"--git-dir={empty}", f"--work-tree={root}")
    if done.returncode != 0:
        raise LockgateError(f"git cannot list the files: {done.stderr.decode(errors='replace').strip()}", where=str(root))
    names = (os.fsdecode(name) for name in done.stdout.split(b"\0") if name)
    return [name for name in names if name.split("/", 1)[0] not in NEVER]


def _ls_files(root: Path, program: str, *where: str) -> subprocess.CompletedProcess[bytes]:
    arguments = ["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate", "--", "."]
    return subprocess.run([program, *where, *arguments], cwd=root, capture_output=True, check=False)


CI = {"GITHUB_ACTIONS": "github", "GITLAB_CI": "gitlab", "JENKINS_URL": "jenkins", "BUILDKITE": "buildkite"}


def facts(project: Project, environment: Mapping[str, str], *, chosen: Mapping[str, str]) -> Facts:
    """The occasion of a run, from what the user chose, the CI system and git, in this order."""
    ci = next((name for variable, name in CI.items() if environment.get(variable)), "ci" if environment.get("CI") else "")
    base = chosen.get("base") or project.settings.base or _base_of_ci(ci, environment)
    commit, _, branch = git(project.root, "rev-parse", "HEAD", "--abbrev-ref", "HEAD").partition("\n")
    return Facts(
        branch=chosen.get("branch") or _branch(ci, environment) or branch.removeprefix("HEAD"),
        commit=commit,
        event=chosen.get("event") or _event(ci, environment),
        environment=chosen.get("environment") or project.settings.environment,
        changed=changed(project.root, base) if base else None,
        ci=ci,
    )


def changed(root: Path, base: str) -> frozenset[str] | None:
    """Paths below `root` that differ from the merge base with `base`, tracked or not; None when git cannot tell."""
    start = git(root, "merge-base", base, "HEAD")
    if not start:
        return None
    differing = git(root, "diff", "-z", "--no-renames", "--name-only", "--relative", start, "--", ".")
    fresh = git(root, "ls-files", "-z", "--others", "--exclude-standard")
    return frozenset(path for path in (differing + "\0" + fresh).split("\0") if path)


def git(root: Path, *arguments: str) -> str:
    """What git prints, without the last newline; empty where git, a repository or an answer is missing."""
    program = shutil.which("git")
    if program is None:
        return ""
    done = subprocess.run(
        [program, "-c", "core.quotepath=off", *arguments], cwd=root, capture_output=True, text=True, errors="replace", check=False
    )
    return done.stdout.rstrip("\n") if done.returncode == 0 else ""


def _branch(ci: str, environment: Mapping[str, str]) -> str:
    if ci == "github":
        return environment.get("GITHUB_HEAD_REF") or environment.get("GITHUB_REF_NAME", "")
    names = {"gitlab": "CI_COMMIT_REF_NAME", "jenkins": "BRANCH_NAME", "buildkite": "BUILDKITE_BRANCH"}
    return environment.get(names.get(ci, ""), "")


def _event(ci: str, environment: Mapping[str, str]) -> str:
    names = {"github": "GITHUB_EVENT_NAME", "gitlab": "CI_PIPELINE_SOURCE", "buildkite": "BUILDKITE_SOURCE"}
    return environment.get(names.get(ci, ""), "") or "manual"


def _base_of_ci(ci: str, environment: Mapping[str, str]) -> str:
    if ci == "github" and environment.get("GITHUB_BASE_REF"):
        return f"origin/{environment['GITHUB_BASE_REF']}"
    if ci == "gitlab" and environment.get("CI_MERGE_REQUEST_TARGET_BRANCH_NAME"):
        return f"origin/{environment['CI_MERGE_REQUEST_TARGET_BRANCH_NAME']}"
    return ""
