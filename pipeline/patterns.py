"""Which files of a place are meant: shell patterns that choose, and patterns that leave out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from pipeline.condition import matches
from pipeline.frozen import Frozen

MAGIC = frozenset("*?[")

Parts = tuple[str, ...]


class Patterns(Frozen):
    """Files that match a pattern of `include` (none given: all files) and none of `exclude`."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def choose(self, paths: Iterable[str]) -> Iterator[str]:
        """Those of `paths` that are meant."""
        for path in paths:
            if self.include and not any(matches(path, pattern) for pattern in self.include):
                continue
            if self.exclude and any(matches(path, pattern) for pattern in self.exclude):
                continue
            yield path

    def overlap(self, other: Patterns) -> bool:
        """Whether one file may be meant by both; False only where certainly none is."""
        left_out = (*self.exclude, *other.exclude)
        return any(
            _meet(_parts(mine), _parts(theirs)) and not _within(mine, left_out) and not _within(theirs, left_out)
            for mine in self.include or ("**",)
            for theirs in other.include or ("**",)
        )

    def __str__(self) -> str:
        without = f" without {', '.join(self.exclude)}" if self.exclude else ""
        return (", ".join(self.include) or "all files") + without


EVERYTHING = Patterns()


def _parts(pattern: str) -> Parts:
    return tuple(part for part in pattern.split("/") if part not in ("", "."))


def _meet(one: Parts, other: Parts) -> bool:
    """Whether a path may match both patterns."""
    if not one or not other:
        return True  # a pattern that names a directory covers what is in it
    if one[0] == "**":
        return any(_meet(one[1:], other[skipped:]) for skipped in range(len(other) + 1))
    if other[0] == "**":
        return _meet(other, one)
    return _alike(one[0], other[0]) and _meet(one[1:], other[1:])


def _alike(one: str, other: str) -> bool:
    """Whether a name may match both shell patterns; of two patterns only beginnings and ends are compared."""
    if not MAGIC & set(one):
        return fnmatchcase(one, other)
    if not MAGIC & set(other):
        return fnmatchcase(other, one)
    (start, end), (other_start, other_end) = _fixed(one), _fixed(other)
    return (start.startswith(other_start) or other_start.startswith(start)) and (
        end.endswith(other_end) or other_end.endswith(end)
    )


def _fixed(pattern: str) -> tuple[str, str]:
    """What every name that matches begins and ends with."""
    special = [place for place, letter in enumerate(pattern) if letter in MAGIC or letter == "]"]
    return pattern[: special[0]], pattern[special[-1] + 1 :]


def _within(pattern: str, left_out: tuple[str, ...]) -> bool:
    """Whether all that matches `pattern` is certainly left out."""
    fixed = []
    for part in _parts(pattern):
        if MAGIC & set(part):
            break
        fixed.append(part)
    return pattern in left_out or (bool(fixed) and any(matches("/".join(fixed), other) for other in left_out))
