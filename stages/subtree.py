"""Part of a tree as a tree of its own."""

from __future__ import annotations

from pipeline import Entry, Stage, StageFailed, Tree, Work


class Subtree(Stage[Tree]):
    """What lies below the directory `path` of `source`, by its path from there; what lies below one of `without` is left out.

    Whatever rests on it has a new key only where this part of the source changed. Raises StageFailed where nothing is left.
    """

    source: Stage[Tree]
    path: str
    without: tuple[str, ...] = ()

    async def run(self, work: Work) -> Tree:
        inside = tuple(_below(self.path))
        left_out = tuple(prefix for path in self.without for prefix in _below(path))
        chosen = [
            Entry(entry.path[len(inside[0]) if inside else 0 :], entry.kind, entry.target, entry.size)
            for entry in work.store.entries(work[self.source])
            if entry.path.startswith(inside or "") and not entry.path.startswith(left_out)
        ]
        if not chosen:
            raise StageFailed(f"there is nothing below {self.path!r}", right="a directory with files in it")
        return work.store.tree(chosen)


def _below(path: str) -> tuple[str, ...]:
    """How the paths below a directory begin; empty for the whole tree."""
    return () if path in ("", ".") else (path.rstrip("/") + "/",)
