"""What git knows of a working copy: its files, and which of them changed. Repositories inside it belong to it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import LockgateError

NEVER = (".git", ".pipeline")
"""Never part of the project, whatever git says."""

OUTER = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX")
"""What git tells its hooks of the repository they run in; not true of the repositories inside."""

SUBMODULE = "160000"
"""The mode of an entry that names a commit of another repository."""


def git(root: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> str | None:
    """What git prints, without the last newline; None where it fails, is missing, or knows no repository."""
    program = shutil.which("git")
    if program is None:
        return None
    done = subprocess.run(
        [program, "-c", "core.quotepath=off", *arguments],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    return done.stdout.rstrip("\n") if done.returncode == 0 else None


def listed(root: Path) -> list[str]:
    """Paths below `root`, relative, that git tracks or would track, those of repositories inside it included.

    A submodule that is not checked out is the one path that ends with `/`. Raises LockgateError without git.
    """
    return [path for path in _files(root, os.environ) if path.split("/", 1)[0] not in NEVER]


def changed(root: Path, base: str) -> frozenset[str] | None:
    """Paths below `root` that differ from the merge base with `base`, tracked or not; None when git cannot tell."""
    start = git(root, "merge-base", base, "HEAD")
    if start is None:
        return None
    try:
        return frozenset(_since(root, start, os.environ))
    except _Unknown:
        return None


def submodules(root: Path, commit: str) -> list[str]:
    """Paths below `root` at which a commit has another repository. Raises LockgateError where git cannot tell."""
    rows = git(root, "ls-tree", "-r", "-z", commit, "--", ".")
    if rows is None:
        raise LockgateError(f"git cannot list the files of {commit}", where=str(root), next=f"git -C {root} ls-tree -r {commit}")
    return [row.partition("\t")[2] for row in rows.split("\0") if row.startswith(SUBMODULE)]


class _Unknown(Exception):
    """Git cannot tell what changed, as where an object is missing: that is not the same as nothing."""


@dataclass(frozen=True)
class _Contents:
    """Files that git tracks, files that it would track, and paths of repositories inside."""

    tracked: list[str]
    fresh: list[str]
    inner: list[str]


def _files(root: Path, environment: Mapping[str, str]) -> Iterator[str]:
    found = _contents(root, environment)
    yield from found.tracked
    yield from found.fresh
    for inner in found.inner:
        place = root / inner
        if place.is_symlink() or place.is_file():
            yield inner  # put in the place of a submodule
        elif _is_filled(place):
            yield from _below(inner, _files(place, _own(environment, place)))
        elif place.is_dir():
            yield f"{inner}/"


def _since(root: Path, commit: str, environment: Mapping[str, str]) -> Iterator[str]:
    """Paths that differ from a commit; all of an inner repository that does not have the commit it was at."""
    differing = git(root, "diff", "-z", "--no-renames", "--name-only", "--relative", commit, "--", ".", environment=environment)
    if differing is None:
        raise _Unknown
    yield from filter(None, differing.split("\0"))
    found = _contents(root, environment)
    yield from found.fresh
    for inner in found.inner:
        place = root / inner
        if _is_filled(place):  # of one that is gone or not checked out, the differences tell
            own = _own(environment, place)
            before = git(root, "rev-parse", "--verify", "-q", f"{commit}:./{inner}", environment=environment)
            known = git(place, "rev-parse", "--verify", "-q", f"{before}^{{commit}}", environment=own) if before else None
            yield from _below(inner, _since(place, before, own) if before and known else _files(place, own))


def _is_filled(place: Path) -> bool:
    """Whether it is a directory with something in it."""
    return place.is_dir() and not place.is_symlink() and any(place.iterdir())


def _below(directory: str, paths: Iterator[str]) -> Iterator[str]:
    return (f"{directory}/{path}" for path in paths)


def _own(environment: Mapping[str, str], inner: Path) -> dict[str, str]:
    """The environment for a repository inside another; what is no repository must not be taken for the one around it."""
    own = {name: value for name, value in environment.items() if name not in OUTER}
    return {**own, "GIT_CEILING_DIRECTORIES": str(inner.parent)}


def _contents(root: Path, environment: Mapping[str, str]) -> _Contents:
    """What lies below `root`. Raises LockgateError where git cannot tell."""
    rows = _ls_files(root, environment, "--cached", "--stage")
    if rows is not None:
        fresh = _ls_files(root, environment, "--others", "--exclude-standard")
        if fresh is None:
            raise _unlisted(root)
        return _sorted_out(rows, fresh)
    with tempfile.TemporaryDirectory() as empty:  # without history there are still ignore files: an empty repository reads them
        git(root, "init", "-q", "--bare", empty)
        where = (f"--git-dir={empty}", f"--work-tree={root}")
        fresh = _ls_files(root, environment, "--others", "--exclude-standard", where=where)
    if fresh is None:
        raise _unlisted(root)
    return _sorted_out([], fresh)


def _unlisted(root: Path) -> LockgateError:
    return LockgateError("git cannot list the files", where=str(root), next=f"git -C {root} status")


def _sorted_out(rows: list[str], others: list[str]) -> _Contents:
    tracked: dict[str, None] = {}
    inner = {path[:-1]: None for path in others if path.endswith("/")}
    for row in rows:  # of a conflict there are several with one path
        mode, _, path = row.partition("\t")
        (inner if mode.startswith(SUBMODULE) else tracked)[path] = None
    return _Contents(list(tracked), [path for path in others if not path.endswith("/")], list(inner))


def _ls_files(root: Path, environment: Mapping[str, str], *what: str, where: tuple[str, ...] = ()) -> list[str] | None:
    """Names, or what `--stage` says of them; None where git fails. Raises LockgateError without git."""
    program = shutil.which("git")
    if program is None:
        raise LockgateError("the program git is missing", right="git 2.20 or newer, which knows what is ignored")
    done = subprocess.run(
        [program, *where, "ls-files", "-z", *what, "--", "."], cwd=root, env=environment, capture_output=True, check=False
    )
    return [os.fsdecode(name) for name in done.stdout.split(b"\0") if name] if done.returncode == 0 else None
