"""Side effects: what stands, what goes back, what a killed run left open; processes are really killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import anyio
import pytest

from pipeline import (
    BrokenOff,
    CommandFailed,
    Effect,
    FanOut,
    Journal,
    Pipeline,
    Project,
    Retry,
    Stage,
    StageFailed,
    Store,
    UndeclaredInput,
    Work,
)
from pipeline.errors import Exit, JournalError, StoreError
from pipeline.journal import Event
from pipeline.lock import Lock
from pipeline.run import Outcome
from pipeline.settings import Settings
from tests import warm
from tests.pipeline.toys import Constant, Fails, Half, Number
from tests.running import run_pipeline

TOP = Path(__file__).parents[2]
OTHER = ("-c", "import sys; from tests.pipeline.test_effects import main; sys.exit(main(*sys.argv[1:]))")
"""Not `-m`: there the stages would be those of `__main__`, and so about something else."""


class Mails(Stage[Number]):
    """Appends a line to a file, which nobody can take back; then its process is killed where a file says so."""

    effect: ClassVar[Effect] = Effect.ONCE

    of: Stage[Number]

    async def run(self, work: Work) -> Number:
        sent = work.project.root / "sent"
        with sent.open("a") as file:
            file.write(f"{work[self.of].value}\n")
        if (work.project.root / "deadly").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return work[self.of]


class Looks(Mails):
    """Can find out whether its line was written."""

    async def recover(self, work: Work) -> Number | None:
        lines = (work.project.root / "sent").read_text().splitlines()
        return work[self.of] if str(work[self.of].value) in lines else None


class Opens(Mails):
    """Can take its line back."""

    async def recover(self, work: Work) -> Number | None:
        return work[self.of]

    async def undo(self, work: Work, result: Any) -> None:
        with (work.project.root / "sent").open("a") as file:
            file.write(f"took back {result.value}{', interrupted' if work.interrupted else ''}\n")


class DiesOnce(Half):
    """Kills its process where a file says so."""

    async def run(self, work: Work) -> Number:
        if (work.project.root / "deadly below").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return await super().run(work)


class Dying(Opens):
    """Is killed while it takes its line back."""

    async def run(self, work: Work) -> Number:
        with (work.project.root / "sent").open("a") as file:
            file.write(f"{work[self.of].value}\n")
        return work[self.of]

    async def undo(self, work: Work, result: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Lacks(Half):
    """Has no disk."""

    async def run(self, work: Work) -> Number:
        raise StoreError("the disk is full")


class Splits(FanOut[Number, Number]):
    """Has a part that fails, and rests on nothing."""

    of: Stage[Number]

    async def parts(self, work: Work) -> Mapping[str, Stage[Number]]:
        return {"bad": Fails(of=Constant(value=1))}

    async def join(self, work: Work, parts: Mapping[str, Number]) -> Number:
        return parts["bad"]


def pipeline(kind: str, value: int) -> Pipeline:
    """One of the stages above, and one below it."""
    if kind == "dying after parts":
        dying = Dying(of=Constant(value=value))
        return Pipeline("thing", send=dying, below=Splits(of=dying))
    if kind == "dying without a disk":
        dying = Dying(of=Constant(value=value))
        return Pipeline("thing", send=dying, below=Lacks(of=dying))
    if kind == "dying":
        dying = Dying(of=Constant(value=value))
        return Pipeline("thing", send=dying, below=Fails(of=dying))
    kinds = {"mails": Mails, "looks": Looks, "opens": Opens, "redoes": Redoes, "reopens": Reopens}
    send = kinds[kind](of=Constant(value=value))
    return Pipeline("thing", send=send, below=DiesOnce(of=send))


class Bench:
    """A project in which runs are killed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.project = Project(root=root, home=root / ".pipeline", settings=Settings())
        self.project.home.mkdir(exist_ok=True)
        self.journal = Journal(self.project.home / "journal.db")
        self.sent = root / "sent"

    def run(self, made: Pipeline, **more: Any) -> Outcome:
        return run_pipeline(made, self.project, Store(self.project.home / "store"), self.journal, **more)[0]

    def die(self, kind: str, value: int, *, below: bool = False) -> None:
        """Run in a process that is killed inside the stage, or in the one below it."""
        deadly = self.root / ("deadly below" if below else "deadly")
        deadly.touch()
        other = warm.run([*OTHER, str(self.root), kind, str(value)], cwd=TOP, env=os.environ)
        deadly.unlink()
        assert other.returncode == -signal.SIGKILL

    def kinds(self) -> list[str]:
        return [event.kind for event in self.journal.events(stage="send") if event.kind.startswith(("effect.", "undo."))]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    found = Bench(tmp_path)
    yield found
    found.journal.close()


def test_what_may_have_been_sent_is_not_sent_again_and_people_are_asked(bench: Bench) -> None:
    bench.die("mails", 1)
    outcome = bench.run(pipeline("mails", 1))
    assert (outcome.exit, bench.sent.read_text()) == (Exit.FAILED, "1\n")
    assert "nobody knows whether send took place" in outcome.failed["send"]
    assert "python -m pipeline run send --again send" in outcome.failed["send"]
    assert bench.run(pipeline("mails", 1)).exit is Exit.FAILED  # asking does not answer the question


def test_it_is_sent_again_when_people_say_so(bench: Bench) -> None:
    bench.die("mails", 1)
    assert bench.run(pipeline("mails", 1), again=frozenset({"send"})).exit is Exit.PASSED
    assert bench.sent.read_text() == "1\n1\n"
    assert bench.run(pipeline("mails", 1)).exit is Exit.PASSED  # nothing is in doubt any more


def test_another_message_is_sent_though_nobody_knows_of_the_one_before(bench: Bench) -> None:
    bench.die("mails", 1)
    assert bench.run(pipeline("mails", 2)).exit is Exit.PASSED
    assert bench.sent.read_text() == "1\n2\n"
    assert bench.kinds() == ["effect.intended", "effect.intended", "effect.done"]


def test_another_message_that_was_sent_is_no_answer_to_the_question_about_the_one_before(bench: Bench) -> None:
    bench.die("mails", 1)
    bench.run(pipeline("mails", 2))
    assert "nobody knows whether send took place" in bench.run(pipeline("mails", 1)).failed["send"]
    assert bench.run(pipeline("mails", 3), again=frozenset({"send"})).exit is Exit.PASSED  # said of that one alone
    assert bench.run(pipeline("mails", 1)).exit is Exit.FAILED
    assert bench.sent.read_text() == "1\n2\n3\n"
    assert bench.run(pipeline("mails", 1), again=frozenset({"send"})).exit is Exit.PASSED
    assert bench.sent.read_text() == "1\n2\n3\n1\n"


def test_a_stage_finds_out_about_each_of_its_effects_with_the_inputs_it_had(bench: Bench) -> None:
    bench.die("looks", 1)
    assert bench.run(pipeline("looks", 2)).exit is Exit.PASSED
    assert bench.run(pipeline("looks", 1)).exit is Exit.PASSED
    assert bench.sent.read_text() == "1\n2\n"


def test_a_stage_that_can_find_out_that_its_effect_took_place_is_not_run_again(bench: Bench) -> None:
    bench.die("looks", 1)
    assert bench.run(pipeline("looks", 1)).exit is Exit.PASSED
    assert bench.sent.read_text() == "1\n"
    assert bench.kinds() == ["effect.intended", "effect.done"]


def test_a_stage_that_can_find_out_that_its_effect_did_not_take_place_is_run_again(bench: Bench) -> None:
    bench.die("looks", 1)
    bench.sent.write_text("something else\n")
    assert bench.run(pipeline("looks", 1)).exit is Exit.PASSED
    assert bench.sent.read_text() == "something else\n1\n"


@pytest.mark.parametrize("below", [False, True])
def test_what_a_killed_run_left_open_is_taken_back_by_the_next_before_anything_else(bench: Bench, below: bool) -> None:
    bench.die("opens", 1, below=below)
    source = Constant(value=2)
    send = Opens(of=source, after=(Fails(of=source),))  # it will not even be reached
    bench.run(Pipeline("thing", send=send))
    assert bench.sent.read_text() == "1\ntook back 1, interrupted\n"
    assert bench.kinds()[-2:] == ["undo.intended", "undo.done"]
    bench.run(Pipeline("thing", send=send))
    assert bench.sent.read_text() == "1\ntook back 1, interrupted\n"  # once


def test_a_run_that_does_not_want_the_stage_takes_nothing_back(bench: Bench) -> None:
    bench.die("opens", 1, below=True)
    bench.run(Pipeline("thing", other=Constant(value=3)))
    assert bench.sent.read_text() == "1\n"


def test_what_another_run_has_open_is_left_to_it(bench: Bench) -> None:
    bench.die("opens", 1, below=True)
    other = Lock(bench.project.home / "effects.lock")
    assert other.try_take()
    source = Constant(value=2)
    bench.run(Pipeline("thing", send=Opens(of=source, after=(Fails(of=source),))))
    assert bench.sent.read_text() == "1\n"
    other.give_back()


def test_what_cannot_be_taken_back_is_told_and_the_run_goes_on(bench: Bench) -> None:
    class Stuck(Opens):
        async def undo(self, work: Work, result: Any) -> None:
            raise RuntimeError("stuck")

    bench.die("opens", 1, below=True)
    outcome = bench.run(Pipeline("thing", send=Stuck(of=Constant(value=2))))
    assert outcome.exit is Exit.PASSED
    (told,) = bench.journal.events(kind="undo.failed")
    assert (told.data["error"], "RuntimeError" in told.data["trace"]) == ("RuntimeError: stuck", True)
    assert bench.sent.read_text() == "1\n2\n"


def test_a_stage_that_says_its_effect_did_not_take_place_leaves_no_doubt(bench: Bench) -> None:
    class Refused(Mails):
        async def run(self, work: Work) -> Number:
            raise StageFailed("refused")

    bench.run(Pipeline("thing", send=Refused(of=Constant(value=1))))
    assert bench.kinds() == ["effect.intended", "effect.failed"]
    assert bench.run(pipeline("mails", 1)).exit is Exit.PASSED


@pytest.mark.parametrize(
    "error", [BrokenOff("half of it went out"), CommandFailed(("post",), 2, "half of it"), UndeclaredInput("no input")]
)
def test_a_stage_that_broke_off_leaves_a_doubt(bench: Bench, error: Exception) -> None:
    class Breaks(Mails):
        async def run(self, work: Work) -> Number:
            await super().run(work)
            raise error

    made = Pipeline("thing", send=Breaks(of=Constant(value=1)))
    assert str(error) in bench.run(made).failed["send"]
    assert "nobody knows whether send took place" in bench.run(made).failed["send"]
    assert bench.sent.read_text() == "1\n"


def test_a_stage_that_ran_out_of_time_leaves_a_doubt(bench: Bench) -> None:
    class Slow(Mails):
        async def run(self, work: Work) -> Number:
            await anyio.sleep_forever()
            return work[self.of]

    made = Pipeline("thing", send=Slow(of=Constant(value=1), timeout=0.05))
    assert "took longer than" in bench.run(made).failed["send"]
    assert "nobody knows whether send took place" in bench.run(made).failed["send"]


def test_an_effect_goes_back_when_only_a_concern_is_below_it(bench: Bench) -> None:
    class Worried(Number):
        def concern(self) -> str:
            return "this is bad"

    class Check(Stage[Worried]):
        of: Stage[Number]

        async def run(self, work: Work) -> Worried:
            return Worried(value=work[self.of].value)

    send = Opens(of=Constant(value=1))
    outcome = bench.run(Pipeline("thing", send=send, check=Check(of=send)))
    assert outcome.failed == {"check": "this is bad"}
    assert bench.sent.read_text() == "1\ntook back 1\n"


class Worried(Number):
    """A number with which nobody should go on."""

    def concern(self) -> str:
        return "this is bad"


class Mute(Number):
    """A number that cannot be told."""

    def summary(self) -> str:
        raise StageFailed("no words")


class Gives(Stage[Number]):
    """Appends a line, which it can take back, and gives a number with which something is wrong; refuses the second time."""

    kind: type[Number]

    async def run(self, work: Work) -> Number:
        if work.attempt == 2:
            raise StageFailed("refused")
        (work.project.root / "sent").write_text("1\n")
        return self.kind(value=1)

    def result_type(self) -> Any:
        return self.kind

    undo = Opens.undo


class GivesOnce(Gives):
    effect: ClassVar[Effect] = Effect.ONCE


class GivesAgain(Gives):
    effect: ClassVar[Effect] = Effect.RETRYABLE


@pytest.mark.parametrize(("kind", "why"), [(Worried, "this is bad"), (Mute, "no words")])
def test_an_effect_goes_back_when_its_own_stage_fails(bench: Bench, kind: type[Number], why: str) -> None:
    class Later(Half):
        """Whatever passes after it, the effect does not stand."""

        async def run(self, work: Work) -> Number:
            while not list(bench.journal.events(kind="stage.failed")):
                await anyio.sleep(0.01)
            return await super().run(work)

    outcome = bench.run(Pipeline("thing", send=GivesOnce(kind=kind), beside=Later(of=Constant(value=1))))
    assert (outcome.exit, outcome.failed) == (Exit.FAILED, {"send": why})
    assert bench.sent.read_text() == "1\ntook back 1\n"
    assert bench.kinds() == ["effect.intended", "effect.done", "undo.intended", "undo.done"]


def test_what_an_attempt_that_failed_left_is_taken_back_once_before_the_next(bench: Bench) -> None:
    outcome = bench.run(Pipeline("thing", send=GivesAgain(kind=Mute, retry=Retry(times=1, wait=0))))
    assert outcome.failed == {"send": "refused"}
    assert bench.sent.read_text() == "1\ntook back 1, interrupted\n"
    (told,) = bench.journal.events(kind="undo.intended")
    assert told.data["reason"] == "an earlier attempt ended before anybody confirmed it"


class Hangs(Opens):
    """Never finds out, and never comes back from taking its line back."""

    async def recover(self, work: Work) -> Number | None:
        await anyio.sleep_forever()
        return None

    async def undo(self, work: Work, result: Any) -> None:
        await anyio.sleep_forever()


def test_taking_an_effect_back_may_take_no_longer_than_its_stage(bench: Bench) -> None:
    send = Hangs(of=Constant(value=1), timeout=0.2)
    outcome = bench.run(Pipeline("thing", send=send, below=Fails(of=send)))
    assert "could not be undone: taking send back took longer than 0.2 s" in outcome.failed["send"]
    (told,) = bench.journal.events(kind="undo.failed")
    assert "longer than 0.2 s" in told.data["error"]


def test_finding_out_about_an_effect_may_take_no_longer_than_its_stage(bench: Bench) -> None:
    bench.die("opens", 1)
    outcome = bench.run(Pipeline("thing", send=Hangs(of=Constant(value=2), timeout=0.2)))
    assert "finding out what came of send took longer than 0.2 s" in outcome.failed["send"]
    assert (bench.sent.read_text(), bench.kinds()) == ("1\n", ["effect.intended"])


def test_a_second_run_waits_until_the_effects_of_the_first_are_confirmed(bench: Bench) -> None:
    class Meanwhile(Half):
        """Starts another run of the same project and sees that it waits."""

        async def run(self, work: Work) -> Number:
            others.append(another())
            with anyio.fail_after(60):
                while not any("not confirmed yet" in log.read_text() for log in work.project.home.glob("logs/*/send/*")):
                    await anyio.sleep(0.02)
            assert bench.sent.read_text() == "1\n"
            return await super().run(work)

    def another() -> warm.Process:
        return warm.start([*OTHER, str(bench.root), "opens", "2"], cwd=TOP, env=os.environ)

    others: list[warm.Process] = []
    send = Opens(of=Constant(value=1))
    assert bench.run(Pipeline("thing", send=send, verified=Meanwhile(of=send))).failed == {}
    assert [other.wait() for other in others] == [0]
    assert bench.sent.read_text() == "1\n2\n"


def test_two_effects_of_one_run_need_not_wait_for_each_other(bench: Bench) -> None:
    first = Opens(of=Constant(value=1))
    second = Opens(of=first)
    assert bench.run(Pipeline("thing", send=first, second=second, below=Half(of=second))).failed == {}
    assert bench.sent.read_text() == "1\n1\n"
    assert list(bench.journal.events(kind="undo.intended")) == []


def test_what_a_run_left_that_was_killed_while_this_one_waited_is_taken_back_before_the_next_effect(bench: Bench) -> None:
    class Kills(Half):
        """The other run ends here, and with it its lock."""

        async def run(self, work: Work) -> Number:
            other.give_back()
            return await super().run(work)

    bench.die("opens", 1, below=True)
    other = Lock(bench.project.home / "effects.lock")
    assert other.try_take()
    assert bench.run(Pipeline("thing", send=Opens(of=Kills(of=Constant(value=4))))).failed == {}
    assert bench.sent.read_text() == "1\ntook back 1, interrupted\n2\n"


def test_what_another_run_took_back_meanwhile_is_not_taken_back_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.die("opens", 1, below=True)
    real = fcntl.flock

    def late(file: Any, how: int) -> None:
        if getattr(file, "name", "") == str(bench.project.home / "effects.lock"):
            monkeypatch.setattr(fcntl, "flock", real)
            assert warm.run([*OTHER, str(bench.root), "opens", "2"], cwd=TOP, env=os.environ).returncode == 0
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    source = Constant(value=3)
    bench.run(Pipeline("thing", send=Opens(of=source, after=(Fails(of=source),))))
    assert bench.sent.read_text() == "1\ntook back 1, interrupted\n2\n"
    assert bench.kinds().count("undo.intended") == 1


def test_an_effect_whose_stage_finds_that_it_did_not_take_place_is_not_taken_back(bench: Bench) -> None:
    class Missed(Opens):
        async def recover(self, work: Work) -> Number | None:
            return None

    bench.die("opens", 1)
    bench.sent.unlink()
    assert bench.run(Pipeline("thing", send=Missed(of=Constant(value=2)))).failed == {}
    assert bench.sent.read_text() == "2\n"
    assert bench.kinds()[:2] == ["effect.intended", "effect.failed"]


def test_what_is_open_but_not_known_any_more_is_told_and_never_guessed(bench: Bench) -> None:
    bench.die("opens", 1)
    renamed = Half(of=Constant(value=4))  # there was none of its name in the run that was killed
    made = Pipeline("thing", send=Opens(of=renamed))
    outcome = bench.run(made)
    assert "cannot be taken back: it has no result of half" in outcome.failed["send"]
    assert "run send --again send" in outcome.failed["send"]
    assert bench.sent.read_text() == "1\n"
    assert bench.run(made, again=frozenset({"send"})).failed == {}
    assert bench.sent.read_text() == "1\n2\n"


def test_a_stage_that_can_undo_and_cannot_tell_is_not_sent_again_blindly_either(bench: Bench) -> None:
    class Forgets(Mails):
        async def undo(self, work: Work, result: Any) -> None:
            raise AssertionError("nobody knows what to take back")

    bench.die("mails", 1)
    made = Pipeline("thing", send=Forgets(of=Constant(value=1)))
    for _ in range(2):
        assert "nobody knows whether send took place" in bench.run(made).failed["send"]
    assert bench.sent.read_text() == "1\n"
    assert bench.run(made, again=frozenset({"send"})).failed == {}
    assert bench.sent.read_text() == "1\n1\n"


@pytest.mark.parametrize(("kind", "bad"), [("dying", "below"), ("dying after parts", "below[bad]")])
def test_what_failed_before_the_run_was_killed_is_not_taken_for_merely_interrupted(bench: Bench, kind: str, bad: str) -> None:
    bench.die(kind, 1)
    assert [event.stage for event in bench.journal.events(kind="stage.failed")] == [bad]
    source = Constant(value=2)
    send = Opens(of=source, after=(Fails(of=source),))
    bench.run(Pipeline("thing", send=send, below=Half(of=send)))
    assert bench.sent.read_text() == "1\ntook back 1\n"


def test_what_only_lacked_a_disk_before_the_run_was_killed_is_taken_for_interrupted(bench: Bench) -> None:
    bench.die("dying without a disk", 1)
    (failed,) = bench.journal.events(kind="stage.failed")
    assert (failed.stage, failed.data["unable"]) == ("below", True)
    source = Constant(value=2)
    send = Opens(of=source, after=(Fails(of=source),))
    bench.run(Pipeline("thing", send=send, below=Half(of=send)))
    assert bench.sent.read_text() == "1\ntook back 1, interrupted\n"


def test_each_effect_is_taken_back_by_what_was_found_of_it_and_not_by_how_the_run_ended(bench: Bench) -> None:
    one, two = Constant(value=1), Constant(value=2)
    wrong, unseen = Opens(of=one), Opens(of=two)
    outcome = bench.run(
        Pipeline("thing", one=one, two=two, wrong=wrong, unseen=unseen, bad=Fails(of=wrong), lacks=Lacks(of=unseen))
    )
    assert outcome.exit is Exit.FAILED
    assert sorted(bench.sent.read_text().splitlines()) == ["1", "2", "took back 1", "took back 2, interrupted"]


def test_an_effect_that_nobody_weighed_for_want_of_evidence_is_taken_back_as_one_that_was_cut_off(bench: Bench) -> None:
    class LacksLater(Lacks):
        async def run(self, work: Work) -> Number:
            while not bench.sent.exists():
                await anyio.sleep(0.01)
            return await super().run(work)

    source = Constant(value=1)
    send, evidence = Opens(of=source), LacksLater(of=source)
    outcome = bench.run(Pipeline("thing", send=send, evidence=evidence, below=Half(of=send, after=(evidence,))))
    assert outcome.exit is Exit.UNUSABLE
    assert bench.sent.read_text() == "1\ntook back 1, interrupted\n"


def test_an_effect_that_lacked_a_disk_for_being_weighed_is_taken_back_as_one_that_was_cut_off(bench: Bench) -> None:
    send = Opens(of=Constant(value=1))
    assert bench.run(Pipeline("thing", send=send, lacks=Lacks(of=send))).exit is Exit.UNUSABLE
    assert bench.sent.read_text() == "1\ntook back 1, interrupted\n"


def test_what_was_found_wrong_is_asked_of_the_run_that_was_killed_not_of_todays_pipeline(bench: Bench) -> None:
    bench.die("dying", 1)
    source = Constant(value=2)
    bench.run(Pipeline("thing", send=Opens(of=source, after=(Fails(of=source),))))  # what failed is not below it any more
    assert bench.sent.read_text() == "1\ntook back 1\n"


@pytest.mark.parametrize("below", [Fails, Splits])
def test_what_failed_before_the_run_was_stopped_is_not_taken_for_merely_interrupted(
    bench: Bench, below: Callable[..., Stage[Number]]
) -> None:
    class Stops(Half):
        """Ends the run from within once the stage beside it has failed."""

        async def run(self, work: Work) -> Number:
            while not list(bench.journal.events(kind="stage.failed")):
                await anyio.sleep(0.01)
            raise KeyboardInterrupt

    send = Opens(of=Constant(value=1))
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - a group of the interrupt, as anyio makes it
        bench.run(Pipeline("thing", send=send, bad=below(of=send), long=Stops(of=send)))
    assert caught.group_contains(KeyboardInterrupt) if isinstance(caught.value, BaseExceptionGroup) else True
    assert bench.sent.read_text() == "1\ntook back 1\n"


class Late(Opens):
    """Its effect takes place, and then it does not end."""

    async def run(self, work: Work) -> Number:
        await super().run(work)
        await anyio.sleep_forever()
        return work[self.of]


def test_an_effect_that_took_place_before_its_stage_ran_out_of_time_is_taken_back_at_once(bench: Bench) -> None:
    outcome = bench.run(Pipeline("thing", send=Late(of=Constant(value=1), timeout=0.2)))
    assert "took longer than" in outcome.failed["send"]
    assert bench.sent.read_text() == "1\ntook back 1\n"
    assert bench.kinds() == ["effect.intended", "undo.intended", "undo.done"]


def test_an_effect_is_taken_back_where_the_journal_cannot_say_that_it_took_place(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, filled = bench.journal.append, False

    def full(*events: Event) -> None:
        nonlocal filled
        filled = filled or any(event.kind == "effect.done" for event in events)
        if filled:
            raise JournalError("the disk is full")
        write(*events)

    monkeypatch.setattr(bench.journal, "append", full)
    with pytest.raises(JournalError, match="the disk is full"):
        bench.run(pipeline("opens", 1))
    assert bench.sent.read_text() == "1\ntook back 1, interrupted\n"


def test_a_run_that_breaks_ends_once_and_with_its_own_reason(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    write, broken = bench.journal._write, [("stage.finished", "the disk is full"), ("stage.failed", "the disk is full again")]

    def full(rows: Sequence[Any], batch: str) -> list[Event]:
        if broken and any(row.of.kind == broken[0][0] and row.of.stage == "below" for row in rows):
            raise JournalError(broken.pop(0)[1])
        return write(rows, batch)

    monkeypatch.setattr(bench.journal, "_write", full)
    with pytest.raises(JournalError, match="the disk is full again"):
        bench.run(pipeline("opens", 1))
    assert bench.sent.read_text() == "1\ntook back 1, interrupted\n"
    assert [event.data["exit"] for event in bench.journal.events(kind="run.finished")] == [Exit.UNUSABLE]


def test_a_cancellation_that_nobody_asked_for_fails_the_stage(bench: Bench) -> None:
    class Cancels(Half):
        async def run(self, work: Work) -> Number:
            raise anyio.get_cancelled_exc_class()

    send = Opens(of=Constant(value=1))
    outcome = bench.run(Pipeline("thing", send=send, verified=Cancels(of=send)))
    assert (outcome.exit, sorted(outcome.failed)) == (Exit.FAILED, ["verified"])
    assert bench.sent.read_text() == "1\ntook back 1\n"


def test_an_undo_that_ends_the_program_keeps_nothing_else_from_being_taken_back(bench: Bench) -> None:
    class Exits(Opens):
        async def undo(self, work: Work, result: Any) -> None:
            raise SystemExit("no way back")

    first = Opens(of=Constant(value=1))
    second = Exits(of=first)
    outcome = bench.run(Pipeline("thing", first=first, second=second, verify=Fails(of=second)))
    assert outcome.failed["second"] == "could not be undone: SystemExit: no way back"
    assert bench.sent.read_text() == "1\n1\ntook back 1\n"


def remove(journal: Path) -> None:
    journal.unlink()


def replace(journal: Path) -> None:
    copy = journal.with_name("copy")
    copy.write_bytes(journal.read_bytes())
    copy.replace(journal)


def truncate(journal: Path) -> None:
    os.truncate(journal, 0)


def remove_what_waits(journal: Path) -> None:
    journal.with_name("journal.db-wal").unlink()


class Repeats(Mails):
    effect: ClassVar[Effect] = Effect.RETRYABLE


class Redoes(Repeats):
    """May be repeated and taken back, and cannot tell what came of it. Refuses where a file says so."""

    undo = Opens.undo

    async def run(self, work: Work) -> Number:
        if (work.project.root / "refused").exists():
            raise StageFailed("refused")
        return await super().run(work)


class Reopens(Opens):
    """May be repeated and taken back, and can tell what came of it."""

    effect: ClassVar[Effect] = Effect.RETRYABLE


def test_what_may_be_repeated_is_taken_back_like_any_other_when_its_run_was_killed_in_the_middle(bench: Bench) -> None:
    bench.die("reopens", 1)
    source = Constant(value=2)
    bench.run(Pipeline("thing", send=Reopens(of=source, after=(Fails(of=source),))))
    assert bench.sent.read_text() == "1\ntook back 1, interrupted\n"


class LateAgain(Late, Reopens):
    """The same, where it may be repeated."""


def test_what_may_be_repeated_is_taken_back_when_it_ran_out_of_time(bench: Bench) -> None:
    bench.run(Pipeline("thing", send=LateAgain(of=Constant(value=1), timeout=0.2, retry=Retry(times=1, wait=0))))
    assert bench.sent.read_text() == "1\ntook back 1, interrupted\n1\ntook back 1\n"


def test_what_may_be_repeated_answers_the_question_whether_it_took_place_by_being_repeated(bench: Bench) -> None:
    bench.die("redoes", 1)
    assert "nobody knows whether send took place" in bench.run(pipeline("redoes", 2)).failed["send"]
    send = Redoes(of=Constant(value=1))
    bench.run(Pipeline("thing", send=send, below=Fails(of=send)))
    assert bench.sent.read_text() == "1\n1\ntook back 1\n"
    assert bench.run(pipeline("redoes", 2)).failed == {}


def test_an_effect_that_was_not_repeated_is_not_forgotten(bench: Bench) -> None:
    bench.die("redoes", 1)
    (bench.root / "refused").touch()
    assert bench.run(pipeline("redoes", 1)).failed == {"send": "refused"}
    (bench.root / "refused").unlink()
    assert "nobody knows whether send took place" in bench.run(pipeline("redoes", 2)).failed["send"]


@pytest.mark.parametrize("next_effect", [Mails, Repeats])
@pytest.mark.parametrize(
    ("lose", "said"),
    [
        (remove, "journal.db was removed"),
        (replace, "journal.db was replaced"),
        (truncate, "journal.db was truncated"),
        (remove_what_waits, "journal.db-wal was removed"),
    ],
)
def test_a_run_whose_journal_is_lost_begins_no_other_effect_takes_back_what_is_open_and_stops(
    bench: Bench, lose: Any, said: str, next_effect: type[Mails]
) -> None:
    class Loses(Half):
        async def run(self, work: Work) -> Number:
            lose(Path(bench.journal.where))
            return await super().run(work)

    first = Opens(of=Constant(value=4))
    with pytest.raises(JournalError, match=f"{said} while it was in use") as caught:
        bench.run(Pipeline("thing", first=first, next=next_effect(of=Loses(of=first))))
    assert bench.sent.read_text() == "4\ntook back 4, interrupted\n"
    assert (caught.value.where, "put the journal back" in caught.value.next) == (bench.journal.where, True)


class Undoes(Mails):
    """Can take its line back, and cannot tell whether it did."""

    undo = Opens.undo


class Unsure(Opens):
    """Cannot always tell, as it has to ask somebody."""

    async def recover(self, work: Work) -> Number | None:
        raise StageFailed("nobody answers")


class Tells(Opens):
    """Can tell whether its line is there or was taken back."""

    async def recover(self, work: Work) -> Number | None:
        lines = (work.project.root / "sent").read_text().splitlines()
        return None if lines[-1].startswith("took back") else Number(value=int(lines[-1]))


@pytest.mark.parametrize(("kind", "again"), [(Tells, ""), (Undoes, "took back 1\n"), (Unsure, "took back 1\n")])
def test_what_was_taken_back_on_a_full_disk_is_taken_back_again_only_where_the_stage_cannot_tell(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, kind: type[Mails], again: str
) -> None:
    write, filled = bench.journal.append, False

    def full(*events: Event) -> None:
        nonlocal filled
        filled = filled or any(event.kind == "undo.intended" for event in events)
        if filled:
            raise JournalError("the disk is full")
        write(*events)

    source = Constant(value=1)
    send = kind(of=source)
    monkeypatch.setattr(bench.journal, "append", full)
    with pytest.raises(JournalError, match="the disk is full"):
        bench.run(Pipeline("thing", send=send, below=Fails(of=send)))
    monkeypatch.undo()
    assert (bench.sent.read_text(), bench.kinds()[-1]) == ("1\ntook back 1\n", "effect.done")
    for _ in range(2):
        blocked = kind(of=source, after=(Fails(of=source),))
        bench.run(Pipeline("thing", send=blocked, below=Fails(of=blocked)))
        assert bench.sent.read_text() == "1\ntook back 1\n" + again
    assert bench.kinds()[-1] == ("undo.done" if again else "effect.failed")


def lose_result(bench: Bench) -> None:
    """As somebody does who cleans up the store."""
    (done,) = bench.journal.events(kind="effect.done")
    digest = done.data["result"]
    with contextlib.closing(sqlite3.connect(bench.project.home / "store" / "results.db", isolation_level=None)) as results:
        assert results.execute("delete from text where digest = ?", (digest,)).rowcount == 1


def test_what_is_left_open_and_whose_result_is_lost_is_taken_back_by_a_stage_that_can_find_out(bench: Bench) -> None:
    bench.die("opens", 1, below=True)
    lose_result(bench)
    assert bench.run(Pipeline("thing", send=Tells(of=Constant(value=2)))).failed == {}
    assert bench.sent.read_text() == "1\ntook back 1, interrupted\n2\n"


def test_where_the_result_of_what_is_left_open_is_lost_and_the_stage_cannot_find_out_people_decide(bench: Bench) -> None:
    bench.die("opens", 1, below=True)
    lose_result(bench)
    made = Pipeline("thing", send=Undoes(of=Constant(value=2)))
    for _ in range(2):
        failed = bench.run(made).failed["send"]
        assert "cannot be taken back: its result of send is lost" in failed
        assert "python -m pipeline run send --again send" in failed
    assert bench.sent.read_text() == "1\n"
    assert bench.run(made, again=frozenset({"send"})).failed == {}
    assert bench.sent.read_text() == "1\n2\n"
    assert bench.kinds() == [
        "effect.intended",
        "effect.done",
        "effect.unknown",
        "effect.intended",
        "effect.done",
        "effect.stands",
    ]


def test_a_run_keeps_the_turn_as_long_as_it_has_to_find_out_what_came_of_an_effect(bench: Bench) -> None:
    class Breaks(Opens):
        async def run(self, work: Work) -> Number:
            raise BrokenOff("cut off")

    class Tries(Half):
        async def run(self, work: Work) -> Number:
            while not list(bench.journal.events(kind="stage.failed")):
                await anyio.sleep(0.01)
            free.append(Lock(bench.project.home / "effects.lock").try_take())
            return await super().run(work)

    free: list[bool] = []
    source = Constant(value=1)
    bench.run(Pipeline("thing", send=Breaks(of=source), beside=Tries(of=source)))
    assert free == [False]


OWN = [anyio.get_cancelled_exc_class, lambda: GeneratorExit, lambda: SystemExit]


@pytest.mark.parametrize("raised", OWN)
def test_whatever_a_stage_raises_that_is_to_find_out_fails_that_stage_alone(bench: Bench, raised: Any) -> None:
    class Odd(Opens):
        async def recover(self, work: Work) -> Number | None:
            raise raised()

    bench.die("opens", 1)
    source = Constant(value=2)
    outcome = bench.run(Pipeline("thing", send=Odd(of=source), beside=Half(of=source)))
    assert (outcome.exit, sorted(outcome.failed)) == (Exit.FAILED, ["send"])
    assert bench.sent.read_text() == "1\n"
    assert bench.kinds() == ["effect.intended"]


@pytest.mark.parametrize("raised", OWN)
def test_whatever_a_stage_raises_that_is_to_find_out_at_the_end_keeps_nothing_else_from_being_taken_back(
    bench: Bench, raised: Any
) -> None:
    class Odd(Opens):
        async def run(self, work: Work) -> Number:
            raise RuntimeError("cut off")

        async def recover(self, work: Work) -> Number | None:
            raise raised()

    first = Opens(of=Constant(value=1))
    outcome = bench.run(Pipeline("thing", first=first, odd=Odd(of=first)))
    assert (outcome.exit, sorted(outcome.failed)) == (Exit.FAILED, ["odd"])
    assert bench.sent.read_text() == "1\ntook back 1\n"


def test_an_interrupt_while_a_stage_finds_out_interrupts_the_run(bench: Bench) -> None:
    class Interrupted(Opens):
        async def recover(self, work: Work) -> Number | None:
            raise KeyboardInterrupt

    bench.die("opens", 1)
    with pytest.raises(KeyboardInterrupt):
        bench.run(Pipeline("thing", send=Interrupted(of=Constant(value=2))))
    assert (bench.sent.read_text(), bench.kinds()) == ("1\n", ["effect.intended"])


def main(root: str, kind: str, value: str) -> int:
    return int(Bench(Path(root)).run(pipeline(kind, int(value))).exit)
