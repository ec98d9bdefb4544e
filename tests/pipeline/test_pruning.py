"""A store is kept small: what a release or a run that may go on needs stays, and what is damaged is found."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest

from benchmarks.flips import flips
from pipeline import Blob, Effect, Event, Journal, Pipeline, Project, Result, Stage, Store, Tree, Work
from pipeline.errors import StoreError
from pipeline.pruning import DAY, Pruned, latest, prune
from pipeline.record import read
from pipeline.store import Entry
from tests.running import run_pipeline

LARGE = 40_000


class Made(Result):
    """A tree and a file, as a build leaves them."""

    tree: Tree
    file: Blob


class Makes(Stage[Made]):
    value: int

    async def run(self, work: Work) -> Made:
        blobs = [work.store.put(f"{self.value} {name}".encode() * LARGE) for name in "ab"]
        tree = work.store.tree([Entry(name, "file", blob.digest, blob.size) for name, blob in zip("ab", blobs, strict=True)])
        return Made(tree=tree, file=work.store.put(f"{self.value} file".encode()))


class Ships(Stage[Made]):
    effect: ClassVar[Effect] = Effect.ONCE

    of: Stage[Made]

    async def run(self, work: Work) -> Made:
        return work[self.of]


class Bench:
    def __init__(self, project: Project, store: Store, journal: Journal) -> None:
        self.project, self.store, self.journal = project, store, journal

    def make(self, value: int, *, ship: bool = False) -> None:
        made = Makes(value=value)
        stages: dict[str, Stage[Any]] = {"made": made, "ship": Ships(of=made)} if ship else {"made": made}
        assert run_pipeline(Pipeline("thing", **stages), self.project, self.store, self.journal)[0].failed == {}

    def states(self, value: int) -> dict[str, str]:
        made = Pipeline("thing", made=Makes(value=value))
        run = run_pipeline(made, self.project, self.store, self.journal)[0].run
        return {event.stage: event.kind for event in self.journal.events(run) if event.kind in ("stage.finished", "stage.cached")}

    def made_tree(self) -> Tree:
        """What the only stage that ran has made."""
        (finished,) = self.journal.events(kind="stage.finished")
        record = read(self.store.load(finished.data["key"]) or b"", finished.data["key"])
        assert record is not None
        return next(Tree(digest=name, size=size, files=files) for name, size, files in record.contents if files >= 0)

    def prune(self, **limits: Any) -> Pruned:
        gone = prune(self.store, self.journal, **limits)
        self.store.discard(gone.eviction.keys, gone.eviction.objects, gone.trees)
        return gone


@pytest.fixture
def bench(project: Project, tmp_path: Path, journal: Journal) -> Bench:
    return Bench(project, Store(tmp_path / "store"), journal)


def test_what_was_used_least_recently_is_made_again_and_the_rest_is_still_there(bench: Bench) -> None:
    for value in (1, 2, 3):
        bench.make(value)
    assert bench.states(1) == {"made": "stage.cached"}  # used last
    gone = bench.prune(largest=2 * 2 * 3 * LARGE + 10_000)
    assert gone.stages == ("made",)
    assert gone.bytes > 2 * 3 * LARGE
    assert bench.states(1) == bench.states(3) == {"made": "stage.cached"}
    assert bench.states(2) == {"made": "stage.finished"}


def test_what_a_release_needs_stays_whatever_the_limit(bench: Bench) -> None:
    for value in (1, 2, 3):
        bench.make(value, ship=True)
    bench.make(4)
    bench.prune(largest=1)
    assert bench.states(1) == {"made": "stage.finished"}  # two releases stay: the one that serves, and the one before it
    assert bench.states(2) == bench.states(3) == {"made": "stage.cached"}
    assert bench.states(4) == {"made": "stage.finished"}


def test_what_a_run_that_may_go_on_has_made_stays(bench: Bench) -> None:
    bench.make(1)
    run = bench.journal.runs()[-1]
    journal = bench.journal
    journal.append(Event(run="cut-off", kind="run.started", data={"pipeline": "thing", "engine": "host"}))
    (finished,) = journal.events(run, kind="stage.finished")
    journal.append(Event(run="cut-off", kind="stage.finished", stage="made", data=finished.data))
    bench.prune(largest=1)
    assert bench.states(1) == {"made": "stage.cached"}


def test_what_nothing_names_goes_and_laid_out_trees_with_their_files(bench: Bench) -> None:
    bench.make(1)
    loose = bench.store.put(b"nobody names this")
    place = bench.store.shared(bench.made_tree())
    assert bench.prune().eviction.objects == (loose.digest,)
    assert place.exists()
    bench.prune(largest=1)
    assert not place.exists()
    assert bench.store.inventory().files == {}


def test_pruning_that_is_cut_off_leaves_nothing_damaged_and_can_be_done_again(bench: Bench) -> None:
    bench.make(1)
    bench.store.shared(bench.made_tree())
    gone = prune(bench.store, bench.journal, largest=1)
    *_, last = (name for name in gone.eviction.objects if name in bench.store.inventory().files)
    stuck = bench.store.root / "blobs" / last[:2] / last
    stuck.unlink()
    stuck.mkdir()  # no file, so that it cannot be removed
    with pytest.raises(StoreError):
        bench.store.discard(gone.eviction.keys, gone.eviction.objects, gone.trees)
    stuck.rmdir()
    left = bench.store.inventory()
    assert [name for name in left.trees if not bench.store.is_laid_out_whole(name)] == []
    assert bench.states(1) == {"made": "stage.finished"}
    bench.prune(largest=1)
    assert bench.store.inventory().files == {}


def test_the_latest_runs_are_those_that_ended_last_in_a_shared_journal_on_this_machine(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def say(run: str, kind: str, **data: Any) -> None:
        journal.append(Event(run=run, kind=kind, data=data))

    assert latest(journal) == []
    for run in "abc":
        say(run, "run.started", host=os.uname().nodename)
    for run in "cba":
        say(run, "run.finished", exit=1)
    say("there", "run.started", host="elsewhere")
    say("there", "run.finished", exit=1)
    say("goes on", "run.started", host=os.uname().nodename)
    assert latest(journal) == ["there", "a"]
    monkeypatch.setattr("pipeline.pruning.JournalFile", Path)  # as of rows that are in no file of this machine
    assert latest(journal) == ["a", "b"]
    say("c", "run.resumed", host=os.uname().nodename)
    say("c", "run.finished", exit=1)
    assert latest(journal) == ["c", "a"]


def test_every_flipped_byte_of_two_hundred_objects_is_found(tmp_path: Path) -> None:
    flipped, found = flips(Store(tmp_path / "store"), 200)
    print(f"{found:,} of {flipped:,} flips found")
    assert found == flipped > 8000


def test_a_flipped_byte_of_a_text_is_found_wherever_it_is_looked_at(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    name = store.keep(b'{"value":1}')
    store.flush()
    store._results._database.for_writing().execute("update text set data = ?", (b'{"value":2}',))
    assert not store.is_whole(name)
    assert store.lacking([name]) == {name}
    with pytest.raises(StoreError, match="was damaged on disk and has been removed"):
        store.read(Blob(digest=name, size=0))


def test_a_laid_out_tree_is_whole_only_as_it_was_laid_out(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    one, two = store.put(b"one"), store.put(b"two")
    tree = store.tree(
        [Entry("a", "file", one.digest, 3), Entry("bin/b", "executable", two.digest, 3), Entry("link", "link", "a")]
    )
    place = store.shared(tree)

    def whole() -> bool:
        return store.is_laid_out_whole(tree.digest)

    assert whole()
    (place / "more").write_text("x")
    assert not whole()
    (place / "more").unlink()
    (place / "link").unlink()
    assert not whole()
    (place / "link").symlink_to("b")
    assert not whole()
    (place / "link").unlink()
    (place / "link").symlink_to("a")
    assert whole()
    (place / "bin" / "b").chmod(0o444)
    assert not whole()
    (place / "bin" / "b").chmod(0o644)
    (place / "bin" / "b").write_bytes(b"twp")
    (place / "bin" / "b").chmod(0o555)
    assert not whole()


def test_all_runs_that_may_go_on_keep_what_they_made_for_thirty_days(tmp_path: Path, journal: Journal) -> None:
    store = Store(tmp_path / "store")
    made = [store.put(b"%d" % number).digest for number in range(4)]
    for number, result in enumerate(made):
        at = time.time() - (31 * DAY if number == 0 else 29 * DAY)
        journal.append(
            Event(run=f"run{number}", kind="run.started", at=at),
            Event(run=f"run{number}", kind="stage.finished", stage="one", data={"result": result, "key": None}, at=at),
        )
    assert prune(store, journal, largest=1).eviction.objects == (made[0],)


@pytest.mark.parametrize("piece", [1, 7, 64, 90])
def test_what_a_release_names_is_kept_however_large_the_listing_that_names_it(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    store = Store(tmp_path / "store")
    monkeypatch.setattr("pipeline.pruning.PIECE", piece)
    blobs = [store.put(b"file %d" % number) for number in range(20)]
    tree = store.tree([Entry(f"f{number}", "file", blob.digest, blob.size) for number, blob in enumerate(blobs)])
    loose = store.put(b"nobody's")
    data = {"result": tree.digest, "about": "x", "key": None}
    journal.append(*(Event(run="run", kind=kind, stage="deploy", data=data) for kind in ("stage.finished", "effect.done")))
    assert prune(store, journal, largest=1).eviction.objects == (loose.digest,)
