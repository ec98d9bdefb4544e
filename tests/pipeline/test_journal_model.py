"""The journal against a naive one of lists and dictionaries, in whatever order it is written to, opened, killed and overtaken."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pipeline import Event, Journal
from pipeline.journal import LONG, LOOKED_BACK, SETTLED, Cached
from pipeline.leftover import KINDS, Leftover, leftovers
from pipeline.rows import Overtaken
from tests.models import examples

RUNS, STAGES, KEYS = ("r1", "r2", "r3"), ("a", "b", "c"), ("k1", "k2", "k3", "k4")
ABOUT = ("x", "y")

runs, stages, keys = st.sampled_from(RUNS), st.sampled_from(STAGES), st.sampled_from(KEYS)
numbers = st.integers(min_value=0, max_value=3)


@st.composite
def finished(draw: st.DrawFn) -> Event:
    data = {"key": draw(st.none() | keys), "result": f"d{draw(numbers)}", "seconds": float(draw(numbers)), "concern": ""}
    return Event(
        run=draw(runs), kind="stage.finished", stage=draw(stages), data={**data, "concern": draw(st.sampled_from(("", "bad")))}
    )


@st.composite
def cached_ones(draw: st.DrawFn) -> Event:
    rows = [Cached(name, draw(keys), f"d{draw(numbers)}", "r0", "", "", "same") for name in draw(st.sets(stages, min_size=1))]
    return Event(run=draw(runs), kind="stage.cached", data={"stages": sorted(rows)})


@st.composite
def effects(draw: st.DrawFn) -> Event:
    data = {"about": draw(st.sampled_from(ABOUT)), "result": f"d{draw(numbers)}"}
    return Event(run=draw(runs), kind=draw(st.sampled_from(KINDS)), stage=draw(stages), data=data)


@st.composite
def others(draw: st.DrawFn) -> Event:
    kind = draw(st.sampled_from(("run.started", "run.planned", "stage.skipped", "stage.started", "run.finished")))
    text = "é" * draw(st.sampled_from((1, LONG)))
    return Event(run=draw(runs), kind=kind, stage=draw(stages) if kind.startswith("stage") else "", data={"text": text})


events = st.one_of(finished(), cached_ones(), effects(), others())
several = st.lists(events, min_size=0, max_size=3)


class Naive:
    """What is durable, what one process noted, and how often each run was resumed."""

    def __init__(self) -> None:
        self.there: list[Event] = []
        self.noted: list[Event] = []

    def write(self, some: list[Event]) -> None:
        self.there += [*self.noted, *some]
        self.noted = []

    def each(self) -> list[Event]:
        """One event for each cached stage, with the number of the row it is in."""
        found = []
        for number, event in enumerate(self.there, 1):
            if event.kind == "stage.cached":
                found += [Event(event.run, event.kind, row.name, row.data(), 0.0, number) for row in event.data["stages"]]
            else:
                found.append(event._replace(seq=number))
        return found

    def resumed(self, run: str) -> int:
        return sum(event.kind == "run.resumed" and event.run == run for event in self.there)

    def runs(self) -> list[str]:
        return [event.run for event in self.there if event.kind == "run.started"]

    def last_key(self, stage: str) -> str | None:
        """As `Journal.last_keys` has it: cached ones count in the latest runs only."""
        lately = self.runs()[-LOOKED_BACK:]
        found: str | None = None
        for event in self.each():
            if event.stage == stage and event.kind == "stage.finished":
                found = event.data["key"] or ""
            elif event.stage == stage and event.kind == "stage.cached" and event.run in lately:
                found = event.data["key"]
        return found


class Journals(RuleBasedStateMachine):
    """One journal in a file, which a process writes to; others read it, and resume its runs."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="lockgate-journal-"))
        self.journal, self.naive = self.open(), Naive()
        self.fence: tuple[str, int] | None = None
        self.told: list[Event] = []
        self.heard: list[Event] = []
        self.listen()

    def open(self) -> Journal:
        return Journal(self.place / "journal.db")

    def listen(self) -> None:
        self.journal.listen(self.heard.append)

    def teardown(self) -> None:
        self.journal.close()
        shutil.rmtree(self.place)

    def overtaken(self) -> bool:
        return self.fence is not None and self.naive.resumed(self.fence[0]) != self.fence[1]

    @rule(some=several)
    def append(self, some: list[Event]) -> None:
        if self.overtaken():
            with pytest.raises(Overtaken):
                self.journal.append(*some)
            assert self.journal.taken_over
            return
        self.journal.append(*some)
        self.naive.write(some)

    @rule(some=several)
    def note(self, some: list[Event]) -> None:
        self.journal.note(*some)
        self.naive.noted += some

    @rule()
    def flush(self) -> None:
        if self.overtaken() and self.naive.noted:
            with pytest.raises(Overtaken):
                self.journal.flush()
        elif not self.overtaken():
            self.journal.flush()
            self.naive.write([])

    @rule(event=events)
    def what_json_cannot_hold_is_refused_whole(self, event: Event) -> None:
        with pytest.raises(TypeError):
            self.journal.append(event, Event(run="r1", kind="odd", data={"x": object()}))

    @rule()
    def be_killed(self) -> None:
        """What was noted and not flushed is gone with the process."""
        self.journal.close()
        self.journal, self.naive.noted, self.fence = self.open(), [], None
        self.listen()

    @rule(some=several)
    def another_process_appends(self, some: list[Event]) -> None:
        other = self.open()
        other.append(*some)
        other.close()
        self.naive.there += some

    @precondition(lambda self: self.fence is None)
    @rule(run=runs)
    def take_a_run(self, run: str) -> None:
        self.fence = (run, self.naive.resumed(run))
        self.journal.fence(*self.fence)

    @rule(run=runs)
    def another_process_resumes_a_run(self, run: str) -> None:
        event = Event(run=run, kind="run.resumed", data={"number": self.naive.resumed(run) + 1})
        other = self.open()
        other.fence(run, self.naive.resumed(run))
        other.append(event)
        other.close()
        self.naive.there.append(event)

    @precondition(lambda self: not self.overtaken())
    @rule(run=runs)
    def repeat(self, run: str) -> None:
        before, after = Event(run="r9", kind="run.started", data={"text": ""}), Event(run="r9", kind="run.finished", data={})
        self.journal.repeat(before, run, after)
        self.naive.write([])
        again = [event._replace(run="r9") for event in self.naive.there if event.run == run and event.kind in SETTLED]
        self.naive.there += [before, *again, after]

    @invariant()
    def every_event_is_there_once_in_its_order(self) -> None:
        found = [event._replace(at=0.0) for event in self.journal.events()]
        assert found == self.naive.each()

    @rule(
        run=st.just("") | runs,
        stage=st.just("") | stages,
        after=numbers,
        kinds=st.sampled_from(("", *KINDS, ("stage.cached", "stage.finished"))),
    )
    def some_events_are_those_of_all_that_are_meant(self, run: str, stage: str, after: int, kinds: Any) -> None:
        found = [event._replace(at=0.0) for event in self.journal.events(run, kind=kinds, stage=stage, after=after)]
        assert found == [
            event
            for event in self.naive.each()
            if event.seq > after
            and (not run or event.run == run)
            and (not stage or event.stage == stage)
            and (not kinds or event.kind in ((kinds,) if isinstance(kinds, str) else kinds))
        ]

    @rule(
        stage=stages,
        run=st.just("") | runs,
        kinds=st.sampled_from((KINDS, ("stage.cached", "stage.finished"), ("stage.finished",))),
    )
    def the_latest_is_the_last(self, stage: str, run: str, kinds: tuple[str, ...]) -> None:
        meant = [one for one in self.naive.each() if one.stage == stage and one.kind in kinds and run in ("", one.run)]
        found = self.journal.latest(stage, kinds, run=run)
        assert (found._replace(at=0.0) if found else None) == (meant[-1] if meant else None)

    @rule()
    def runs_are_those_that_started(self) -> None:
        assert self.journal.runs() == self.naive.runs()

    @rule()
    def last_keys_are_of_the_latest_results(self) -> None:
        last = self.journal.last_keys()
        assert [last(stage) for stage in STAGES] == [self.naive.last_key(stage) for stage in STAGES]

    @rule()
    def keys_are_known_with_what_was_made_under_them(self) -> None:
        made = [one for one in self.naive.each() if one.kind == "stage.finished" and one.data["key"]]
        assert self.journal.made(KEYS) == {one.data["key"]: one.data["result"] + one.data["concern"] for one in made}
        assert self.journal.stages_of(KEYS) == {one.data["key"]: one.stage for one in made}
        settled = {one.data["key"] for one in self.naive.each() if one.kind in ("stage.finished", "stage.cached")} - {None}
        assert self.journal.used().keys() == settled
        latest = self.naive.runs()[-1:]
        of_it = [
            one.data["key"] for one in self.naive.each() if one.run in latest and one.kind in ("stage.finished", "stage.cached")
        ]
        assert set(self.journal.latest_keys()) == set(of_it) - {None}

    @rule()
    def durations_are_of_the_latest_executions(self) -> None:
        done = {one.stage: one.data["seconds"] for one in self.naive.each() if one.kind == "stage.finished"}
        assert self.journal.durations(STAGES) == done

    @rule(stage=stages, undoable=st.booleans())
    def what_is_open_is_what_has_no_last_word(self, stage: str, undoable: bool) -> None:
        found = leftovers(self.journal.events(kind=KINDS, stage=stage), undoable=undoable)
        about: dict[str, Event] = {}
        for event in self.naive.each():
            if event.stage == stage and event.kind in KINDS:
                about.pop(event.data["about"], None)
                about[event.data["about"]] = event
        still = ("effect.intended", "effect.done") if undoable else ("effect.intended",)
        assert found == tuple(
            Leftover(run=event.run, about=name, result=event.data.get("result"))
            for name, event in about.items()
            if event.kind in still
        )

    @invariant()
    def what_listeners_heard_is_there(self) -> None:
        there = {(one.seq, one.run, one.kind, one.stage) for one in self.naive.each()}
        heard = [one for one in self.heard if one.kind != "stage.cached"]
        assert {(one.seq, one.run, one.kind, one.stage) for one in heard} <= there
        assert [one.seq for one in self.heard] == sorted({one.seq for one in self.heard})


TestJournals = Journals.TestCase
TestJournals.settings = examples(12)
