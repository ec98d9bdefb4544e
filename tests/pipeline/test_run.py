"""Runs: what is executed, what is reused, what is recorded, and what is taken back."""

from __future__ import annotations

import contextlib
import errno
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from gates import Check, QualityGate
from gates.verdict import Verdict, failed, passed
from pipeline import (
    Event,
    Facts,
    Journal,
    Only,
    Pipeline,
    Project,
    Resources,
    Result,
    Retry,
    Stage,
    StageFailed,
    Store,
    WiringError,
    Work,
)
from pipeline.errors import EngineError, Exit, JournalError, StageTimeout
from pipeline.history import RunHistory, one
from pipeline.record import read
from pipeline.run import WORTH, Outcome, is_due
from pipeline.store import unwritable
from stages.source import WorkingCopy
from tests.pipeline.toys import (
    Asks,
    Breaks,
    Constant,
    Counted,
    Fails,
    FromFile,
    Half,
    Make,
    Number,
    Runs,
    Sends,
    Sum,
)  # fmt: skip
from tests.running import run_pipeline


class Bench:
    """A project in which pipelines are run one after the other."""

    def __init__(self, project: Project, store: Store, journal: Journal) -> None:
        self.project, self.store, self.journal = project, store, journal
        self.counter = project.root / "counter"

    def run(self, pipeline: Pipeline, **more: Any) -> tuple[Outcome, RunHistory, dict[str, Any]]:
        outcome, results = run_pipeline(pipeline, self.project, self.store, self.journal, **more)
        history = one(self.journal, outcome.run)
        assert history is not None
        return outcome, history, results

    def states(self, pipeline: Pipeline, **more: Any) -> dict[str, str]:
        return {stage.name: stage.state for stage in self.run(pipeline, **more)[1].stages.values()}

    def write(self, name: str, number: int) -> None:
        (self.project.root / name).write_text(str(number))

    def counted(self) -> int:
        return len(self.counter.read_text().splitlines()) if self.counter.exists() else 0


@pytest.fixture
def bench(project: Project, tmp_path: Path, journal: Journal) -> Bench:
    return Bench(project, Store(tmp_path / "store"), journal)


def chain(bench: Bench) -> Pipeline:
    source = FromFile(path="n")
    half = Half(of=source)
    return Pipeline("thing", source=source, half=half, counted=Counted(of=half, file=bench.counter))


def test_a_second_run_of_an_unchanged_pipeline_executes_nothing(bench: Bench) -> None:
    bench.write("n", 4)
    assert set(bench.states(chain(bench)).values()) == {"passed"}
    assert set(bench.states(chain(bench)).values()) == {"cached"}
    assert bench.counted() == 1


def test_a_changed_source_runs_what_depends_on_it(bench: Bench) -> None:
    bench.write("n", 4)
    bench.run(chain(bench))
    bench.write("n", 10)
    _, history, results = bench.run(chain(bench))
    assert {stage.state for stage in history.stages.values()} == {"passed"}
    assert results["counted"] == Number(value=5)


def test_an_equal_result_leaves_everything_below_it_cached(bench: Bench) -> None:
    bench.write("n", 4)
    bench.run(chain(bench))
    bench.write("n", 5)
    assert bench.states(chain(bench)) == {"source": "passed", "half": "passed", "counted": "cached"}
    assert bench.counted() == 1


def test_a_changed_setting_runs_the_stage_again(bench: Bench) -> None:
    source = Constant(value=1)
    bench.run(Pipeline("thing", total=Sum(parts=(source,), plus=1)))
    _, history, results = bench.run(Pipeline("thing", total=Sum(parts=(source,), plus=2)))
    assert history.stages["total"].reason == "setting plus changed"
    assert results["total"] == Number(value=3)


def test_a_stage_can_be_asked_to_run_again(bench: Bench) -> None:
    bench.write("n", 4)
    bench.run(chain(bench))
    states = bench.states(chain(bench), again=frozenset({"half"}))
    assert states == {"source": "cached", "half": "passed", "counted": "cached"}


def test_a_failure_stops_what_depends_on_it_and_nothing_else(bench: Bench) -> None:
    source = Constant(value=1)
    bad = Fails(of=source)
    pipeline = Pipeline("thing", bad=bad, below=Half(of=bad), beside=Half(of=source))
    outcome, history, _ = bench.run(pipeline)
    assert {stage.name: stage.state for stage in history.stages.values()} == {
        "constant": "passed",
        "bad": "failed",
        "below": "blocked",
        "beside": "passed",
    }
    assert history.stages["below"].reason == "bad did not pass"
    assert (outcome.exit, outcome.failed) == (Exit.FAILED, {"bad": "no\n  expected: yes"})


def test_all_failures_are_reported_not_only_the_first(bench: Bench) -> None:
    source = Constant(value=1)
    outcome, _, _ = bench.run(Pipeline("thing", a=Fails(of=source), b=Fails(of=source, message="nor this")))
    assert sorted(outcome.failed) == ["a", "b"]


def test_a_bug_in_a_stage_fails_it_with_its_trace_in_the_journal(bench: Bench) -> None:
    outcome, history, _ = bench.run(Pipeline("thing", bad=Breaks()))
    assert outcome.failed == {"bad": "ZeroDivisionError: a bug"}
    assert "raise ZeroDivisionError" in history.stages["bad"].trace


def test_a_failing_attempt_is_repeated_as_often_as_allowed(bench: Bench) -> None:
    stage = Counted(of=Constant(value=1), file=bench.counter, fail_first=2, retry=Retry(times=2, wait=0.01))
    outcome, history, _ = bench.run(Pipeline("thing", it=stage))
    assert (outcome.exit, history.stages["it"].attempts, bench.counted()) == (Exit.PASSED, 3, 3)


def test_a_bug_is_not_repeated(bench: Bench) -> None:
    _, history, _ = bench.run(Pipeline("thing", it=Breaks(retry=Retry(times=3, wait=0.01))))
    assert history.stages["it"].attempts == 1


def test_a_stage_that_takes_too_long_fails_with_its_limit(bench: Bench) -> None:
    class Slow(Stage[Number]):
        async def run(self, work: Any) -> Number:
            await anyio.sleep_forever()
            return Number(value=0)

    outcome, _, _ = bench.run(Pipeline("thing", slow=Slow(timeout=0.05)))
    assert "slow took longer than 0.05 s" in outcome.failed["slow"]


def test_after_a_stage_that_takes_too_long_the_next_attempt_and_the_next_stages_have_all_their_time(bench: Bench) -> None:
    tries: list[int] = []

    class Slow(Stage[Number]):
        async def run(self, work: Any) -> Number:
            tries.append(work.attempt)
            await anyio.sleep(3600 if work.attempt == 1 else 0.25)
            return Number(value=len(tries))

    class Patient(Stage[Number]):
        of: Stage[Number]

        async def run(self, work: Any) -> Number:
            await anyio.sleep(0.25)
            found: Number = work[self.of]
            return found

    slow = Slow(timeout=0.2, retry=Retry(times=1, wait=0.001, on=(StageTimeout,)))
    outcome, _, _ = bench.run(Pipeline("thing", slow=slow, beside=Patient(of=Constant(value=1))))
    assert (list(outcome.failed), tries) == (["slow"], [1, 2])
    tries.clear()
    slow = Slow(timeout=0.5, retry=slow.retry)
    outcome, history, _ = bench.run(Pipeline("thing", slow=slow, next=Patient(of=slow)))
    assert (outcome.failed, tries, history.stages["next"].state) == ({}, [1, 2], "passed")


def test_a_stage_that_always_runs_has_a_limit_of_its_own(bench: Bench) -> None:
    class Slow(Stage[Number]):
        async def run(self, work: Any) -> Number:
            await anyio.sleep_forever()
            return Number(value=0)

    one = Constant(value=1)
    outcome, _, _ = bench.run(Pipeline("thing", one=one, slow=Slow(timeout=0.05, always=True, after=(one,))))
    assert "slow took longer than 0.05 s" in outcome.failed["slow"]


def test_a_stage_that_asks_the_process_to_exit_fails_like_any_other(bench: Bench) -> None:
    class Exits(Stage[Number]):
        async def run(self, work: Any) -> Number:
            raise SystemExit(0)

    outcome, _, _ = bench.run(Pipeline("thing", it=Exits(), beside=Constant(value=1)))
    assert (outcome.exit, list(outcome.failed)) == (Exit.FAILED, ["it"])


def test_a_result_that_cannot_be_read_back_fails_the_stage_and_is_not_kept(bench: Bench) -> None:
    class Lies(Stage[Number]):
        async def run(self, work: Any) -> Number:
            return Number.model_construct(value="abc")

    for _ in range(2):
        outcome, _, _ = bench.run(Pipeline("thing", it=Lies(), beside=Constant(value=1)))
        assert "cannot be read back" in outcome.failed["it"]


def test_a_stages_own_timeout_is_not_taken_for_the_limit(bench: Bench) -> None:
    class Times(Stage[Number]):
        async def run(self, work: Any) -> Number:
            raise TimeoutError("the server did not answer")

    outcome, _, _ = bench.run(Pipeline("thing", it=Times()))
    assert outcome.failed["it"] == "TimeoutError: the server did not answer"


def test_what_changes_between_plan_and_run_is_never_kept_under_the_key_of_what_was_planned(bench: Bench) -> None:
    class Edits(Stage[Number]):
        """Changes a file while the run is under way, before the working copy is read."""

        async def run(self, work: Any) -> Number:
            (work.project.root / "file").write_text("edited")
            return Number(value=1)

    (bench.project.root / "file").write_text("as planned")
    edits = Edits()
    source = WorkingCopy(include=("file",), after=(edits,))
    outcome, _, _ = bench.run(Pipeline("thing", edits=edits, source=source))
    assert "the project changed while the run was under way" in outcome.failed["source"]


def test_a_side_effect_happens_in_every_run_and_is_journalled_before_and_after(bench: Bench) -> None:
    sent = bench.project.root / "sent"
    pipeline = Pipeline("thing", send=Sends(of=Constant(value=1), file=sent))
    bench.run(pipeline)
    outcome, _, _ = bench.run(pipeline)
    assert sent.read_text() == "sent\nsent\n"
    kinds = [event.kind for event in bench.journal.events(outcome.run, stage="send")]
    assert kinds == ["stage.started", "effect.intended", "effect.done", "stage.finished", "effect.stands"]


def test_an_effect_is_taken_back_when_something_below_it_fails(bench: Bench) -> None:
    sent = bench.project.root / "sent"
    send = Sends(of=Constant(value=7), file=sent)
    outcome, history, _ = bench.run(Pipeline("thing", send=send, verify=Fails(of=send)))
    assert sent.read_text() == "sent\ntook back 7\n"
    assert outcome.exit is Exit.FAILED
    assert history.stages["send"].undone == "undone"


def test_an_effect_stays_when_only_something_beside_it_fails(bench: Bench) -> None:
    sent = bench.project.root / "sent"
    source = Constant(value=7)
    send = Sends(of=source, file=sent)
    bench.run(Pipeline("thing", send=send, verify=Half(of=send), beside=Fails(of=source)))
    assert sent.read_text() == "sent\n"


class Confirms(Half):
    confirms = True


def test_a_confirmed_effect_stands_whatever_fails_after_it(bench: Bench) -> None:
    sent = bench.project.root / "sent"
    send = Sends(of=Constant(value=7), file=sent)
    verified = Confirms(of=send)
    outcome, _, _ = bench.run(Pipeline("thing", send=send, verified=verified, notice=Fails(of=verified)))
    assert (outcome.exit, sent.read_text()) == (Exit.FAILED, "sent\n")


def test_an_effect_goes_back_when_what_confirms_it_was_not_reached(bench: Bench) -> None:
    sent = bench.project.root / "sent"
    send = Sends(of=Constant(value=7), file=sent)
    bench.run(Pipeline("thing", send=send, verified=Confirms(of=Fails(of=send))))
    assert sent.read_text() == "sent\ntook back 7\n"


def test_an_effect_that_cannot_be_taken_back_is_reported(bench: Bench) -> None:
    class Stuck(Sends):
        async def undo(self, work: Any, result: Any) -> None:
            raise RuntimeError("stuck")

    send = Stuck(of=Constant(value=7), file=bench.project.root / "sent")
    outcome, history, _ = bench.run(Pipeline("thing", send=send, verify=Fails(of=send)))
    assert outcome.failed["send"] == "could not be undone: RuntimeError: stuck"
    assert history.stages["send"].undone == "could not be undone: RuntimeError: stuck"


def test_asking_for_a_stage_that_is_no_input_is_an_error_with_its_name(bench: Bench) -> None:
    source, other = Constant(value=1), Constant(value=2)
    outcome, _, _ = bench.run(Pipeline("thing", source=source, other=other, it=Asks(of=source, other=lambda: other)))
    assert "it asked for other, which is not one of its inputs" in outcome.failed["it"]
    assert "one of: source" in outcome.failed["it"]


def test_a_result_of_another_type_than_declared_fails_the_stage(bench: Bench) -> None:
    class Lies(Stage[Number]):
        async def run(self, work: Any) -> Any:
            return "five"

    outcome, _, _ = bench.run(Pipeline("thing", lies=Lies()))
    assert "lies returned a str" in outcome.failed["lies"]


def test_a_stage_whose_condition_does_not_hold_is_skipped_with_what_depends_on_it(bench: Bench) -> None:
    source = Constant(value=1)
    only_main = Half(of=source, only=Only(branch=("main",)))
    pipeline = Pipeline("thing", only_main=only_main, below=Half(of=only_main))
    outcome, history, _ = bench.run(pipeline, facts=Facts(branch="topic"))
    assert history.stages["only_main"].reason == "branch is topic, only on main"
    assert history.stages["below"].reason == "needs only_main, which is skipped"
    assert outcome.exit is Exit.PASSED


class NoRoom(Stage[Number]):
    """The disk is full while it works."""

    async def run(self, work: Work) -> Number:
        raise unwritable(work.project.home, OSError(errno.ENOSPC, "No space left on device"))


def test_a_run_that_only_lacked_a_disk_found_nothing_wrong(bench: Bench) -> None:
    full = NoRoom()
    outcome, _, _ = bench.run(Pipeline("thing", full=full, below=Half(of=full)))
    assert (outcome.exit, list(outcome.failed)) == (Exit.UNUSABLE, ["full"])
    outcome, _, _ = bench.run(Pipeline("thing", full=full, fails=Fails(of=Constant(value=1))))
    assert (outcome.exit, sorted(outcome.failed)) == (Exit.FAILED, ["fails", "full"])


class Vanishes(Stage[Number]):
    """The journal is taken away meanwhile."""

    fails: bool

    async def run(self, work: Work) -> Number:
        for path in work.project.home.glob("journal.db*"):
            path.unlink()
        if self.fails:
            raise StageFailed("something else was wrong")
        return Number(value=1)


@pytest.mark.parametrize("fails", [False, True])
def test_a_run_whose_journal_is_gone_in_the_end_does_not_pass(project: Project, tmp_path: Path, fails: bool) -> None:
    project = replace(project, home=tmp_path / "home")
    project.home.mkdir()
    journal = Journal(project.home / "journal.db")
    with pytest.raises(JournalError, match="removed while it was in use") as caught:
        run_pipeline(Pipeline("thing", it=Vanishes(fails=fails)), project, Store(tmp_path / "store"), journal)
    journal.close()
    assert ("before that it failed: something else was wrong" in str(caught.value)) is fails


def test_two_stages_that_need_one_lock_never_run_together(bench: Bench) -> None:
    inside: list[int] = []
    most: list[int] = []

    class Alone(Stage[Number]):
        number: int

        async def run(self, work: Any) -> Number:
            inside.append(1)
            most.append(len(inside))
            await anyio.sleep(0.01)
            inside.pop()
            return Number(value=self.number)

    stages = tuple(Alone(number=number, resources=Resources(locks=("db",))) for number in range(4))
    outcome, _, _ = bench.run(Pipeline("thing", alone=stages))
    assert (outcome.exit, max(most), len(most)) == (Exit.PASSED, 1, 4)


def test_a_verdict_that_no_gate_weighs_fails_the_run(bench: Bench) -> None:
    def never(_: Number) -> Verdict:
        return failed("never", "it is a number", wanted="no number")

    pipeline = Pipeline("thing", check=Check(evidence=Constant(value=1), rule=never))
    for _ in range(2):
        outcome, _, _ = bench.run(pipeline)
        assert outcome.failed == {"check": "it is a number"}


def test_nobody_comes_after_a_stage_whose_result_is_a_concern(bench: Bench) -> None:
    check = Check(evidence=Constant(value=1), rule=bad)
    after = Constant(value=2, after=(check,))
    outcome, history, _ = bench.run(Pipeline("thing", check=check, after=after))
    assert sorted(outcome.failed) == ["check"]  # to come after it is not to judge it
    assert (history.stages["after"].state, history.stages["after"].reason) == ("blocked", "check did not pass")


def test_a_concern_that_keeps_its_own_gate_from_running_fails_the_run(bench: Bench) -> None:
    class Doubtful(Number):
        def concern(self) -> str:
            return "half of the tests failed"

    class Tests(Stage[Doubtful]):
        of: Stage[Number]

        async def run(self, work: Work) -> Doubtful:
            return Doubtful(value=1)

    bench.write("n", 3)
    source = FromFile(path="n")
    tests = Tests(of=source)
    load = Sum(parts=(source,), after=(tests,))
    checks = (Check(evidence=tests, rule=fine), Check(evidence=load, rule=fine))
    closed = QualityGate(artifact=Make(of=source), checks=checks)
    pipeline = Pipeline("thing", tests=tests, load=load, checks=checks, gate=closed)
    for _ in range(2):  # and when its result is taken from the run before
        outcome, history, _ = bench.run(pipeline)
        assert (outcome.exit, outcome.failed) == (Exit.FAILED, {"tests": "half of the tests failed"})
        assert {name: history.stages[name].state for name in ("tests", "load", "gate")} == {
            "tests": "failed",
            "load": "blocked",
            "gate": "blocked",
        }


def gate(bench: Bench, *rules: Any) -> Pipeline:
    bench.write("n", 3)
    source = FromFile(path="n")
    checks = tuple(Check(evidence=source, rule=rule) for rule in rules)
    passed_gate = QualityGate(artifact=Make(of=source), checks=checks)
    return Pipeline("thing", checks=checks, gate=passed_gate)


def fine(number: Number) -> Verdict:
    return passed("fine", f"{number.value} is fine")


def bad(number: Number) -> Verdict:
    return failed("bad", f"{number.value} is bad", "the particulars", wanted="another number")


def broken(_: Number) -> Verdict:
    raise KeyError("oops")


def test_a_gate_lets_the_artifact_through_with_its_verdicts(bench: Bench) -> None:
    _, history, results = bench.run(gate(bench, fine))
    assert results["gate"].artifact.value == 3
    assert [verdict["said"] for verdict in history.stages["gate"].verdicts] == ["3 is fine"]


def test_a_gate_stays_closed_on_one_failed_verdict_and_journals_all(bench: Bench) -> None:
    outcome, history, _ = bench.run(gate(bench, fine, bad))
    assert outcome.failed["gate"] == "gate is closed: 3 is bad\n  expected: another number"
    assert [verdict["ruling"] for verdict in history.stages["gate"].verdicts] == ["passed", "failed"]


def test_a_rule_that_raises_closes_the_gate(bench: Bench) -> None:
    outcome, history, _ = bench.run(gate(bench, broken))
    assert "the rule raised KeyError" in outcome.failed["gate"]
    assert history.stages["gate"].verdicts[0]["ruling"] == "error"


def test_a_command_that_fails_is_a_result_with_its_log(bench: Bench) -> None:
    outcome, _, results = bench.run(Pipeline("thing", it=Runs(argv=("sh", "-c", "echo hello; exit 7"))))
    assert results["it"] == Number(value=7)
    logs = list((bench.project.home / "logs" / outcome.run / "it").glob("*.log"))
    assert [log.read_text() for log in logs] == ["hello\n"]


def rewrite(bench: Bench, table: str, change: Callable[[bytes], bytes]) -> None:
    """Change every row of a table of the store as a failing disk might."""
    name = {"record": "key", "text": "digest"}[table]
    with contextlib.closing(sqlite3.connect(bench.store.root / "results.db", isolation_level=None)) as results:
        for key, data in results.execute(f"select {name}, data from {table}").fetchall():
            results.execute(f"update {table} set data = ? where {name} = ?", (change(data), key))


class Raises(Stage[Number]):
    """Fails in the ways that a file lists, one each time."""

    file: Path

    async def run(self, work: Work) -> Number:
        kinds = {"failed": StageFailed, "engine": EngineError, "timeout": StageTimeout, "system": OSError, "bug": KeyError}
        first, *rest = [*self.file.read_text().split(), ""]
        self.file.write_text(" ".join(rest))
        if first:
            raise kinds[first]("so it is")
        return Number(value=1)


@pytest.mark.parametrize(
    ("ways", "on", "attempts"),
    [
        ("engine timeout", (EngineError, StageTimeout), 3),
        ("failed", (EngineError, StageTimeout), 1),
        ("engine failed", (EngineError,), 2),
        ("failed system", None, 3),
        ("engine", None, 1),
        ("bug", None, 1),
        ("bug", (KeyError,), 2),
    ],
)
def test_only_failures_of_the_kinds_that_a_retry_names_are_tried_again(
    bench: Bench, ways: str, on: tuple[type[Exception], ...] | None, attempts: int
) -> None:
    file = bench.project.root / "ways"
    file.write_text(ways)
    retry = Retry(times=5, wait=0) if on is None else Retry(times=5, wait=0, on=on)
    _, history, _ = bench.run(Pipeline("thing", it=Raises(file=file, retry=retry)))
    assert (history.stages["it"].attempts, history.stages["it"].state == "passed") == (attempts, attempts > len(ways.split()))


@pytest.mark.parametrize("on", [StageFailed, ("StageFailed",), (1,), [StageFailed]])
def test_what_a_retry_is_on_are_classes_of_exceptions(on: Any) -> None:
    with pytest.raises(WiringError, match=r"Retry\.on is"):
        Retry(on=on)


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"\n\n", b"[" * 100_000, b"\xff\n\xff\n\xff"])
def test_a_damaged_record_is_a_miss_and_not_an_error(bench: Bench, text: bytes) -> None:
    bench.write("n", 4)
    bench.run(chain(bench))
    rewrite(bench, "record", lambda _: text)
    assert set(bench.states(chain(bench)).values()) == {"passed"}
    assert bench.counted() == 2


def test_a_record_with_any_byte_flipped_is_a_miss(bench: Bench) -> None:
    bench.write("n", 4)
    pipeline = chain(bench)
    bench.run(pipeline)
    key = next(
        key for key, _ in bench.store.load_all([event.data["key"] for event in bench.journal.events(kind="stage.finished")])
    )
    whole = bench.store.load(key)
    assert whole is not None
    assert read(whole, key) is not None
    for place in range(len(whole)):
        flipped = bytes([*whole[:place], whole[place] ^ 1, *whole[place + 1 :]])
        assert read(flipped, key) is None


def test_a_record_under_a_key_that_is_not_its_own_is_a_miss(bench: Bench) -> None:
    bench.write("n", 4)
    bench.run(chain(bench))
    first: list[bytes] = []

    def as_first(data: bytes) -> bytes:
        first.append(data)
        return first[0]

    rewrite(bench, "record", as_first)
    assert "passed" in bench.states(chain(bench)).values()
    assert bench.run(chain(bench))[2]["counted"] == Number(value=2)


def test_a_result_whose_bytes_were_damaged_is_a_miss(bench: Bench) -> None:
    bench.write("n", 4)
    bench.run(chain(bench))
    rewrite(bench, "text", lambda data: b"x" + data[1:])
    _, history, results = bench.run(chain(bench))
    assert history.stages["source"].state == history.stages["half"].state == "passed"
    assert results["counted"] == Number(value=2)


def test_what_an_interrupted_run_did_not_reach_is_told_apart_from_what_it_cut_off(journal: Journal) -> None:
    about = {"pipeline": "p", "engine": "host", "stages": [{"name": name, "inputs": [], "reason": ""} for name in "ab"]}
    journal.append(
        Event(run="r", kind="run.started", data=about),
        Event(run="r", kind="stage.started", stage="a", data={"attempt": 1, "reason": ""}),
        Event(run="r", kind="run.finished", data={"exit": 130, "failed": []}),
    )
    found = one(journal, "")
    assert found is not None
    assert {stage.name: stage.state for stage in found.stages.values()} == {"a": "interrupted", "b": "not reached"}


def test_what_takes_longer_to_write_is_gathered_longer_but_never_for_half_a_second() -> None:
    for pause, longest in ((0.0, 0.1), (0.05, 0.1), (0.2, 0.2), (50.0, 0.3)):
        assert [is_due(longest + more, pause) for more in (-0.01, 0.01)] == [False, True]


def test_work_that_took_ten_times_as_long_as_writing_does_is_written_as_soon_as_that_has_passed() -> None:
    assert [is_due(0.05, 0.03, took) for took in (0.001, 0.02, 0.04, 0.5)] == [False, False, True, True]
    assert [is_due(0.02, 0.03, took) for took in (0.04, 0.5, WORTH)] == [False, False, True]


class Base(Result):
    a: int


class More(Base):
    b: int


class Holds(Result):
    item: Base


class MakesMore(Stage[Holds]):
    async def run(self, work: Work) -> Holds:
        return Holds(item=More(a=1, b=2))


class LooksFor(Stage[Number]):
    of: Stage[Holds]
    setting: int

    async def run(self, work: Work) -> Number:
        return Number(value=getattr(work[self.of].item, "b", -1))


def test_the_run_that_makes_a_result_sees_no_more_of_it_than_runs_that_find_it_cached(bench: Bench) -> None:
    made = MakesMore()
    seen = [bench.run(Pipeline("thing", made=made, looks=LooksFor(of=made, setting=setting)))[2] for setting in (0, 1)]
    assert [results["looks"] for results in seen] == [Number(value=-1)] * 2


class FillsTheStore(Stage[Number]):
    """What is kept from now on cannot be written, and it fails."""

    of: Stage[Number]
    full: Path

    async def run(self, work: Work) -> Number:
        self.full.touch()
        work.store.save("0" * 64, b"a record")
        raise StageFailed("it does not hold")


@pytest.mark.parametrize("when", ["once it has failed", "once it was sent"])
def test_what_is_open_is_taken_back_where_only_the_store_cannot_be_written(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    sent, full = tmp_path / "sent", tmp_path / "full"
    write, reason = bench.store._results._write, sent if when == "once it was sent" else full

    def written(db: sqlite3.Connection) -> None:
        if reason.exists():
            raise sqlite3.OperationalError("database or disk is full")
        write(db)

    monkeypatch.setattr(bench.store._results, "_write", written)
    one = Constant(value=1)
    sends = Sends(of=one, file=sent)
    fills = FillsTheStore(of=sends, full=full)
    with pytest.raises(JournalError, match="the disk is full"):
        bench.run(Pipeline("thing", one=one, sends=sends, fills=fills))
    assert sent.read_text().splitlines() == ["sent", "took back 1"]
