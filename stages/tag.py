"""Tags of an image: which names an image gets from its version, its commit and its branch."""

from __future__ import annotations

import re
from enum import Enum

from pipeline import Result, Stage, StageFailed, Store, Tree, WiringError, Work
from stages.source import Provenance

SEMVER = re.compile(
    r"^(?P<major>0|[1-9]\d*)\.(?P<minor>0|[1-9]\d*)\.(?P<patch>0|[1-9]\d*)"
    r"(?:-(?P<pre>(?:0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*)(?:\.(?:0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*))*))?"
    r"(?:\+(?P<build>[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?\Z",
    re.ASCII,
)
"""Semantic Versioning 2.0.0."""

LONGEST = 128
"""Characters of a tag, by the OCI distribution specification."""

DIRTY = "-dirty"


class TagRule(Enum):
    """Where tags come from. All rules add DIRTY for a tree with changes, so that no tag promises a commit it is not."""

    VERSION = "version"
    """1.4.2; for what is no pre-release also 1.4 and 1, and on the default branch `latest`."""
    COMMIT = "commit"
    """`sha-` and twelve digits of the commit."""
    BRANCH = "branch"
    """The branch, with what a tag cannot hold replaced."""


class Tags(Result):
    """The tags of one image, the most exact first, and the version it has."""

    tags: tuple[str, ...]
    version: str

    def summary(self) -> str:
        return ", ".join(self.tags)


class TagImage(Stage[Tags]):
    """The tags for an image built from `source` at `provenance`.

    The version is `version`, or that of `[project]` in the source's pyproject.toml. Fails for one that is not
    semantic, and when no rule gives a tag.
    """

    source: Stage[Tree] | None = None
    provenance: Stage[Provenance]
    version: str = ""
    default_branch: str = "main"
    rules: tuple[TagRule, ...] = (TagRule.VERSION, TagRule.COMMIT, TagRule.BRANCH)

    def __post_init__(self) -> None:
        if self.version and not SEMVER.match(self.version):
            raise WiringError(
                f"the version {self.version!r} is not semantic", right="MAJOR.MINOR.PATCH, as in 1.4.2 or 2.0.0-rc.1"
            )
        if not self.version and self.source is None:
            raise WiringError(
                "neither a version nor a source is given", right="version='1.4.2', or source= with a pyproject.toml"
            )

    async def run(self, work: Work) -> Tags:
        version = self.version or (project_version(work.store, work[self.source]) if self.source else "")
        tags = tags_of(version, work[self.provenance], default_branch=self.default_branch, rules=self.rules)
        if not tags:
            raise StageFailed("no rule gives a tag", right="a version, a commit or a branch")
        return Tags(tags=tags, version=version)


def tags_of(version: str, origin: Provenance, *, default_branch: str, rules: tuple[TagRule, ...]) -> tuple[str, ...]:
    """The tags that the rules give, each once. Raises StageFailed for a version that is not semantic."""
    found: list[str] = []
    for rule in rules:
        if rule is TagRule.VERSION:
            found += of_version(version, release=origin.branch == default_branch and not origin.dirty, dirty=origin.dirty)
        elif rule is TagRule.COMMIT and origin.commit:
            found.append(_marked(f"sha-{origin.commit[:12]}", dirty=origin.dirty))
        elif rule is TagRule.BRANCH and origin.branch:
            found.append(of_branch(origin.branch, dirty=origin.dirty))
    return tuple(dict.fromkeys(found))


def of_version(version: str, *, release: bool, dirty: bool) -> list[str]:
    """The tags of a version; those that move to later versions (1.4, 1, latest) only where no pre-release or change is.

    Raises StageFailed for a version that is not semantic.

    >>> of_version("1.4.2", release=True, dirty=False)
    ['1.4.2', '1.4', '1', 'latest']
    >>> of_version("2.0.0-rc.1", release=True, dirty=False)
    ['2.0.0-rc.1']
    """
    parts = SEMVER.match(version)
    if parts is None:
        raise StageFailed(f"the version {version!r} is not semantic", right="MAJOR.MINOR.PATCH, as in 1.4.2 or 2.0.0-rc.1")
    exact = _marked(version.replace("+", "_"), dirty=dirty)  # a tag cannot hold a plus sign
    if dirty or parts["pre"]:
        return [exact]
    major = [parts["major"]] if parts["major"] != "0" else []  # 0.x promises nothing about 0.y
    return [exact, f"{parts['major']}.{parts['minor']}", *major, *(["latest"] if release else [])]


def of_branch(branch: str, *, dirty: bool) -> str:
    """The tag of a branch: never one that looks like a version, a commit or `latest`.

    >>> of_branch("feature/count-dogs", dirty=False)
    'feature-count-dogs'
    >>> of_branch("1.4", dirty=False)
    'branch-1.4'
    """
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", branch).lstrip(".-")
    if not name or name.startswith(("latest", "sha-", "branch-")) or name[0].isdigit():
        name = f"branch-{name}"
    return _marked(name, dirty=dirty)


def _marked(tag: str, *, dirty: bool) -> str:
    end = DIRTY if dirty else ""
    return tag[: LONGEST - len(end)] + end


def project_version(store: Store, source: Tree) -> str:
    """The version in `[project]` of a source tree. Raises StageFailed when it is not written there."""
    import tomllib

    where = "pyproject.toml"
    try:
        document = tomllib.loads(store.read(store.file(source, where)).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StageFailed(f"is not valid TOML: {error}", where=where) from error
    version = document.get("project", {}).get("version")
    if not isinstance(version, str):
        raise StageFailed("[project] has no version of its own", where=where, right='version = "1.4.2", or TagImage(version=...)')
    return version
