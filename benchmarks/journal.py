"""The journal on this disk: how many events a second are durable, and how quickly a long run is read back."""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from benchmarks.figure import Figure
from pipeline.errors import JournalError
from pipeline.history import fold
from pipeline.journal import Event, Journal

APPENDERS = 16
"""Threads that append at once in one process, each waiting until its event is durable."""

EVENTS_OF_A_STAGE = 4


def measure(*, events: int = 20_000, writers: int = 50, each: int = 200, stages: int = 25_000) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="lockgate-bench-") as place:
        rate = alone(Path(place, "alone.db"), events)
        detail = f"{APPENDERS} at once in one process, {events:,} events"
        yield Figure("durable events a second", rate, "/s", 5_000, least=True, detail=detail)
        rate, locked_out = together(Path(place, "together.db"), writers, each)
        detail = f"{each:,} events from each process"
        yield Figure(f"durable events a second of {writers} processes together", rate, "/s", detail=detail)
        yield Figure(f"of {writers} processes locked out", locked_out, "", 0)
        took = folded(Path(place, "long.db"), stages)
        yield Figure(f"a run of {EVENTS_OF_A_STAGE * stages:,} events folded", took, "s", 1.0)


def alone(path: Path, events: int) -> float:
    """Events a second in one process."""
    journal = Journal(path)
    journal.append(event_of("alone", 0))  # the file is made before the clock starts
    started = time.perf_counter()
    at_once(journal, "alone", events)
    took = time.perf_counter() - started
    check(journal, 1 + events)
    journal.close()
    return events / took


def at_once(journal: Journal, run: str, events: int) -> None:
    """Append so many events one by one, from threads that wait for the disk together."""

    def some(first: int) -> None:
        for number in range(first, events, APPENDERS):
            journal.append(event_of(run, number))

    with ThreadPoolExecutor(APPENDERS) as threads:
        for done in [threads.submit(some, first) for first in range(min(APPENDERS, events))]:
            done.result()


def together(path: Path, writers: int, each: int) -> tuple[float, int]:
    """Events a second of processes that write to one journal, and how many of them could not."""
    journal = Journal(path)
    journal.append(event_of("first", 0))
    journal.close()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    ready, told = context.Barrier(writers), context.SimpleQueue()
    processes = [context.Process(target=writer, args=(path, f"run-{number}", each, ready, told)) for number in range(writers)]
    for process in processes:
        process.start()
    found: list[tuple[float, float, str]] = [told.get() for _ in processes]
    for process in processes:
        process.join()
    locked_out = [why for _, _, why in found if why]
    journal = Journal(path)
    if not locked_out:
        check(journal, 1 + writers * each)
    written = sum(1 for _ in journal.events()) - 1
    journal.close()
    return written / (max(end for _, end, _ in found) - min(began for began, _, _ in found)), len(locked_out)


def writer(path: Path, run: str, events: int, ready: Barrier, told: Any) -> None:
    """One process: when all are ready, append; tell when that began and ended, and why it could not be done."""
    journal, why = Journal(path), "it did not come to its end"
    ready.wait()
    began = time.monotonic()
    try:
        at_once(journal, run, events)
        why = ""
    except JournalError as error:
        why = str(error)
    finally:
        told.put((began, time.monotonic(), why))
        journal.close()


def folded(path: Path, stages: int) -> float:
    """Seconds to read a run of so many stages back and fold it."""
    journal = Journal(path)
    journal.append(*story(stages))
    took = []
    for _ in range(3):
        started = time.perf_counter()
        history = fold(journal.events("long"))["long"]
        took.append(time.perf_counter() - started)
        if history.counts()["passed"] != stages:
            raise RuntimeError("not every stage was read back")
    journal.close()
    return statistics.median(took)


def story(stages: int) -> Iterator[Event]:
    """What a run of so many stages journals, each of which executes one action."""
    names = [f"steps[{number}]" for number in range(stages)]
    planned = [
        {"name": name, "decision": "run", "reason": "has no result here yet", "type": "Step", "inputs": []} for name in names
    ]
    yield Event(run="long", kind="run.started", data={"pipeline": "steps", "engine": "host"})
    yield Event(run="long", kind="run.planned", data={"stages": planned})
    for name in names:
        for kind, data in (
            ("stage.started", {"attempt": 1, "reason": "has no result here yet", "effect": "pure"}),
            ("action.started", {"number": 1, "argv": ["true"], "digest": "0" * 64}),
            ("action.finished", {"number": 1, "exit_code": 0, "seconds": 0.01, "network": "refused", "outputs": {}}),
            ("stage.finished", {"key": "0" * 64, "result": "0" * 64, "seconds": 0.02, "summary": "1", "concern": ""}),
        ):
            yield Event(run="long", kind=kind, stage=name, data=data)


def event_of(run: str, number: int) -> Event:
    """As most of a run's events are: a stage that begins."""
    return Event(
        run=run, kind="stage.started", stage=f"steps[{number}]", data={"attempt": 1, "reason": "it changed", "effect": "pure"}
    )


def check(journal: Journal, events: int) -> None:
    found = sum(1 for _ in journal.events())
    if found != events:
        raise RuntimeError(f"{events:,} events were written, {found:,} are there")
