"""The journal: the append-only record of what happened. Every report is a fold over it."""

from __future__ import annotations

import functools
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import digest
from pipeline.damage import UNFIT, damaged, told
from pipeline.data import PLAIN
from pipeline.errors import JournalError, StoreError
from pipeline.journal_file import JournalFile
from pipeline.rows import Fence, Overtaken, Rows, RunLock

LONG = 4096
"""Characters from which on the data of an event are written once, however often they are repeated."""

TOGETHER = 500
"""Keys that are asked for at once; SQLite takes at least 999 parameters."""

SETTLED = ("run.planned", "stage.skipped", "stage.cached")
"""Kinds of events that tell what was decided, and of stages that needed no work."""

ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"))

LOOKED_BACK = 10
"""Runs in which a stage is looked for that was found cached."""

COLUMNS = "event.seq, event.run, event.at, event.kind, event.stage, coalesce(text.data, event.data)"


class Event(NamedTuple):
    """One thing that happened. `at` in seconds since the epoch; `kind` as in `docs/journal.md`; nobody changes its `data`."""

    run: str
    kind: str
    stage: str = ""
    data: dict[str, Any] = {}  # noqa: RUF012 - one for all, as nobody changes it
    at: float = 0.0
    seq: int = 0


class Cached(NamedTuple):
    """A row of an event that tells of several cached stages at once."""

    name: str
    key: str
    result: str
    made_in: str
    summary: str
    concern: str
    reason: str

    @staticmethod
    def of(event: Event) -> Cached:
        """What an event about one stage tells; in journals of format 1 all do."""
        data = {"concern": "", **event.data}
        return Cached(event.stage, **{name: data[name] for name in Cached._fields[1:]})

    def data(self) -> dict[str, Any]:
        """As of an event about this stage alone."""
        about = self._asdict()
        del about["name"]
        return about


def cached(event: Event) -> Iterable[Cached]:
    """The stages that an event of the kind `stage.cached` tells of: several, or the one it is about. Raises Damaged."""
    if event.stage:
        return [Cached.of(event)]
    try:
        return [Cached(*row) for row in event.data["stages"]]
    except UNFIT as error:
        raise damaged(event.data, error) from error


def each(event: Event) -> Iterator[Event]:
    """The event; one that tells of several cached stages as one event for each of them."""
    if event.kind != "stage.cached" or event.stage:
        yield event
        return
    for one in cached(event):
        yield Event(run=event.run, kind=event.kind, stage=one.name, data=one.data(), at=event.at, seq=event.seq)


class Journal:
    """Events in a SQLite file or another place for rows, durable when `append` returns.

    The first `append` makes the file. Until then it is only read, and a journal that is not there has no events.
    Many threads may append at once: who comes while others wait for the disk is written with them (group commit).
    """

    def __init__(self, place: Path | Rows) -> None:
        self.rows = JournalFile(place) if isinstance(place, Path) else place
        self._listeners: list[Callable[[Event], None]] = []
        self._first: list[Callable[[], None]] = []
        self._queue: list[_Batch] = []
        self._queueing, self._writing = threading.Lock(), threading.Lock()
        self._fence: Fence | None = None
        self.taken_over = False
        """Whether another process goes on with the run of this one."""

    @property
    def where(self) -> str:
        """As people are told of it."""
        return self.rows.where

    @property
    def exists(self) -> bool:
        """Whether anything was ever written. Raises JournalError where nobody may look."""
        return self.rows.exists

    def check(self) -> None:
        """See that the next run will find what this one appends. For whoever is about to rely on that.

        Raises JournalError when what was appended is not there any more, and when the lock for side effects was lost.
        """
        self.rows.check()

    def effects_lock(self) -> RunLock:
        """What the one run holds that may have open side effects."""
        return self.rows.effects_lock()

    def lock(self, name: str) -> RunLock:
        """What the one stage holds, of all runs, that asks for the lock of that name."""
        return self.rows.lock(name)

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call `listener` with every event from now on, after it is durable."""
        self._listeners.append(listener)

    def follow(self, first: Callable[[], None]) -> None:
        """Call `first` before anything is written: what events name is to be there before them."""
        self._first.append(first)

    def fence(self, run: str, number: int) -> None:
        """From now on write only as long as the run was resumed so many times: then nobody else has taken it over."""
        self._fence = Fence(run, number)

    def note(self, *events: Event) -> None:
        """Take events that the next `append` or `flush` writes: for what is done again, without harm, if it is lost."""
        with self._queueing:
            last = self._queue[-1] if self._queue else None
            if last is None or last.waited_for or last.tried:
                self._queue.append(_Batch(events, waited_for=False))
            else:
                last.rows += [_row(event) for event in events]

    def flush(self) -> None:
        """Write what was noted."""
        if self._queue:
            self.append()

    def append(self, *events: Event) -> None:
        """Write what was noted before, and these, in one transaction.

        When this returns they survive a crash of process and machine.
        Raises JournalError when these were not written, and never will be; what was noted waits for the next time.
        """
        batch = _Batch(events, waited_for=True)
        self._add(batch)
        with self._writing:
            if not batch.written and batch.error is None:  # else another thread has seen to it along with its own
                self._write_queue()
        if batch.error is not None:
            raise batch.error

    def _add(self, batch: _Batch) -> None:
        with self._queueing:
            self._queue.append(batch)

    def _write_queue(self) -> None:
        with self._queueing:
            batches, self._queue = self._queue, []
        try:
            self._prepare()
            known = {tried: self.rows.added(tried) for tried in {batch.tried for batch in batches if batch.tried}}
            batches = [batch for batch in batches if not known.get(batch.tried)]
            tried = os.urandom(16).hex()
            for batch in batches:
                batch.tried = tried
            written = self._write([one for batch in batches for one in batch.rows], tried)
        except BaseException as error:
            with self._queueing:
                self._queue = [batch for batch in batches if not batch.waited_for] + self._queue
            for batch in batches:
                batch.error = error
            raise
        for batch in batches:
            batch.written = True
        for event in written:
            for listener in self._listeners:
                listener(event)

    def _prepare(self) -> None:
        """What events name is there before them. Raises JournalError where it cannot be: then they are not written either."""
        try:
            for first in self._first:
                first()
        except StoreError as error:
            raise JournalError(error.what, where=error.where, right=error.right, next=error.next) from error

    def _write(self, events: Sequence[_Row], batch: str) -> list[Event]:
        """The events with the numbers they were given."""
        texts = [(row.columns[-1], row.long) for row in events if row.long]
        try:
            first = self.rows.add([row.columns for row in events], texts, batch, self._fence)
        except Overtaken:
            self.taken_over = True
            raise
        return [row.event(seq) for seq, row in enumerate(events, first)] if self._listeners else []

    def repeat(self, before: Event, run: str, after: Event) -> None:
        """Write two events and between them what was decided and settled in `run` once more, as of the run they tell of.

        Listeners are not called: who repeats knows what is said. Raises JournalError as `append` does.
        """
        query = (
            f"select kind, stage, data, text from event where run = ? and kind in ({', '.join('?' * len(SETTLED))}) order by seq"  # noqa: S608 # nosec B608 - fixed words and marks
        )
        self.flush()
        now = time.time()
        again = [
            _Row(Event(run=before.run, kind=kind, stage=stage), (before.run, now, kind, stage, data, None, None, text))
            for kind, stage, data, text in self._rows(query, [run, *SETTLED])
        ]
        with self._writing:
            self._write([_row(before), *again, _row(after)], os.urandom(16).hex())

    def settled_together(self, run: str) -> Iterator[Event]:
        """What a run tells of stages that needed no work; of the cached ones together."""
        query = f"select {COLUMNS} from event left join text on text.digest = event.text where event.run = ? and event.kind in ({', '.join('?' * len(SETTLED[1:]))}) order by event.seq"  # noqa: E501, S608 # nosec B608 - fixed words and marks
        for seq, run_, at, kind, stage, data in self._rows(query, [run, *SETTLED[1:]]):
            yield self._event(seq, run_, at, kind, stage, data)

    def events(self, run: str = "", *, kind: str | tuple[str, ...] = "", stage: str = "", after: int = 0) -> Iterator[Event]:
        """Events in the order they were written, all of them or those of one run, of one kind or several, of one stage.

        Several cached stages that were told of at once are one event each.
        """
        conditions, parameters = ["event.seq > ?"], [after, *([run] if run else [])]
        if run:
            conditions.append("event.run = ?")
        kinds = (kind,) if isinstance(kind, str) else kind
        if kind:
            conditions.append(f"event.kind in ({', '.join('?' * len(kinds))})")
            parameters += kinds
        if stage:
            together = not kind or "stage.cached" in kinds
            conditions.append("event.stage in (?, '')" if together else "event.stage = ?")
            parameters.append(stage)
        where = " and ".join(conditions)
        query = f"select {COLUMNS} from event left join text on text.digest = event.text where {where} order by event.seq"  # noqa: S608 # nosec B608 - fixed words
        for seq, run_, at, kind_, stage_, data in self._rows(query, parameters):
            event = self._event(seq, run_, at, kind_, stage_, data)
            if stage_ or kind_ != "stage.cached":
                if not stage or stage_ == stage:
                    yield event
            else:
                yield from (one for one in each(event) if not stage or one.stage == stage)

    def latest(self, stage: str, kinds: tuple[str, ...], *, run: str = "") -> Event | None:
        """The last event of one of the kinds about a stage, in any run or in that one."""
        found = None
        marks, of_run = ", ".join("?" * len(kinds)), " and run = ?" if run else ""
        query = f"select max(seq) from event where stage = ? and kind in ({marks}){of_run}"  # noqa: S608 # nosec B608 - fixed words and marks
        seq = next((seq for (seq,) in self._rows(query, [stage, *kinds, *([run] if run else [])])), None)
        if seq:
            found = next(self.events(after=seq - 1, stage=stage, kind=kinds))
        if "stage.cached" in kinds:
            for together in self._cached_together(after=seq or 0, run=run):
                for event in each(together):
                    if event.stage == stage:
                        return event
        return found

    def _cached_together(self, *, after: int, run: str = "") -> Iterator[Event]:
        """What tells of several cached stages at once, the latest first; of those that say the same the latest alone."""
        of_run = " and run = ?" if run else ""
        latest = (
            f"select max(seq) from event where stage = '' and kind = 'stage.cached' and seq > ?{of_run} "  # noqa: S608 # nosec B608 - fixed words
            "group by coalesce(text, cast(seq as text))"
        )
        query = (
            "select event.seq, event.run, event.at, coalesce(text.data, event.data) from event "  # noqa: S608 # nosec B608 - fixed words
            f"left join text on text.digest = event.text where event.seq in ({latest}) order by event.seq desc"
        )
        for seq, run_, at, data in self._rows(query, [after, *([run] if run else [])]):
            yield self._event(seq, run_, at, "stage.cached", "", data)

    def runs(self) -> list[str]:
        """The ids of all runs, the oldest first."""
        return [run for (run,) in self._rows("select run from event where kind = 'run.started' order by seq")]

    def last_keys(self) -> Callable[[str], str | None]:
        """Looks up the key of the latest result of a stage: empty for one that may not be used again, None where there is none.

        That is its latest execution, or one of the latest `LOOKED_BACK` runs that found a result in the store; of what is
        appended from now on nothing is known.
        """
        query = (
            "select seq, kind, key, run, at, data from event where stage = ? and kind in ('stage.finished', 'stage.cached') "
            "order by seq desc limit 1"
        )
        cached_lately = functools.cache(self._cached_lately)
        any_result = functools.cache(
            lambda: bool(self._rows("select 1 from event where kind in ('stage.finished', 'stage.cached') limit 1"))
        )

        def last_key(stage: str) -> str | None:
            if not any_result():
                return None
            seq, kind, key, run, at, data = next(iter(self._rows(query, [stage])), (0, "", None, "", 0.0, ""))
            if kind == "stage.cached":  # of format 1, which had no column for it
                key = self._event(seq, run, at, kind, stage, data).data["key"]
            later, cached_key = cached_lately().get(stage, (0, ""))
            if later > seq:
                return cached_key
            return (key or "") if seq else None

        return last_key

    def _cached_lately(self) -> dict[str, tuple[int, str]]:
        """For each stage that was found cached in the latest runs, when that was last and its key."""
        found: dict[str, tuple[int, str]] = {}
        query = "select run from event where kind = 'run.started' order by seq desc limit ?"
        for (run,) in self._rows(query, [LOOKED_BACK]):
            for event in self._cached_together(after=0, run=run):
                for one in cached(event):
                    if event.seq > found.get(one.name, (0, ""))[0]:  # of runs that overlap the later one to start may be first
                        found[one.name] = (event.seq, one.key)
        return found

    def latest_keys(self) -> list[str]:
        """The keys of the results that the latest run made or took."""
        runs = self._rows("select run from event where kind = 'run.started' order by seq desc limit 1")
        found = []
        for (run,) in runs:
            found += [key for (key,) in self._rows("select key from event where run = ? and key is not null", [run])]
            for event in self._cached_together(after=0, run=run):
                found += [one.key for one in cached(event)]
        return found

    def used(self) -> dict[str, float]:
        """For each key, when a result was last made or found under it, in seconds since the epoch."""
        found: dict[str, float] = dict(self._rows("select key, max(at) from event where key is not null group by key"))
        for event in self._cached_together(after=0):
            for one in cached(event):
                found[one.key] = max(found.get(one.key, 0.0), event.at)
        return found

    def stages_of(self, keys: Iterable[str]) -> dict[str, str]:
        """The stages whose results were made under those keys, where the journal tells."""
        return self._by_key("stage", keys)

    def made(self, keys: Iterable[str]) -> dict[str, str]:
        """Result and concern, in one text, that were journalled when a result was last made under each key, where one was."""
        return self._by_key("made", keys)

    def _by_key(self, column: str, keys: Iterable[str]) -> dict[str, str]:
        """What a column says of each key that a result was made under, the last time one was."""
        wanted, found = list(keys), dict[str, str]()
        for start in range(0, len(wanted), TOGETHER):
            some = wanted[start : start + TOGETHER]
            query = f"select key, {column} from event where key in ({', '.join('?' * len(some))}) order by seq"  # noqa: S608 # nosec B608 - fixed words and marks
            found.update(self._rows(query, some))
        return found

    def durations(self, stages: Iterable[str]) -> dict[str, float]:
        """For each of the stages that ever gave a result, the seconds its latest execution took."""
        columns = "seq, run, at, kind, stage, data"
        query = f"select {columns} from event where stage = ? and kind = 'stage.finished' order by seq desc limit 1"  # noqa: S608 # nosec B608 - fixed words
        if not self._rows("select 1 from event where kind = 'stage.finished' limit 1"):
            return {}
        found = {stage: next((self._event(*row).data for row in self._rows(query, [stage])), None) for stage in stages}
        return {stage: data["seconds"] for stage, data in found.items() if data and data.get("seconds") is not None}

    def close(self) -> None:
        self.rows.close()

    def _rows(self, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self.rows.select(query, parameters)

    def _event(self, seq: int, run: str, at: float, kind: str, stage: str, data: str) -> Event:
        """What a row tells. Raises Damaged where that is not what was written."""
        return Event(run, kind, stage, told(data, at, (seq, run, kind, stage, self.where)), at, seq)


class _Row(NamedTuple):
    """An event as it is written: its data in place, or, where they are `long`, once under their digest."""

    of: Event
    columns: tuple[Any, ...]
    """As in `ADDED`."""
    long: str = ""

    def event(self, seq: int) -> Event:
        run, kind, stage, data, _, _ = self.of
        return Event(run, kind, stage, data, self.columns[1], seq)


class _Batch:
    """Events that are written together or not at all. One that is not waited for is tried again until it is written."""

    __slots__ = ("error", "rows", "tried", "waited_for", "written")

    def __init__(self, events: Iterable[Event], *, waited_for: bool) -> None:
        self.rows = [_row(event) for event in events]
        self.waited_for = waited_for
        self.written = False
        self.error: BaseException | None = None
        self.tried = ""
        """What it was last tried with, along with others: they may have been written though that failed."""


def _row(event: Event) -> _Row:
    """Raises TypeError for data that JSON cannot hold."""
    run, kind, stage, about, at, _ = event
    key = about.get("key") if kind == "stage.finished" else None
    made = about["result"] + about.get("concern", "") if key else None
    data = _encoded(about)
    if len(data) < LONG:
        return _Row(event, (run, at or time.time(), kind, stage, data, key, made, None))
    return _Row(event, (run, at or time.time(), kind, stage, "{}", key, made, digest.of_text(data)), data)


def _encoded(data: dict[str, Any]) -> str:
    """As JSON in ASCII. What most events tell, a few plain values, takes a quarter of the time that `json` does."""
    text = digest.quickly(data) if PLAIN.issuperset(map(type, data.values())) else None
    return text.decode() if text is not None and text.isascii() else ENCODER.encode(data)
