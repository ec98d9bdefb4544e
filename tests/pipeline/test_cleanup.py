"""Stages that always run: after what failed, was skipped, was cut off or never began, and after what was taken back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar

import anyio
import pytest

from gates import Check
from gates.verdict import Verdict, failed
from pipeline import Facts, Journal, Only, Pipeline, Project, Stage, StageFailed, Store, Work
from pipeline.cli.console import closing
from pipeline.cli.paint import Paint
from pipeline.errors import Exit, JournalError
from pipeline.history import RunHistory, one
from pipeline.plan import World, plan
from pipeline.run import Outcome
from pipeline.stage import Effect
from tests.pipeline.toys import Asks, Cleans, Constant, Counted, Fails, Half, Number, Sends, Sum
from tests.running import run_pipeline


class Bench:
    """A project in which pipelines are run; `did` is the file in which stages leave lines."""

    def __init__(self, project: Project, store: Store, journal: Journal) -> None:
        self.project, self.store, self.journal = project, store, journal
        self.did = project.root / "did"

    def run(self, pipeline: Pipeline, **more: Any) -> tuple[Outcome, RunHistory]:
        outcome, _ = run_pipeline(pipeline, self.project, self.store, self.journal, **more)
        history = one(self.journal, outcome.run)
        assert history is not None
        return outcome, history

    def lines(self) -> list[str]:
        return self.did.read_text().splitlines() if self.did.exists() else []


@pytest.fixture
def bench(project: Project, tmp_path: Path, journal: Journal) -> Bench:
    return Bench(project, Store(tmp_path / "store"), journal)


ONE = Constant(value=1)


def test_what_always_runs_does_so_after_what_passed_failed_was_blocked_or_skipped(bench: Bench) -> None:
    good, bad = Half(of=ONE), Fails(of=ONE)
    blocked, skipped = Half(of=bad), Half(of=ONE, only=Only(branch=("release",)))
    cleans = Cleans(file=bench.did, after=(good, bad, blocked, skipped), always=True)
    outcome, history = bench.run(Pipeline("thing", good=good, bad=bad, blocked=blocked, skipped=skipped, cleans=cleans))
    assert bench.lines() == ["cleans"]
    assert {name: stage.state for name, stage in history.stages.items()} == {
        "constant": "passed",
        "good": "passed",
        "bad": "failed",
        "blocked": "blocked",
        "skipped": "skipped",
        "cleans": "passed",
    }
    assert (outcome.exit, list(outcome.failed)) == (Exit.FAILED, ["bad"])


def test_a_run_that_fails_fast_cleans_up_all_the_same(bench: Bench) -> None:
    bad = Fails(of=ONE)
    cleans = Cleans(file=bench.did, after=(bad,), always=True)
    last = Cleans(file=bench.did, after=(cleans,), always=True)
    outcome, history = bench.run(Pipeline("thing", bad=bad, cleans=cleans, last=last), fail_fast=True)
    assert bench.lines() == ["cleans", "last"]
    assert outcome.exit is Exit.FAILED
    assert history.stages["last"].state == "passed"


def test_it_has_its_turn_while_what_it_does_not_come_after_goes_on(bench: Bench) -> None:
    class Waits(Stage[Number]):
        """Goes on once it was cleaned up: else for ever."""

        of: Stage[Number]

        async def run(self, work: Work) -> Number:
            while not bench.lines():
                await anyio.sleep(0.001)
            return Number(value=0)

    pipeline = Pipeline("thing", one=ONE, waits=Waits(of=ONE), cleans=Cleans(file=bench.did, after=(ONE,), always=True))
    assert bench.run(pipeline)[0].exit is Exit.PASSED


def test_where_what_it_uses_did_not_pass_there_is_nothing_to_clean_up(bench: Bench) -> None:
    bad = Fails(of=ONE)
    cleans = Cleans(file=bench.did, of=(bad,), always=True)
    chained = Cleans(file=bench.did, of=(cleans,), always=True)
    after = Cleans(file=bench.did, after=(cleans,), always=True)
    outcome, history = bench.run(Pipeline("thing", bad=bad, cleans=cleans, chained=chained, after=after))
    found = history.stages["cleans"]
    assert (found.state, found.reason) == ("skipped", "there is nothing to clean up: bad did not pass")
    assert history.stages["chained"].reason == "there is nothing to clean up: cleans did not pass"
    assert bench.lines() == ["after"]
    assert list(outcome.failed) == ["bad"]


def test_what_it_uses_it_is_given_and_what_it_only_comes_after_it_is_not(bench: Bench) -> None:
    uses = Cleans(file=bench.did, of=(ONE,), always=True)
    asks = Asks(of=ONE, other=lambda: uses, after=(uses,), always=True)
    outcome, _ = bench.run(Pipeline("thing", uses=uses, asks=asks))
    assert bench.lines() == ["uses 1"]
    assert "asked for uses, which is not one of its inputs" in outcome.failed["asks"]


def test_its_own_failure_fails_the_run_and_stands_beside_the_first(bench: Bench) -> None:
    good, bad = Half(of=ONE), Fails(of=ONE)
    outcome, _ = bench.run(Pipeline("thing", good=good, a=Fails(of=good, message="still there", always=True)))
    assert (outcome.exit, list(outcome.failed)) == (Exit.FAILED, ["a"])
    other = Half(of=ONE)
    cleans = Fails(of=ONE, after=(other,), message="still there", always=True)
    outcome, history = bench.run(Pipeline("thing", bad=bad, other=other, a=cleans))
    assert (outcome.exit, sorted(outcome.failed)) == (Exit.FAILED, ["a", "bad"])
    assert closing(history, Paint(False), "lockgate")[-1].startswith("bad failed: no; ")  # the name of the other comes first


def test_effects_are_taken_back_before_what_they_stood_on_is_cleaned_up(bench: Bench) -> None:
    send = Sends(of=ONE, file=bench.did)
    bad = Fails(of=send)
    cleans = Cleans(file=bench.did, after=(bad,), always=True)
    last = Cleans(file=bench.did, of=(send,), after=(cleans,), always=True)
    end = Cleans(file=bench.did, after=(cleans,), always=True)
    outcome, history = bench.run(Pipeline("thing", send=send, bad=bad, cleans=cleans, last=last, end=end))
    assert bench.lines()[:3] == ["sent", "took back 1", "cleans"]
    assert sorted(bench.lines()[3:]) == ["end", "last 1"]
    assert (outcome.exit, list(outcome.failed)) == (Exit.FAILED, ["bad"])
    assert set(history.counts()) == {"passed", "failed"}


def test_an_effect_stands_whatever_comes_of_cleaning_up(bench: Bench) -> None:
    send = Sends(of=ONE, file=bench.did)
    outcome, _ = bench.run(Pipeline("thing", send=send, cleans=Fails(of=send, always=True)))
    assert bench.lines() == ["sent"]
    assert list(outcome.failed) == ["cleans"]


def test_what_cleans_up_does_not_weigh_what_it_uses(bench: Bench) -> None:
    def never(_: Number) -> Verdict:
        return failed("never", "it is a number", wanted="no number")

    class Tells(Stage[Number]):
        of: Stage[Any]

        async def run(self, work: Work) -> Number:
            return Number(value=1)

    check = Check(evidence=ONE, rule=never)
    pipeline = Pipeline("thing", check=check, tells=Tells(of=check, always=True))
    for _ in range(2):  # then cached
        outcome, history = bench.run(pipeline)
        assert outcome.failed == {"check": "it is a number"}
        assert history.stages["tells"].state in {"passed", "cached"}


def test_it_is_cached_as_any_stage_without_a_side_effect(bench: Bench) -> None:
    bad = Fails(of=ONE)
    pipeline = Pipeline("thing", bad=bad, counted=Counted(of=ONE, file=bench.did, after=(bad,), always=True))
    assert bench.run(pipeline)[1].stages["counted"].state == "passed"
    assert bench.run(pipeline)[1].stages["counted"].state == "cached"
    assert bench.lines() == ["counted"]


def test_it_is_tried_again_and_cut_off_as_any_stage(bench: Bench) -> None:
    class Slow(Cleans):
        async def run(self, work: Work) -> Number:
            await super().run(work)
            await anyio.sleep_forever()
            raise AssertionError("never")

    outcome, _ = bench.run(Pipeline("thing", slow=Slow(file=bench.did, of=(ONE,), timeout=0.01, always=True)))
    assert outcome.failed == {"slow": "slow took longer than 0.01 s\n  expected: a larger timeout=, or less work"}


def test_a_plan_says_that_it_always_runs_and_what_is_skipped_with_what_it_uses(bench: Bench) -> None:
    env, unit = Half(of=ONE), Half(of=ONE, only=Only(branch=("release",)))
    tests = Sum(parts=(env,), only=Only(branch=("release",)))
    stops = Cleans(file=bench.did, of=(env,), after=(tests,), always=True)
    tidies = Cleans(file=bench.did, after=(tests, unit), always=True)
    pipeline = Pipeline("thing", one=ONE, env=env, unit=unit, tests=tests, stops=stops, tidies=tidies)
    world = World(
        facts=Facts(branch="main"), engine="host", platform="here", observed={}, lookup=lambda _: None, last=lambda _: None
    )
    found = {step.name: (step.decision.value, step.reason) for step in plan(pipeline, frozenset(pipeline), world).steps}
    assert found["tidies"] == ("run", "always, has a side effect (retryable)")
    assert found["env"] == ("skipped", "only tests needs it, which is skipped")  # nothing is put up only to be taken down
    assert found["stops"] == ("skipped", "needs env, which is skipped")


def test_nothing_is_begun_of_which_the_journal_would_not_know(project: Project, tmp_path: Path) -> None:
    class Loses(Stage[Number]):
        of: Stage[Number]

        async def run(self, work: Work) -> Number:
            shutil.rmtree(tmp_path / "journal")
            return Number(value=1)

    (tmp_path / "journal").mkdir()
    bench = Bench(project, Store(tmp_path / "store"), Journal(tmp_path / "journal" / "journal.db"))
    loses = Loses(of=ONE)
    with pytest.raises(JournalError, match="removed while it was in use"):
        bench.run(Pipeline("thing", loses=loses, cleans=Cleans(file=bench.did, after=(loses,), always=True)))
    bench.journal.close()
    assert bench.lines() == []


def test_a_mail_is_sent_once_whatever_came_of_the_rest(bench: Bench) -> None:
    class Mails(Cleans):
        effect: ClassVar[Effect] = Effect.ONCE

    bad = Fails(of=ONE)
    mails = Mails(file=bench.did, after=(bad,), always=True)
    bench.run(Pipeline("thing", bad=bad, mails=mails))
    assert bench.lines() == ["mails"]
    assert [event.kind for event in bench.journal.events(stage="mails")] == [
        "stage.started",
        "effect.intended",
        "effect.done",
        "stage.finished",
    ]


def test_a_bug_in_one_does_not_keep_the_others_from_cleaning_up(bench: Bench) -> None:
    class Raises(Stage[Number]):
        of: Stage[Number]

        async def run(self, work: Work) -> Number:
            raise StageFailed("no") from KeyError()

    bad = Raises(of=ONE, always=True)
    outcome, _ = bench.run(Pipeline("thing", bad=bad, cleans=Cleans(file=bench.did, after=(bad,), always=True)))
    assert (bench.lines(), list(outcome.failed)) == (["cleans"], ["bad"])
