"""The user's project: where it is, where its state lives, and the occasion of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.condition import Facts
from pipeline.errors import ConfigError, LockgateError
from pipeline.masking import SHORTEST
from pipeline.names import directory_name
from pipeline.repository import changed, git, listed
from pipeline.settings import Settings, read


@dataclass(frozen=True, kw_only=True)
class Project:
    """A directory with a pyproject.toml, its settings and its state directory."""

    root: Path
    home: Path
    """Where state lives: `.pipeline/` beside pyproject.toml, or PIPELINE_HOME."""
    settings: Settings
    journal: str = ""
    """The address of the journal that several runners share, from PIPELINE_JOURNAL or the settings; empty: a file in `home`."""

    @staticmethod
    def at(directory: Path, environment: Mapping[str, str]) -> Project:
        """The project `directory` lies in. Raises ConfigError when there is none."""
        start = directory.resolve()
        if not start.is_dir():
            raise ConfigError("is no directory", where=str(directory), right="the directory of your pyproject.toml")
        root = next((d for d in (start, *start.parents) if (d / "pyproject.toml").exists()), start)
        home = Path(environment["PIPELINE_HOME"]).resolve() if environment.get("PIPELINE_HOME") else root / ".pipeline"
        settings = read(root)
        return Project(root=root, home=home, settings=settings, journal=environment.get("PIPELINE_JOURNAL") or settings.journal)

    @cached_property
    def files(self) -> tuple[str, ...]:
        """Paths of the project that git does not ignore, relative and sorted; listed once, so that all stages see the same."""
        return tuple(sorted(listed(self.root)))

    def secret(self, name: str) -> str:
        """The value of a secret, from the environment variable of its name. Raises LockgateError when unset or too short."""
        value = os.environ.get(name)
        if not value:
            raise LockgateError(f"the secret {name} is not set", right=f"an environment variable {name}")
        if len(value.strip()) < SHORTEST:
            raise LockgateError(
                f"the secret {name} is too short to be kept out of logs",
                right=f"at least {SHORTEST} characters; what is no secret is set in the stage's env",
            )
        return value


def log_directory(home: Path, run: str, stage: str) -> Path:
    """Where the log files of one stage of one run lie."""
    return home / "logs" / run / directory_name(stage)


CI = {"GITHUB_ACTIONS": "github", "GITLAB_CI": "gitlab", "JENKINS_URL": "jenkins", "BUILDKITE": "buildkite"}


def facts(project: Project, environment: Mapping[str, str], *, chosen: Mapping[str, str]) -> Facts:
    """The occasion of a run, from what the user chose, the CI system and git, in this order.

    Raises ConfigError for a base the user named and git does not know; of one that only the CI system names, nothing is known.
    """
    ci = next((name for variable, name in CI.items() if environment.get(variable)), "ci" if environment.get("CI") else "")
    named = chosen.get("base") or project.settings.base
    base = named or _base_of_ci(ci, environment)
    commit, _, branch = (git(project.root, "rev-parse", "HEAD", "--abbrev-ref", "HEAD") or "").partition("\n")
    if named and commit and git(project.root, "rev-parse", "--verify", "-q", f"{named}^{{commit}}") is None:
        raise ConfigError(
            f"git knows no base {named!r}",
            where="--base" if chosen.get("base") else "base in [tool.pipeline]",
            right="a commit, tag or branch that is here, as in origin/main",
            next="git fetch, or git branch --all",
        )
    told = _branch(ci, environment)
    return Facts(
        branch=chosen.get("branch") or (branch.removeprefix("HEAD") if told is None else told),
        commit=commit,
        event=chosen.get("event") or _event(ci, environment),
        environment=chosen.get("environment") or project.settings.environment,
        changed=changed(project.root, base) if base else None,
        ci=ci,
    )


VARIABLES = {
    "github": {"branch": "GITHUB_REF_NAME", "event": "GITHUB_EVENT_NAME"},
    "gitlab": {
        "branch": "CI_COMMIT_REF_NAME",
        "event": "CI_PIPELINE_SOURCE",
        "pull request": "CI_MERGE_REQUEST_IID",
        "tag": "CI_COMMIT_TAG",
    },
    "jenkins": {"branch": "BRANCH_NAME", "pull request": "CHANGE_ID", "tag": "TAG_NAME"},
    "buildkite": {
        "branch": "BUILDKITE_BRANCH",
        "event": "BUILDKITE_SOURCE",
        "pull request": "BUILDKITE_PULL_REQUEST",
        "tag": "BUILDKITE_TAG",
    },
}
"""Where each CI system tells a fact; GitHub tells of pull requests and tags in its own way."""


def _told(ci: str, environment: Mapping[str, str], fact: str) -> str:
    return environment.get(VARIABLES.get(ci, {}).get(fact, ""), "")


def _branch(ci: str, environment: Mapping[str, str]) -> str | None:
    """The branch whose content this is, as the CI system tells; None where it does not, empty on a tag.

    A pull request has none but `pull/NUMBER`: what its author calls the branch it comes from, `main` perhaps, says nothing.
    """
    if number := _pull_request(ci, environment):
        return f"pull/{number}"
    return "" if _tag(ci, environment) else _told(ci, environment, "branch") or None


def _event(ci: str, environment: Mapping[str, str]) -> str:
    told = _told(ci, environment, "event")
    if _pull_request(ci, environment):
        return told if ci == "github" and told else "pull_request"  # GitHub has two kinds, and one of them sees secrets
    return "tag" if _tag(ci, environment) else told or "manual"


def _pull_request(ci: str, environment: Mapping[str, str]) -> str:
    """The number of the pull or merge request; empty where there is none."""
    if ci == "github" and environment.get("GITHUB_HEAD_REF"):
        kind, _, rest = environment.get("GITHUB_REF", "").removeprefix("refs/").partition("/")
        return rest.partition("/")[0] if kind == "pull" else "unknown"
    number = _told(ci, environment, "pull request")
    return "" if number == "false" else number  # as Buildkite says


def _tag(ci: str, environment: Mapping[str, str]) -> str:
    if ci == "github":
        return environment.get("GITHUB_REF_NAME", "") if environment.get("GITHUB_REF_TYPE") == "tag" else ""
    return _told(ci, environment, "tag")


def _base_of_ci(ci: str, environment: Mapping[str, str]) -> str:
    if ci == "github" and environment.get("GITHUB_BASE_REF"):
        return f"origin/{environment['GITHUB_BASE_REF']}"
    if ci == "gitlab" and environment.get("CI_MERGE_REQUEST_TARGET_BRANCH_NAME"):
        return f"origin/{environment['CI_MERGE_REQUEST_TARGET_BRANCH_NAME']}"
    return ""
