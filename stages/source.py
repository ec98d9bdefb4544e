"""Source: the working copy, or a commit, as a tree."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path
from typing import Any, Literal

from pipeline import Entry, Project, Result, Stage, StageFailed, Store, Tree, Work
from pipeline.digest import of_text
from pipeline.patterns import Patterns
from pipeline.repository import git, submodules
from pipeline.snapshot import take


class WorkingCopy(Stage[Tree]):
    """The project's files as they are now: what git tracks or would track, chosen by patterns.

    `include` and `exclude` are shell patterns relative to the project; `**` crosses directories, and a
    directory stands for everything in it. An empty `include` means everything. Submodules and other repositories
    inside the project belong to it; a submodule that is not checked out is refused unless the patterns leave it out.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def origin(self) -> str:
        return "the working copy"

    def chosen(self) -> Patterns:
        return Patterns(include=self.include, exclude=self.exclude)

    def observe(self, project: Project) -> str:
        return self._take(project, Store(project.home / "store")).digest

    async def run(self, work: Work) -> Tree:
        tree = self._take(work.project, work.store)
        if tree.files == 0:
            raise StageFailed("no file matches", right=f"files under {' or '.join(self.include) or 'the project'}")
        _need_unchanged(tree.digest, work)
        if not work.store.has(tree):  # the index remembers files whose content has been pruned since
            index(work.project).unlink(missing_ok=True)
            tree = self._take(work.project, work.store)
        return tree

    def _take(self, project: Project, store: Store) -> Tree:
        return take(project.root, project.files, store, index(project), self.chosen())


class Commit(Stage[Tree]):
    """The project's files as a commit has them. `revision` is anything git understands; it is resolved when planning.

    A commit names the commits of its submodules and not their files: it fails for a submodule that is chosen.
    """

    revision: str = "HEAD"
    include: tuple[str, ...] = ()

    def origin(self) -> str:
        return f"commit {self.revision}"

    def chosen(self) -> Patterns:
        return Patterns(include=self.include)

    def observe(self, project: Project) -> str:
        return git(project.root, "rev-parse", "--verify", f"{self.revision}^{{commit}}") or of_text("unknown")

    async def run(self, work: Work) -> Tree:
        root = work.project.root
        commit = git(root, "rev-parse", "--verify", f"{self.revision}^{{commit}}")
        if not commit:
            raise StageFailed(f"git knows no commit {self.revision!r}", where=str(root), right="a commit, tag or branch")
        _need_unchanged(commit, work)
        lost = list(self.chosen().choose(submodules(root, commit)))
        if lost:
            raise StageFailed(
                f"{self.revision} holds the submodule {lost[0]}, whose files are in a repository of their own",
                where=str(root),
                right="include= without it, or a WorkingCopy",
            )
        return work.store.tree(_unpacked(_archive(root, commit), work.store, self.chosen()))


class Provenance(Result):
    """Where a source tree comes from: the commit (empty: no history), and whether files differ from it."""

    commit: str
    branch: str
    dirty: bool
    committed: int
    """Seconds since the epoch; 0 without history. What reproducible builds take as their date."""

    def summary(self) -> str:
        return f"{self.commit[:12] or 'no commit'}{' with changes' if self.dirty else ''}"


class SourceProvenance(Stage[Provenance]):
    """The commit the working copy is at, and whether it is dirty."""

    def origin(self) -> str:
        return "the working copy"

    def chosen(self) -> None:
        """It tells of the files and takes none."""

    def observe(self, project: Project) -> str:
        return of_text(provenance(project.root).model_dump_json())

    async def run(self, work: Work) -> Provenance:
        found = provenance(work.project.root)
        _need_unchanged(of_text(found.model_dump_json()), work)
        return found


def provenance(root: Path) -> Provenance:
    """What git says of the working copy below `root`; all empty where there is no history."""
    status = git(root, "status", "--porcelain=v2", "--branch", "--", ".").splitlines()
    about = dict(line.removeprefix("# ").split(" ", 1) for line in status if line.startswith("# "))
    commit, branch = about.get("branch.oid", ""), about.get("branch.head", "")
    return Provenance(
        commit="" if commit == "(initial)" else commit,
        branch="" if branch == "(detached)" else branch,
        dirty=any(not line.startswith("# ") for line in status),
        committed=int(git(root, "log", "-1", "--format=%ct") or 0),
    )


def _need_unchanged(found: str, work: Work) -> None:
    """What is read now has to be what the plan saw: its key is made of that. Raises StageFailed otherwise."""
    if found != work.observed:
        raise StageFailed(
            "the project changed while the run was under way", right="the files the plan was made from", next="run again"
        )


def index(project: Project) -> Path:
    """The stat index all working copies of a project share."""
    return project.home / "index.json"


def _archive(root: Path, commit: str) -> bytes:
    """The files below `root` at a commit, as tar. Raises StageFailed with what git says."""
    done = subprocess.run(["git", "archive", "--format=tar", commit, "--", "."], cwd=root, capture_output=True, check=False)
    if done.returncode != 0:
        raise StageFailed(f"git archive: {done.stderr.decode(errors='replace').strip()}", where=str(root))
    return done.stdout


def _unpacked(archive: bytes, store: Store, patterns: Patterns) -> list[Entry]:
    entries: list[Entry] = []
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for name in patterns.choose(tar.getnames()):
            member = tar.getmember(name)
            if member.issym():
                entries.append(Entry(member.name, "link", member.linkname))
            elif member.isfile():
                content: Any = tar.extractfile(member)
                blob = store.put(content.read())
                kind: Literal["file", "executable"] = "executable" if member.mode & 0o100 else "file"
                entries.append(Entry(member.name, kind, blob.digest, blob.size))
    return entries
