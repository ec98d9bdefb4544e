"""What of a store has to stay, whatever its size: what a release, an effect, a run that may go on or the latest report needs."""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from pipeline import record as records
from pipeline.eviction import Eviction, Kept, evict
from pipeline.history import planned
from pipeline.journal import Journal
from pipeline.journal_file import JournalFile
from pipeline.resumption import CUT_OFF
from pipeline.store import Inventory, Store

DIGEST = re.compile(rb"[0-9a-f]{64}")

PIECE = 1 << 20
"""Bytes of an object that are looked at together for names of others."""

DAY, MIB = 86400.0, 1 << 20

RESUMABLE = 30 * DAY
"""Seconds for which all stays that a run made which did not come to its end, and may go on."""

RELEASES = 2
"""Runs whose effect stands, of each stage: the release that serves, and the one before it, to which it can go back."""


REPORTED = 2
"""Runs that ended last, of which all is kept that reports are made of."""


@dataclass(frozen=True)
class Pruned:
    """What goes: results by stage where the journal knows whose they were, and bytes that become free."""

    eviction: Eviction
    trees: tuple[str, ...]
    stages: tuple[str, ...]
    bytes: int


def prune(store: Store, journal: Journal, *, largest: int = 0, days: float = 0.0) -> Pruned:
    """What goes of a store that is to hold at most `largest` bytes, and what was used in the last `days` (0: no limit).

    Nothing is removed yet: `Store.discard` does that.
    """
    inventory = store.inventory()
    sizes = {**inventory.texts, **inventory.files}
    used, named = journal.used(), Named(store, sizes)
    results = [Kept(key, used.get(key, 0.0), objects) for key, objects in _needs(inventory, named)]
    needed = named.by([*_roots(journal), *_reported(journal, inventory.records)])
    gone = evict(results, sizes, needed, largest=largest, oldest=time.time() - days * DAY if days else 0.0)
    left = sizes.keys() - set(gone.objects)
    return Pruned(
        eviction=gone,
        trees=tuple(name for name in inventory.trees if name not in left),
        stages=tuple(_stages(journal, gone.keys)),
        bytes=sum(sizes[name] for name in gone.objects),
    )


class Named:
    """Which objects of a store name which others. `sizes` are those of all that are there."""

    def __init__(self, store: Store, sizes: Mapping[str, int]) -> None:
        self._store, self._sizes = store, sizes
        self._directly: dict[str, tuple[str, ...]] = {}

    def by(self, roots: Iterable[str]) -> set[str]:
        """The objects among `roots`, and those that they name, however far."""
        found, left = set[str](), [name for name in roots if name in self._sizes]
        while left:
            name = left.pop()
            if name not in found:
                found.add(name)
                left += self._by(name)
        return found

    def _by(self, name: str) -> tuple[str, ...]:
        """Results and listings of trees are JSON, and name others by digests in it. One that is damaged names none."""
        if name not in self._directly:
            found = self._in(name) if self._store.begins(name) in (b"[", b"{") and self._store.is_whole(name) else ()
            self._directly[name] = tuple(sorted(self._sizes.keys() & set(found)))
        return self._directly[name]

    def _in(self, name: str) -> Iterator[str]:
        """The digests in an object, which may be large: it is read in pieces that overlap."""
        before = b""
        for piece in self._store.pieces(name, PIECE):
            text = before + piece
            yield from (other.decode() for other in DIGEST.findall(text))
            before = text[-63:]


def _needs(inventory: Inventory, named: Named) -> Iterator[tuple[str, frozenset[str]]]:
    """For each key the objects its result needs; a damaged record needs none, and is of no use."""
    for key, text in inventory.records.items():
        record = records.read(text, key)
        roots = [record.result, *(content[0] for content in record.contents)] if record is not None else []
        yield key, frozenset(named.by(roots))


def _roots(journal: Journal) -> Iterator[str]:
    """Digests that stay: of every result of the runs whose effects stand, or that did not come to their end."""
    runs = dict.fromkeys(_unfinished(journal))
    by_stage: dict[str, list[str]] = {}
    for event in journal.events(kind=("effect.done", "effect.stands")):
        mine = by_stage.setdefault(event.stage, [])
        if event.run in mine:
            mine.remove(event.run)
        mine.append(event.run)
    for mine in by_stage.values():
        runs |= dict.fromkeys(mine[-RELEASES:])
    for run in runs:
        for event in journal.events(run, kind=("stage.finished", "stage.cached", "effect.done")):
            yield event.data["result"]


def _reported(journal: Journal, keys: Collection[str]) -> Iterator[str]:
    """Digests that stay for reports of the latest runs: of scans, and of results under no key, such as what was refused."""
    for run in latest(journal):
        scans = {step["name"] for step in planned(journal, run) if step.get("scans")}
        for event in journal.events(run, kind=("stage.finished", "stage.cached")):
            if event.stage in scans or event.data["key"] not in keys:
                yield event.data["result"]


def latest(journal: Journal) -> list[str]:
    """The runs that ended last, the latest first: two may end at once, and each prunes after its end.

    Of a journal that several machines share those of this one: the others have stores of their own.
    """
    ended = dict[str, None]()
    for event in journal.events(kind="run.finished"):
        ended.pop(event.run, None)
        ended[event.run] = None
    own = isinstance(journal.rows, JournalFile)
    return list(itertools.islice((run for run in reversed(ended) if own or _was_here(journal, run)), REPORTED))


def _was_here(journal: Journal, run: str) -> bool:
    here = os.uname().nodename
    return any(event.data.get("host", here) == here for event in journal.events(run, kind=("run.started", "run.resumed")))


def _unfinished(journal: Journal) -> list[str]:
    """Runs that may go on."""
    ended = {event.run for event in journal.events(kind="run.finished") if event.data["exit"] not in CUT_OFF}
    began = journal.events(kind=("run.started", "run.resumed"))
    return [event.run for event in began if event.run not in ended and event.at > time.time() - RESUMABLE]


def _stages(journal: Journal, keys: Iterable[str]) -> Iterator[str]:
    names = journal.stages_of(keys)
    return (names.get(key, key[:12]) for key in keys)
