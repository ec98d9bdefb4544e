"""The project and the occasion of a run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline import LockgateError, Project
from pipeline.condition import Only
from pipeline.engines.choose import RUNNER, choose, container_sockets, default_image, runner
from pipeline.errors import ConfigError, EngineError, did_you_mean
from pipeline.project import facts
from pipeline.repository import git


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    root.mkdir()
    (root / "pyproject.toml").write_text('[tool.pipeline]\nenvironment = "staging"\n')
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "x"]):
        subprocess.run(["git", *words], cwd=root, check=True)
    return root


def project(root: Path, **environment: str) -> Project:
    return Project.at(root, environment)


def test_the_project_is_where_pyproject_is_also_from_below(repository: Path) -> None:
    (repository / "a" / "b").mkdir(parents=True)
    found = project(repository / "a" / "b")
    assert (found.root, found.home) == (repository, repository / ".pipeline")


def test_the_state_can_live_elsewhere(repository: Path, tmp_path: Path) -> None:
    assert project(repository, PIPELINE_HOME=str(tmp_path / "home")).home == tmp_path / "home"


def test_facts_come_from_git_and_settings(repository: Path) -> None:
    found = facts(project(repository), {}, chosen={})
    assert (found.branch, found.environment, found.event, found.changed, found.ci) == ("main", "staging", "manual", None, "")
    assert found.commit == git(repository, "rev-parse", "HEAD")


def test_what_the_user_chose_goes_before_the_ci_system_and_git(repository: Path) -> None:
    environment = {"GITHUB_ACTIONS": "true", "GITHUB_REF_NAME": "topic", "GITHUB_EVENT_NAME": "push"}
    assert facts(project(repository), environment, chosen={}).branch == "topic"
    found = facts(project(repository), environment, chosen={"branch": "mine", "event": "schedule", "environment": "prod"})
    assert (found.branch, found.event, found.environment, found.ci) == ("mine", "schedule", "prod", "github")


@pytest.mark.parametrize(
    ("environment", "ci", "branch", "event"),
    [
        ({"GITLAB_CI": "1", "CI_COMMIT_REF_NAME": "b", "CI_PIPELINE_SOURCE": "push"}, "gitlab", "b", "push"),
        ({"JENKINS_URL": "x", "BRANCH_NAME": "b"}, "jenkins", "b", "manual"),
        ({"BUILDKITE": "true", "BUILDKITE_BRANCH": "b", "BUILDKITE_SOURCE": "ui"}, "buildkite", "b", "ui"),
        ({"CI": "true"}, "ci", "main", "manual"),
        ({"GITHUB_ACTIONS": "1", "GITHUB_REF_NAME": "b", "GITHUB_REF_TYPE": "branch"}, "github", "b", "manual"),
    ],
)
def test_every_ci_system_is_asked_in_its_own_words(
    repository: Path, environment: dict[str, str], ci: str, branch: str, event: str
) -> None:
    found = facts(project(repository), environment, chosen={})
    assert (found.ci, found.branch, found.event) == (ci, branch, event)


@pytest.mark.parametrize(
    ("environment", "branch", "event"),
    [
        (
            {
                "GITHUB_ACTIONS": "1",
                "GITHUB_EVENT_NAME": "pull_request",
                "GITHUB_HEAD_REF": "main",
                "GITHUB_REF": "refs/pull/12/merge",
                "GITHUB_REF_NAME": "12/merge",
            },
            "pull/12",
            "pull_request",
        ),
        (
            {
                "GITHUB_ACTIONS": "1",
                "GITHUB_EVENT_NAME": "pull_request_target",
                "GITHUB_HEAD_REF": "main",
                "GITHUB_REF": "refs/heads/main",
                "GITHUB_REF_NAME": "main",
            },
            "pull/unknown",
            "pull_request_target",
        ),
        (
            {
                "GITLAB_CI": "1",
                "CI_MERGE_REQUEST_IID": "3",
                "CI_COMMIT_REF_NAME": "main",
                "CI_PIPELINE_SOURCE": "merge_request_event",
            },
            "pull/3",
            "pull_request",
        ),
        ({"JENKINS_URL": "x", "BRANCH_NAME": "main", "CHANGE_ID": "4"}, "pull/4", "pull_request"),
        ({"BUILDKITE": "true", "BUILDKITE_BRANCH": "main", "BUILDKITE_PULL_REQUEST": "5"}, "pull/5", "pull_request"),
        ({"BUILDKITE": "true", "BUILDKITE_BRANCH": "main", "BUILDKITE_PULL_REQUEST": "false"}, "main", "manual"),
    ],
)
def test_a_pull_request_is_on_no_branch_of_the_project_whatever_its_author_calls_his(
    repository: Path, environment: dict[str, str], branch: str, event: str
) -> None:
    found = facts(project(repository), environment, chosen={})
    assert (found.branch, found.event) == (branch, event)
    refused = Only(branch=("main",)).refuses(found)
    assert (refused is None) == (branch == "main")


@pytest.mark.parametrize(
    "environment",
    [
        {"GITHUB_ACTIONS": "1", "GITHUB_EVENT_NAME": "push", "GITHUB_REF_TYPE": "tag", "GITHUB_REF_NAME": "main"},
        {"GITLAB_CI": "1", "CI_PIPELINE_SOURCE": "push", "CI_COMMIT_TAG": "main", "CI_COMMIT_REF_NAME": "main"},
        {"JENKINS_URL": "x", "TAG_NAME": "main", "BRANCH_NAME": "main"},
        {"BUILDKITE": "1", "BUILDKITE_TAG": "main", "BUILDKITE_BRANCH": "main"},
    ],
)
def test_a_tag_is_no_branch_whatever_it_is_called(repository: Path, environment: dict[str, str]) -> None:
    found = facts(project(repository), environment, chosen={})
    assert (found.branch, found.event) == ("", "tag")
    assert Only(branch=("main",)).refuses(found) == "branch is unknown, only on main"


def test_a_merge_request_is_measured_against_its_target(repository: Path) -> None:
    environment = {"GITLAB_CI": "1", "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "main"}
    assert facts(project(repository), environment, chosen={}).changed is None  # origin/main is not there


def test_facts_hold_what_changed_since_the_chosen_base(repository: Path) -> None:
    (repository / "new.txt").write_text("x")
    assert facts(project(repository), {}, chosen={"base": "main"}).changed == frozenset({"new.txt"})


def test_a_base_that_the_user_named_and_git_does_not_know_is_an_error(repository: Path) -> None:
    with pytest.raises(ConfigError, match="git knows no base 'orgin/mian'") as caught:
        facts(project(repository), {}, chosen={"base": "orgin/mian"})
    assert caught.value.where == "--base"
    (repository / "pyproject.toml").write_text("[tool.pipeline]\nbase = 'orgin/mian'\n")
    with pytest.raises(ConfigError, match="git knows no base 'orgin/mian'") as caught:
        facts(Project.at(repository, {}), {}, chosen={})
    assert caught.value.where == "base in [tool.pipeline]"


def test_a_base_that_is_configured_before_there_is_a_commit_is_no_error(tmp_path: Path) -> None:
    assert facts(project(tmp_path), {}, chosen={"base": "main"}).changed is None


def test_without_history_nothing_is_known(tmp_path: Path) -> None:
    found = facts(project(tmp_path), {}, chosen={})
    assert (found.branch, found.commit, found.changed) == ("", "", None)


def test_without_git_nothing_is_known(repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git(repository, "rev-parse", "HEAD") is None


def test_a_secret_comes_from_the_environment(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "value")
    assert project(repository).secret("TOKEN") == "value"
    with pytest.raises(LockgateError, match="the secret OTHER is not set"):
        project(repository).secret("OTHER")


@pytest.mark.parametrize("value", ["abc", " abc\n", " \n \n "])
def test_a_secret_that_is_too_short_to_be_masked_is_refused_and_not_said(
    repository: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("TOKEN", value)
    with pytest.raises(LockgateError, match="the secret TOKEN is too short to be kept out of logs") as caught:
        project(repository).secret("TOKEN")
    assert "abc" not in str(caught.value)


def test_the_host_is_taken_as_asked() -> None:
    assert choose("host", {}).name == "host"


def test_a_named_runner_is_believed_unless_its_socket_is_dead(tmp_path: Path) -> None:
    assert runner({RUNNER: "tcp://engine:1234"}) == f"{RUNNER} is tcp://engine:1234"
    assert runner({RUNNER: f"unix://{tmp_path}/none.sock"}) is None
    assert runner({"DAGGER_SESSION_PORT": "1"}) == "this process runs inside a Dagger session"
    assert choose("auto", {RUNNER: "tcp://engine:1234"}).name == "dagger"


def test_without_the_sdk_auto_says_so_and_dagger_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert choose("auto", {RUNNER: "tcp://x"}).reason.endswith("but the Dagger SDK is not installed")
    with pytest.raises(EngineError, match="the Dagger SDK is not installed"):
        choose("dagger", {RUNNER: "tcp://x"})


def test_dagger_without_an_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no Dagger engine can be reached"):
        choose("dagger", {RUNNER: f"unix://{tmp_path}/none.sock"})


def test_docker_host_is_looked_at_first() -> None:
    assert container_sockets({"DOCKER_HOST": "unix:///x.sock"})[0] == Path("/x.sock")


def test_the_default_image_is_the_projects_own_or_that_of_the_running_python(repository: Path) -> None:
    assert default_image(project(repository)).startswith("python:3.")
    (repository / "pyproject.toml").write_text('[tool.pipeline]\nimage = "mine@sha256:1"\n')
    assert default_image(project(repository)) == "mine@sha256:1"


def test_a_hint_names_the_nearest_word_or_all() -> None:
    assert did_you_mean("imge", ["image", "unit"]) == "did you mean 'image'?"
    assert did_you_mean("zzz", ["image", "unit"]) == "one of: image, unit"
    assert did_you_mean("zzz", []) == "nothing is known here"
