"""Plans and runs against a naive model, as stages are edited, fail, and lose what the store had of them.

The model knows for each stage what its result is, and of the store which records and texts are whole. It says which stages a
selection means, which of them are cached, which must run, which fail or are out of reach, and what the results are.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from benchmarks.inside import Silent
from pipeline import Journal, Pipeline, Project, Result, Stage, StageFailed, Store, Work
from pipeline import record as records
from pipeline.cli.run import _run
from pipeline.condition import Facts
from pipeline.digest import canonical, of_bytes
from pipeline.engines.choose import choose
from pipeline.errors import ConfigError
from pipeline.plan import Decision
from pipeline.selection import Selection, select
from pipeline.session import Session
from pipeline.settings import Settings
from tests.models import examples

NAMES = ("a", "b", "c", "d", "e", "f")
SOURCES = ("a", "b")
TAGS = ("p", "q", "r")
ONCE_ONLY = 3
"""The value of a result that no later run may take."""

Key = tuple[Any, ...]


class Fact(Result):
    """Says whose it is: of two stages with one result, whichever is first would give it back to the other."""

    of: str
    value: int

    def reusable(self) -> bool:
        return self.value != ONCE_ONLY


def did(work: Work) -> None:
    with (work.project.root / "did").open("a") as file:
        file.write(f"{work.name}\n")


class Source(Stage[Fact]):
    path: str

    def observe(self, project: Project) -> str:
        return of_bytes((project.root / self.path).read_bytes())

    async def run(self, work: Work) -> Fact:
        did(work)
        return Fact(of=self.path, value=int((work.project.root / self.path).read_text()))


class Node(Stage[Fact]):
    """Fails where a file with the name of its tag says so, which is no part of its key."""

    name: str
    parts: tuple[Stage[Fact], ...]
    tag: str
    plus: int

    async def run(self, work: Work) -> Fact:
        did(work)
        if (work.project.root / self.tag).exists():
            raise StageFailed("so it is")
        return Fact(of=self.name, value=(self.plus + sum(work[part].value for part in self.parts)) % (ONCE_ONLY + 1))


@dataclass(frozen=True)
class Slot:
    """How a stage is configured."""

    parts: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    tag: str = "p"
    plus: int = 0


@dataclass
class Naive:
    """What there is, and what follows from it."""

    slots: dict[str, Slot]
    files: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SOURCES, 0))
    failing: set[str] = field(default_factory=set)
    records: dict[Key, int] = field(default_factory=dict)
    texts: set[tuple[str, int]] = field(default_factory=set)
    damaged: set[Key] = field(default_factory=set)
    """Keys of records that are there and not whole."""

    def inputs(self, name: str) -> tuple[str, ...]:
        return () if name in SOURCES else (*self.slots[name].parts, *self.slots[name].after)

    def above(self, names: set[str]) -> set[str]:
        """The stages and all they need."""
        found = set(names)
        for name in reversed(NAMES):
            if name in found:
                found |= set(self.inputs(name))
        return found

    def below(self, names: set[str]) -> set[str]:
        """The stages and all that need them."""
        found = set(names)
        for name in NAMES:
            if found & set(self.inputs(name)):
                found.add(name)
        return found

    def aims(self, asked: Selection) -> set[str]:
        found = set(NAMES)
        if asked.stages:
            found &= set(asked.stages)
        if asked.since:
            found &= self.below(set(asked.since))
        if asked.without:
            found -= self.below(set(asked.without))
        return found

    def key(self, name: str, results: dict[str, int]) -> Key:
        if name in SOURCES:
            return (name, self.files[name])
        slot = self.slots[name]
        return (name, slot.tag, slot.plus, tuple((part, results[part]) for part in slot.parts))

    def has(self, key: Key) -> bool:
        return key in self.records and (key[0], self.records[key]) in self.texts

    def value(self, name: str, results: dict[str, int]) -> int:
        if name in SOURCES:
            return self.files[name]
        return (self.slots[name].plus + sum(results[part] for part in self.slots[name].parts)) % (ONCE_ONLY + 1)

    def plan(self, wanted: set[str], again: frozenset[str]) -> tuple[set[str], set[str]]:
        """Those of the wanted stages that are cached, and those whose record is found damaged."""
        results, damaged = dict[str, int](), set[str]()
        for name in NAMES:
            if name in wanted and all(source in results for source in self.inputs(name)):
                key = self.key(name, results)
                if self.has(key) and name not in again:
                    results[name] = self.records[key]
                elif key in self.damaged:
                    damaged.add(name)
        return set(results), damaged

    def run(self, wanted: set[str], again: frozenset[str]) -> Ended:
        """What becomes of the wanted stages; the store has their results then."""
        ended = Ended()
        for name in NAMES:
            if name not in wanted:
                continue
            if not all(source in ended.results for source in self.inputs(name)):
                ended.states[name] = "blocked"
                continue
            key = ended.keys[name] = self.key(name, ended.results)
            if self.has(key) and name not in again:
                ended.states[name], ended.results[name] = "cached", self.records[key]
                continue
            ended.executed.add(name)
            if name not in SOURCES and self.slots[name].tag in self.failing:
                ended.states[name] = "failed"
                continue
            ended.states[name], ended.results[name] = "passed", self.value(name, ended.results)
            self.texts.add((name, ended.results[name]))
            if ended.results[name] != ONCE_ONLY:
                self.records[key] = ended.results[name]
                self.damaged.discard(key)
        return ended


@dataclass
class Ended:
    """How a run ended: of each stage its state, key and result, and which were executed."""

    states: dict[str, str] = field(default_factory=dict)
    results: dict[str, int] = field(default_factory=dict)
    keys: dict[str, Key] = field(default_factory=dict)
    executed: set[str] = field(default_factory=set)


def text_of(name: str, value: int) -> str:
    return of_bytes(canonical(Fact(of=name, value=value).model_dump(mode="json")))


@st.composite
def slots(draw: st.DrawFn, name: str) -> Slot:
    """With inputs among the stages before it."""
    before = st.lists(st.sampled_from(NAMES[: NAMES.index(name)]), max_size=3, unique=True)
    after = draw(st.lists(st.sampled_from(NAMES[: NAMES.index(name)]), max_size=1))
    return Slot(tuple(draw(before)), tuple(after), draw(st.sampled_from(TAGS)), draw(st.integers(0, 2)))


some = st.lists(st.sampled_from(NAMES), max_size=2, unique=True).map(tuple)
selections = st.one_of(
    st.just(Selection()),
    st.builds(lambda names: Selection(stages=names), some),
    st.builds(lambda names: Selection(since=names), some),
    st.builds(lambda names, others: Selection(stages=names, without=others), some, some),
    st.builds(lambda names: Selection(stages=names, alone=True), some),
)
no_source = st.sampled_from(NAMES[len(SOURCES) :])


class Runs(RuleBasedStateMachine):
    """A project whose pipeline is edited, planned and run, each time as a process of its own would."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="lockgate-runs-"))
        self.naive = Naive({name: Slot(parts=(NAMES[number - 1],)) for number, name in enumerate(NAMES) if name not in SOURCES})
        self.real: dict[Key, str] = {}
        """The keys of the store that those of the model stand for."""
        self.unseen = False
        """Whether anything was done to the store of which it does not know."""
        for name in SOURCES:
            (self.root / name).write_text("0")

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    # the project

    @rule(name=st.sampled_from(SOURCES), value=st.integers(0, ONCE_ONLY))
    def edit_a_file(self, name: str, value: int) -> None:
        (self.root / name).write_text(str(value))
        self.naive.files[name] = value

    @rule(data=st.data(), name=no_source)
    def edit_a_stage(self, data: st.DataObject, name: str) -> None:
        self.naive.slots[name] = data.draw(slots(name))

    @rule(name=no_source, plus=st.integers(0, 2))
    def edit_a_setting(self, name: str, plus: int) -> None:
        self.naive.slots[name] = replace(self.naive.slots[name], plus=plus)

    @rule(tag=st.sampled_from(TAGS))
    def let_it_fail_or_be_well(self, tag: str) -> None:
        if tag in self.naive.failing:
            (self.root / tag).unlink()
        else:
            (self.root / tag).touch()
        self.naive.failing ^= {tag}

    # the store

    @precondition(lambda self: self.naive.records)
    @rule(data=st.data())
    def evict_a_record(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.naive.records, key=str)))
        self.session().store.discard([self.real[key]], [])
        del self.naive.records[key]
        self.naive.damaged.discard(key)

    @precondition(lambda self: self.naive.texts)
    @rule(data=st.data())
    def evict_a_result(self, data: st.DataObject) -> None:
        text = data.draw(st.sampled_from(sorted(self.naive.texts)))
        self.session().store.discard([], [text_of(*text)])
        self.naive.texts.discard(text)

    @precondition(lambda self: self.naive.records)
    @rule(data=st.data(), place=st.integers(0, 2**16), bit=st.integers(0, 7))
    def flip_a_bit_of_a_record(self, data: st.DataObject, place: int, bit: int) -> None:
        key = data.draw(st.sampled_from(sorted(self.naive.records, key=str)))
        self.flip("record", "key", self.real[key], place, bit)
        del self.naive.records[key]
        self.naive.damaged.add(key)

    @precondition(lambda self: self.naive.texts)
    @rule(data=st.data(), place=st.integers(0, 2**16), bit=st.integers(0, 7))
    def flip_a_bit_of_a_result(self, data: st.DataObject, place: int, bit: int) -> None:
        text = data.draw(st.sampled_from(sorted(self.naive.texts)))
        self.flip("text", "digest", text_of(*text), place, bit)
        self.naive.texts.discard(text)

    def flip(self, table: str, column: str, name: str, place: int, bit: int) -> None:
        with closing(sqlite3.connect(self.root / "home" / "store" / "results.db")) as db, db:
            ((whole,),) = db.execute(f"select data from {table} where {column} = ?", [name])
            flipped = bytearray(whole)
            flipped[place % len(whole)] ^= 1 << bit
            db.execute(f"update {table} set data = ? where {column} = ?", [bytes(flipped), name])
        self.unseen = True

    @precondition(lambda self: self.naive.records)
    @rule(data=st.data(), value=st.integers(0, ONCE_ONLY))
    def forge_a_record(self, data: st.DataObject, value: int) -> None:
        """Whole, under its key, and with another result than the journal saw made."""
        key = data.draw(st.sampled_from(sorted(self.naive.records, key=str)))
        store = self.session().store
        found = records.load(store, self.real[key])
        if found is not None and self.naive.records[key] != value:
            forged = store.keep(canonical({"of": key[0], "value": value}))
            records.save(store, self.real[key], found._replace(result=forged))
            store.flush()
            self.naive.texts.add((key[0], value))
            del self.naive.records[key]

    # plans and runs

    def session(self) -> Session:
        stages: dict[str, Stage[Fact]] = {name: Source(path=name) for name in SOURCES}
        for name, slot in self.naive.slots.items():
            parts, after = (tuple(stages[other] for other in others) for others in (slot.parts, slot.after))
            stages[name] = Node(name=name, parts=parts, after=after, tag=slot.tag, plus=slot.plus)
        project = Project(root=self.root, home=self.root / "home", settings=Settings())
        project.home.mkdir(exist_ok=True)
        return Session(
            project=project,
            pipeline=Pipeline("model", **stages),
            store=Store(project.home / "store"),
            journal=Journal(project.home / "journal.db"),
            choice=choose("host", os.environ),
            facts=Facts(),
        )

    @rule(asked=selections, again=st.frozensets(st.sampled_from(NAMES), max_size=1))
    def plan(self, asked: Selection, again: frozenset[str]) -> None:
        session, meant = self.session(), self.naive.aims(asked)
        if not meant:
            return
        wanted = self.naive.above(meant)
        cached, damaged = self.naive.plan(wanted, again)
        try:
            made = session.plan(asked, again=again)
        except ConfigError:
            assert asked.alone
            assert not wanted - meant <= cached
            return
        finally:
            session.journal.close()
        assert not asked.alone or wanted - meant <= cached
        assert {step.name for step in made.steps} == wanted
        assert {step.name for step in made.of(Decision.CACHED)} == cached
        told = {step.name for step in made.steps if "record of its result was damaged" in step.reason}
        assert damaged <= told

    @rule(asked=selections, again=st.frozensets(st.sampled_from(NAMES), max_size=1))
    def run(self, asked: Selection, again: frozenset[str]) -> None:
        meant = self.naive.aims(asked)
        wanted = self.naive.above(meant)
        if not meant or (asked.alone and not wanted - meant <= self.naive.plan(wanted, again)[0]):
            return  # refused, as a plan is
        (self.root / "did").unlink(missing_ok=True)
        session, ended = self.session(), self.naive.run(wanted, again)
        how = argparse.Namespace(
            again=again, output="json" if self.unseen else "text", jobs=1, fail_fast=False, workers="", color="never"
        )
        code = _run(session, asked, select(session.pipeline, asked), how, Silent())
        session.journal.close()
        self.unseen = False
        assert code == ("failed" in ended.states.values())
        self.compare(ended)

    def compare(self, ended: Ended) -> None:
        """The journal's word of the last run with the model's."""
        session = self.session()
        run = session.journal.runs()[-1]
        kinds = ("stage.finished", "stage.cached", "stage.failed", "stage.blocked")
        events = {event.stage: event for event in session.journal.events(run, kind=kinds)}
        session.journal.close()
        states = {name: event.kind.removeprefix("stage.").replace("finished", "passed") for name, event in events.items()}
        assert states == ended.states
        results = {name: event.data["result"] for name, event in events.items() if "result" in event.data}
        assert results == {name: text_of(name, value) for name, value in ended.results.items()}
        lines = (self.root / "did").read_text().splitlines() if (self.root / "did").exists() else []
        assert sorted(lines) == sorted(ended.executed)
        for name, event in events.items():
            if event.kind == "stage.finished" and event.data["key"]:
                self.real[ended.keys[name]] = event.data["key"]


TestRuns = Runs.TestCase
TestRuns.settings = examples(6)
