"""Source: the working copy, or a commit, as a tree."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from pipeline import Entry, Project, Result, Stage, StageFailed, Store, Tree, Work
from pipeline.digest import of_text
from pipeline.patterns import Patterns
from pipeline.repository import git, submodules
from pipeline.snapshot import take

SOME = 3
"""Files that are named where more have changed."""


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
            locks = bool(self.include) and all(path.endswith(".lock") for path in self.include)
            raise StageFailed(
                "no file matches",
                right=f"files under {' or '.join(self.include) or 'the project'}",
                next="python -m pipeline init --force writes a pipeline with its locks; by hand: uv pip compile --generate-hashes"
                if locks
                else "",
            )
        _need_unchanged(tree.digest, work, lambda: _changed(tree, work))
        if not work.store.has(tree):  # the index remembers files whose content has been pruned since
            index(work.project).unlink(missing_ok=True)
            tree = self._take(work.project, work.store)
        return tree

    def _take(self, project: Project, store: Store) -> Tree:
        return take(project.root, project.files, store, index(project), self.chosen())


class Commit(Stage[Tree]):
    """The project's files as a commit has them. `revision` is anything git understands; it is resolved when planning.

    What .gitattributes says of archives, line ends and filters is not done to them: a file of Git LFS is its pointer.
    A commit names the commits of its submodules and not their files: it fails for a submodule that is chosen.
    """

    revision: str = "HEAD"
    include: tuple[str, ...] = ()

    def origin(self) -> str:
        return f"commit {self.revision}"

    def chosen(self) -> Patterns:
        return Patterns(include=self.include)

    def named(self, project: Project) -> str:
        """What git is asked for."""
        return self.revision

    def observe(self, project: Project) -> str:
        return git(project.root, "rev-parse", "--verify", f"{self.named(project)}^{{commit}}") or of_text("unknown")

    async def run(self, work: Work) -> Tree:
        root, revision = work.project.root, self.named(work.project)
        commit = git(root, "rev-parse", "--verify", f"{revision}^{{commit}}")
        if not commit:
            raise StageFailed(f"git knows no commit {revision!r}", where=str(root), right="a commit, tag or branch")
        _need_unchanged(commit, work)
        lost = list(self.chosen().choose(submodules(root, commit)))
        if lost:
            raise StageFailed(
                f"{revision} holds the submodule {lost[0]}, whose files are in a repository of their own",
                where=str(root),
                right="include= without it, or a WorkingCopy",
            )
        return work.store.tree(_files(root, commit, work.store, self.chosen()))


class Deployed(Commit):
    """The project's files as the commit had them that was deployed and verified last, by the stage `deployment` names.

    Where nothing was, as at first, and where that run knew of no commit: those of `revision`.
    """

    deployment: str = "deploy"

    def origin(self) -> str:
        return f"the commit {self.deployment} has deployed"

    def named(self, project: Project) -> str:
        from pipeline.session import open_journal

        journal = open_journal(project)
        try:
            stands = journal.latest(self.deployment, ("effect.stands",))
            begun = journal.events(stands.run, kind="run.started") if stands is not None else ()
            commit = next((event.data.get("commit", "") for event in begun), "")
        finally:
            journal.close()
        return commit or self.revision


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
    shown = ("--porcelain=v2", "--branch", "--untracked-files=normal", "--ignore-submodules=none")  # whatever git's settings say
    status = (git(root, "status", *shown, "--", ".") or "").splitlines()
    about = dict(line.removeprefix("# ").split(" ", 1) for line in status if line.startswith("# "))
    commit, branch = about.get("branch.oid", ""), about.get("branch.head", "")
    return Provenance(
        commit="" if commit == "(initial)" else commit,
        branch="" if branch == "(detached)" else branch,
        dirty=any(not line.startswith("# ") for line in status),
        committed=int(git(root, "log", "-1", "--format=%ct") or 0),
    )


def _need_unchanged(found: str, work: Work, changed: Callable[[], str] = lambda: "") -> None:
    """What is read now has to be what the plan saw, of which its key is made. Raises StageFailed with what `changed`."""
    if found != work.observed:
        raise StageFailed(
            f"the project changed while the run was under way{changed()}",
            right="the files the plan was made from",
            next="run again",
        )


def _changed(now: Tree, work: Work) -> str:
    """Some of the files that are not as the plan saw them."""
    if work.observed is None or not work.store.has_object(work.observed):
        return ""
    before = Tree(digest=work.observed, files=0, size=0)
    then, here = ({entry.path: entry for entry in work.store.entries(tree)} for tree in (before, now))
    paths = sorted(path for path in {*then, *here} if then.get(path) != here.get(path))
    return f": {', '.join(paths[:SOME])}{f' and {len(paths) - SOME} more' if len(paths) > SOME else ''}"


def index(project: Project) -> Path:
    """The stat index all working copies of a project share."""
    return project.home / "index.json"


def _files(root: Path, commit: str, store: Store, patterns: Patterns) -> list[Entry]:
    """Those of the files below `root` at a commit that the patterns choose, byte by byte as they are in it."""
    rows = [row.split("\t", 1) for row in os.fsdecode(_said(root, "ls-tree", "-r", "-z", commit, "--", ".")).split("\0") if row]
    about = {path: what.split(" ") for what, path in rows}
    chosen = [path for path in patterns.choose(list(about)) if about[path][1] == "blob"]
    objects = io.BytesIO(_said(root, "cat-file", "--batch", asked="".join(f"{about[path][2]}\n" for path in chosen)))
    entries: list[Entry] = []
    for path in chosen:
        mode, _, name = about[path]
        found, _, size = objects.readline().partition(b" blob ")
        if found.decode() != name:
            raise StageFailed(f"git has no object {name} for {path}", where=str(root), next="git fetch --refetch")
        content = objects.read(int(size))
        objects.read(1)  # the newline after each object
        if mode == "120000":
            entries.append(Entry(path, "link", os.fsdecode(content)))
        else:
            blob = store.put(content)
            entries.append(Entry(path, "executable" if mode == "100755" else "file", blob.digest, blob.size))
    return entries


def _said(root: Path, *arguments: str, asked: str = "") -> bytes:
    """What git prints, every byte of it. Raises StageFailed with what it says where it fails."""
    done = subprocess.run(["git", *arguments], cwd=root, input=asked.encode(), capture_output=True, check=False)
    if done.returncode != 0:
        raise StageFailed(f"git {arguments[0]}: {done.stderr.decode(errors='replace').strip()}", where=str(root))
    return done.stdout
