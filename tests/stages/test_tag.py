"""Tags of images."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import Project, StageFailed, WiringError
from stages.source import Provenance, SourceProvenance, WorkingCopy
from stages.tag import TagImage, TagRule, of_branch, of_version, tags_of
from tests.conftest import RunStage, StageDidNotPass
from tests.stages.package import commit

TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
ALL = tuple(TagRule)
NUMBERS = st.integers(min_value=0, max_value=999)
VERSIONS = st.builds(
    "{}.{}.{}{}{}".format,
    NUMBERS,
    NUMBERS,
    NUMBERS,
    st.sampled_from(["", "-rc.1", "-alpha", "-0.3.7", "-x-y-z"]),
    st.sampled_from(["", "+build.5", "+exp-1"]),
)
ORIGINS = st.builds(
    Provenance,
    commit=st.sampled_from(["", "0123456789abcdef" * 2 + "01234567"]),
    branch=st.one_of(st.just("main"), st.just(""), st.text(min_size=1, max_size=300)),
    dirty=st.booleans(),
    committed=st.just(0),
)


def origin(branch: str = "main", *, dirty: bool = False) -> Provenance:
    return Provenance(commit="0123456789abcdef" * 2 + "01234567", branch=branch, dirty=dirty, committed=1)


def test_a_release_on_the_default_branch_moves_latest() -> None:
    assert tags_of("1.4.2", origin(), default_branch="main", rules=ALL) == (
        "1.4.2", "1.4", "1", "latest", "sha-0123456789ab", "main",
    )  # fmt: skip


def test_another_branch_does_not_move_latest() -> None:
    assert "latest" not in tags_of("1.4.2", origin("release/1.4"), default_branch="main", rules=ALL)


def test_a_pre_release_moves_nothing() -> None:
    assert of_version("1.4.2-rc.1", release=True, dirty=False) == ["1.4.2-rc.1"]


def test_before_1_0_there_is_no_tag_of_the_major_version() -> None:
    assert of_version("0.3.1", release=True, dirty=False) == ["0.3.1", "0.3", "latest"]


def test_changes_that_no_commit_has_are_marked_in_every_tag() -> None:
    assert tags_of("1.4.2", origin(dirty=True), default_branch="main", rules=ALL) == (
        "1.4.2-dirty", "sha-0123456789ab-dirty", "main-dirty",
    )  # fmt: skip


def test_only_the_rules_that_are_asked_for_give_tags() -> None:
    assert tags_of("1.4.2", origin(), default_branch="main", rules=(TagRule.COMMIT,)) == ("sha-0123456789ab",)


@pytest.mark.parametrize("version", ["", "1", "1.4", "01.4.2", "1.4.2rc1", "v1.4.2", "1.4.2-", "1.4.2-01", "1.4.2\n", "1.4.²"])
def test_a_version_that_is_not_semantic_is_refused(version: str) -> None:
    with pytest.raises(StageFailed, match="not semantic"):
        of_version(version, release=True, dirty=False)


@given(VERSIONS, ORIGINS)
def test_every_tag_is_one_that_registries_take(version: str, where: Provenance) -> None:
    tags = tags_of(version, where, default_branch="main", rules=ALL)
    assert all(TAG.fullmatch(tag) for tag in tags)
    assert len(set(tags)) == len(tags)
    assert all(tag.endswith("-dirty") for tag in tags) or not where.dirty


@given(st.text(min_size=1, max_size=300))
def test_no_branch_takes_the_tag_of_a_version_or_a_commit(branch: str) -> None:
    tag = of_branch(branch, dirty=False)
    assert tag != "latest"
    assert not tag.startswith("sha-")
    assert not tag[0].isdigit()


@given(VERSIONS, st.booleans())
def test_tags_that_move_are_the_beginning_of_the_version(version: str, release: bool) -> None:
    exact, *moving = of_version(version, release=release, dirty=False)
    assert exact == version.replace("+", "_")
    assert all(version.startswith(f"{tag}.") for tag in moving if tag != "latest")
    assert ("latest" in moving) == (release and "-" not in version.partition("+")[0])


def test_the_version_is_that_of_the_project(project: Project, run_stage: RunStage) -> None:
    (project.root / "pyproject.toml").write_text("[project]\nname = 'thing'\nversion = '1.4.2'\n")
    commit(project, "2024-05-06T07:08:10Z")
    found = run_stage(TagImage(source=WorkingCopy(), provenance=SourceProvenance()))
    assert found.version == "1.4.2"
    assert found.tags[:4] == ("1.4.2", "1.4", "1", "latest")


def test_a_project_without_a_version_of_its_own_is_told_so(project: Project, run_stage: RunStage) -> None:
    (project.root / "pyproject.toml").write_text("[project]\nname = 'thing'\ndynamic = ['version']\n")
    with pytest.raises(StageDidNotPass, match="no version of its own"):
        run_stage(TagImage(source=WorkingCopy(), provenance=SourceProvenance()))


def test_a_version_that_is_given_is_checked_when_it_is_wired() -> None:
    with pytest.raises(WiringError, match="not semantic"):
        TagImage(provenance=SourceProvenance(), version="1.4")
    with pytest.raises(WiringError, match="neither a version nor a source"):
        TagImage(provenance=SourceProvenance())
