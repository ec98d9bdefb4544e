"""What a store gives up when it has grown too large or too old. Pure: it decides from what it is given."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Kept:
    """A result in the store: when it was last used (seconds since the epoch), and the objects it needs."""

    key: str
    used: float
    objects: Collection[str]


@dataclass(frozen=True)
class Eviction:
    """Keys of results to be forgotten, the least recently used first, and objects that nothing needs any more."""

    keys: tuple[str, ...]
    objects: tuple[str, ...]


def evict(
    results: Collection[Kept], sizes: Mapping[str, int], needed: Collection[str], *, largest: int = 0, oldest: float = 0.0
) -> Eviction:
    """Keep what was used most recently, as much of it as fits in `largest` bytes (0: no limit) and was used since `oldest`.

    `sizes` are those of all objects. Objects in `needed` are kept whatever their size, and so are results all of whose objects
    are. An object that no kept result needs goes.
    """
    kept = set(needed) & sizes.keys()
    total = sum(sizes[name] for name in kept)
    gone, full = [], False
    for result in sorted(results, key=lambda one: (-one.used, one.key)):
        more = {name for name in result.objects if name in sizes} - kept
        size = sum(sizes[name] for name in more)
        full = full or bool(largest and total + size > largest)
        if more and (full or result.used < oldest):
            gone.append(result.key)
            continue
        kept |= more
        total += size
    return Eviction(tuple(reversed(gone)), tuple(sorted(sizes.keys() - kept)))
