"""One scan for each package of a repository that holds several."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Mapping

from gates.findings import Finding, Findings
from pipeline import FanOut, Stage, StageFailed, Tree, Work
from pipeline.digest import of_text
from stages.sarif import scan, scored
from stages.subtree import Subtree


class EachPackage(FanOut[Findings, Findings]):
    """Every package of `source` scanned by itself, so that a change is followed by a scan of the packages it is in.

    A package is a directory with a file called `marker`; a package inside another is not part of that. `scan` gives the stage
    that scans a tree with `tool`, as in `scan=lambda tree, tool: Bandit(source=tree, tool=tool, paths=(".",))`; the paths of
    what it finds are those in `source` again. Raises StageFailed where there is no package.
    """

    source: Stage[Tree]
    tool: Stage[Tree]
    scan: Callable[[Stage[Tree], Stage[Tree]], Stage[Findings]]
    marker: str = "pyproject.toml"
    most: int = 1000

    async def parts(self, work: Work) -> Mapping[str, Stage[Findings]]:
        found = packages((entry.path for entry in work.store.entries(work[self.source])), self.marker)
        if not found:
            raise StageFailed(f"no directory holds a {self.marker}", right="packages, or another `marker`")
        return {
            path: self.scan(Subtree(source=self.source, path=path, without=inside), self.tool) for path, inside in found.items()
        }

    async def join(self, work: Work, parts: Mapping[str, Findings]) -> Findings:
        first = next(iter(parts.values()))
        found = [moved(finding, path) for path, part in parts.items() for finding in part.findings]
        security = frozenset[str]().union(*(scored(work.store.read(part.report)) for part in parts.values()))
        targets = sum(part.targets for part in parts.values())
        return scan(work.store, tool=first.tool, subject=first.subject, targets=targets, findings=found, security=security)


def packages(paths: Iterable[str], marker: str) -> dict[str, tuple[str, ...]]:
    """The directories that hold a file called `marker`, sorted, each with those among them that lie inside it.

    >>> packages(["a/m", "a/b/m", "c/x"], "m")
    {'a': ('a/b',), 'a/b': ()}
    """
    found = sorted({posixpath.dirname(path) or "." for path in paths if posixpath.basename(path) == marker})
    return {
        path: tuple(other for other in found if other != path and (path == "." or other.startswith(f"{path}/"))) for path in found
    }


def moved(finding: Finding, place: str) -> Finding:
    """A finding in a package, as one in the source that holds the package at `place`."""
    if place == ".":
        return finding
    fingerprint = of_text(f"{place}\n{finding.fingerprint}")
    path = posixpath.join(place, finding.path) if finding.path else ""
    return finding.model_copy(update={"path": path, "fingerprint": fingerprint})
