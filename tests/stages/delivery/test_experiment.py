"""Experiments on a real service: what is learnt of two releases, and that nothing is switched by it."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import defusedxml.ElementTree
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gates import Check
from gates.eprocess import Counts
from gates.experiment import Compared, ExperimentReport, Tally
from gates.judge import Business, ErrorRate, SlowAnswers
from gates.verdict import Verdict, failed, passed
from gates.window import Share, Window
from pipeline import Journal, Pipeline, Project, Stage, StageFailed, Store, WiringError
from pipeline.engines.local import free_port
from pipeline.journal import Event
from pipeline.order import operator
from pipeline.rollouts import current
from pipeline.run import Outcome
from pipeline.settings import Settings
from stages.delivery.audience import Cohort, Cookie
from stages.delivery.experiment import Experiment, added, main, page, picture
from stages.delivery.haproxy import HAProxy, HAProxyRouter
from stages.delivery.local import LocalProcesses, LocalTarget
from tests.running import run_pipeline
from tests.stages.delivery.desk import at_desk
from tests.stages.delivery.load import Load
from tests.stages.delivery.small import delivery, deployment, gated, image_stage
from tests.web import get

BY_UID = Cohort(Cookie("uid"))


def measure(found: str) -> Compared:
    low, high = {"fewer": (0.2, 0.9), "more": (1.2, None), "open": (0.5, 2.0)}[found]
    return Compared(measure=f"{found} & so on", k0=5, n0=100, k1=4, n1=100, low=low, high=high, mismatch=0.0 if low > 1 else None)


def test_a_report_is_a_page_and_a_picture() -> None:
    all_found = tuple(map(measure, ("fewer", "more", "open")))
    report = ExperimentReport(
        group="g-2", against=("g-1",), audience="users", share=50, seconds=60, unknown=1, sure=0.95, compared=all_found
    )
    assert not report.decided
    assert [one.found for one in report.uneven] == ["more"]
    assert "| more & so on | 5 of 100 | 4 of 100 | 0.80 | 1.20 and no bound | happens more often | **uneven** |" in page(report)
    assert "between its bounds: all of them are, with a chance of 95%" in page(report)
    drawn = defusedxml.ElementTree.fromstring(picture(report))
    assert {"more & so on", "happens less often", "not decided"} <= {one.text for one in drawn.iter() if one.text}


WINDOWS = st.none() | st.builds(
    lambda part, more, errors: Window(requests=errors + more, errors=errors, business={"x": Share(part=part, of=part + more)}),
    *[st.integers(0, 100)] * 3,
)


@given(WINDOWS, WINDOWS)
def test_only_ticks_of_which_both_sides_are_known_are_counted(old: Window | None, new: Window | None) -> None:
    before = Tally(Counts(1, 2, 3, 4))
    known = old is not None and new is not None
    assert (added(ErrorRate(), before, old, new) != before) <= known
    assert added(Business(of="y"), before, old, new) == before
    if old is not None and new is not None:
        share, other = old.business["x"], new.business["x"]
        counts = Counts(1 + share.part, 2 + share.of, 3 + other.part, 4 + other.of)
        assert added(Business(of="x"), before, old, new).counts == counts


def no_worse(report: ExperimentReport) -> Verdict:
    if any(one.found == "more" for one in report.compared):
        return failed("no worse", report.summary(), wanted="nothing bad more often")
    return passed("no worse", report.summary(), wanted="nothing bad more often")


def experiment(port: int, version: str, *env: tuple[str, str], **more: Any) -> Experiment:
    return Experiment(
        release=gated(image_stage()),
        target=LocalProcesses(name="app", patience=10),
        router=HAProxy(name="app", port=port),
        env=(("VERSION", version), *env),
        audience=BY_UID,
        tick=0.1,
        **more,
    )


def run(project: Project, store: Store, journal: Journal, one: Experiment) -> tuple[Outcome, dict[str, Any]]:
    gate: Any = one.release
    check: Stage[Any] = Check(evidence=one, rule=no_worse)
    return run_pipeline(Pipeline("tried", checks=gate.checks, experiment=one, learnt=check), project, store, journal)


def test_an_experiment_tells_what_the_release_does_differently_and_switches_nothing(
    project: Project, store: Store, journal: Journal, target: LocalTarget, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    assert run_pipeline(delivery(deployment(port, "one")), project, store, journal)[0].failed == {}
    groups = anyio.run(target.groups)
    journal = Journal(project.home / "journal.db")
    with Load(port, posts=False, pause=0.002, keys="uid") as users:
        outcome, _ = run(project, store, journal, experiment(port, "two", ("FAILS", "5"), lasts=60))
        failures = len(users.failures)
        users.more(50)
    assert list(outcome.failed) == ["learnt"]  # and what is below that check is held back
    assert 0 < failures == len(users.failures)
    assert all("'two'" in failure for failure in users.failures)
    (finished,) = journal.events(kind=("experiment.finished",))
    report = ExperimentReport.model_validate(finished.data["report"])
    assert report.compared[0].found == "more"
    assert report.compared[0].k0 == 0
    assert report.compared[0].k1 <= failures
    assert report.seconds < 60
    assert anyio.run(target.groups) == groups
    assert get(f"http://127.0.0.1:{port}/", cookies={"uid": "user 1"}).text == "one"
    home = {"PIPELINE_HOME": str(project.home)}
    assert main(str(project.root), env=home) == 0
    said = capsys.readouterr().out
    assert re.search(r"\| errors \| 0 of [\d,]+ \| \d+ of [\d,]+ \| - \| [\d.]+ and no bound \| happens more often \|", said)
    assert main(str(project.root), "--svg", env=home) == 0
    assert capsys.readouterr().out == picture(report)
    assert main("nowhere", env=home) == 2
    assert "nowhere" in capsys.readouterr().err
    assert main(str(project.root), "another run", env=home) == 1
    assert capsys.readouterr().err == "no experiment has ended in run another run\n"
    journal.close()


def test_an_experiment_without_a_difference_ends_when_its_time_is_over(
    project: Project, store: Store, journal: Journal, target: LocalTarget
) -> None:
    port = free_port()
    assert run_pipeline(delivery(deployment(port, "one")), project, store, journal)[0].failed == {}
    with Load(port, posts=False, keys="uid") as users:
        outcome, _ = run(project, store, journal, experiment(port, "two", lasts=2, share=30))
    assert outcome.failed == {}
    assert users.failures == []
    (finished,) = journal.events(kind=("experiment.finished",))
    report = ExperimentReport.model_validate(finished.data["report"])
    assert report.compared[0].found == "open"
    assert report.seconds >= 2
    assert users.answers["two"] > 0
    assert report.compared[0].n0 > report.compared[0].n1 > 0
    assert len(anyio.run(target.groups)) == 1


def test_an_experiment_in_which_nobody_asks_has_learnt_nothing_and_fails(
    project: Project, store: Store, journal: Journal, target: LocalTarget
) -> None:
    port = free_port()
    assert run_pipeline(delivery(deployment(port, "one")), project, store, journal)[0].failed == {}
    outcome, found = run(project, store, journal, experiment(port, "two", lasts=0.5))
    assert "nothing was compared by errors in" in outcome.failed["experiment"]
    assert "learnt" not in found
    assert len(anyio.run(target.groups)) == 1


FILE = """
import os
from pipeline import Pipeline
from tests.stages.delivery.small import delivery, deployment
from tests.stages.delivery.test_experiment import experiment
one = experiment(PORT, "two", lasts=3600)
pipeline = Pipeline("small", checks=one.release.checks, tries=one)
if "DEPLOY" in os.environ:
    pipeline = delivery(deployment(PORT, "one"))
"""


def test_operators_see_what_an_experiment_would_do_and_has_found_and_end_it(project: Project) -> None:
    port = free_port()
    with at_desk(project, FILE.replace("PORT", str(port)), port) as desk:
        assert "  1  nothing serves that a release could be compared with\n" in desk("run", "--dry-run")
        desk("run", DEPLOY="1")
        (first,) = desk.rollouts
        said = desk("run", "--dry-run")
        assert f"  3  send 50 % of users by cookie uid to green, 50 % to {first.group}" in said
        assert f"  4  compare green with {first.group}, at most 3600 s\n" in said
        with Load(port, posts=False, keys="uid") as users:
            run = desk.start("run")
            desk.until_said(r"(?m)^tries  .*  going on .*  experiment  run .*\n    step 3 of 3: send .*\n    errors: \d")
            assert "is an experiment" in desk("promote", "tries", code=2)
            assert "is an experiment" in desk("pause", code=2)
            desk("abort", "--why", "enough")
            assert run.wait() == 1
            users.more(20)
        assert users.failures == []
        assert f"{operator()} aborted the experiment with {desk.rollouts[1].group}: enough" in run.output
        assert [one.state for one in desk.rollouts] == ["verified", "ended"]
        assert "2 stages have deployed" not in desk("undo", code=2)  # an experiment is none of them
        assert desk.answer() == "one"


def test_an_experiment_that_cannot_be_ended_leaves_it_to_the_next_run_which_does(
    project: Project, store: Store, journal: Journal, target: LocalTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    assert run_pipeline(delivery(deployment(port, "one")), project, store, journal)[0].failed == {}
    before, split, calls = anyio.run(target.groups), HAProxyRouter.split, itertools.count(1)

    async def fails(router: HAProxyRouter, *words: Any) -> None:
        if next(calls) > 1:
            raise StageFailed("HAProxy does not answer")
        await split(router, *words)

    with Load(port, posts=False, keys="uid") as users:
        monkeypatch.setattr(HAProxyRouter, "split", fails)
        outcome, _ = run(project, store, journal, experiment(port, "two", lasts=1))
        monkeypatch.undo()
        assert "failed: HAProxy does not answer" in outcome.failed["experiment"]
        assert len(anyio.run(target.groups)) == 2
        assert current(journal, project.home)["experiment"].state == "stuck half way"
        outcome, _ = run(project, store, journal, experiment(port, "two", lasts=1))
        assert outcome.failed == {}
        users.more(50)
    assert users.failures == []
    assert anyio.run(target.groups) == before


def test_an_experiment_whose_release_does_not_get_ready_is_aborted_at_once(project: Project) -> None:
    port = free_port()
    file = FILE.replace("lasts=3600", "('UNREADY', '1'), lasts=3600")
    with at_desk(project, file.replace("PORT", str(port)), port) as desk:
        desk("run", DEPLOY="1")
        with Load(port, posts=False, keys="uid") as users:
            run = desk.start("run")
            desk.until(lambda one: one.step.text.startswith("wait"), many=2)
            desk("abort")
            assert run.wait() == 1
            users.more(20)
        assert f"{operator()} aborted the experiment" in run.output
        assert set(users.answers) == {"one"}


def test_an_experiment_that_says_otherwise_that_it_is_ready_than_what_serves_is_refused(
    project: Project, store: Store, journal: Journal, target: LocalTarget
) -> None:
    """The router asks both alike: what serves would be taken for dead."""
    port = free_port()
    assert run_pipeline(delivery(deployment(port, "one")), project, store, journal)[0].failed == {}
    before = anyio.run(target.groups)
    outcome, _ = run(project, store, journal, experiment(port, "two", lasts=1, ready="/livez"))
    assert "serves and says that it can by /readyz, and this release by /livez" in outcome.failed["experiment"]
    assert (anyio.run(target.groups), get(f"http://127.0.0.1:{port}/").text) == (before, "one")


def test_where_nothing_serves_there_is_nobody_to_compare_with(project: Project, store: Store, journal: Journal) -> None:
    outcome, _ = run(project, store, journal, experiment(free_port(), "one", lasts=1))
    assert "nobody to be compared with" in outcome.failed["experiment"]


@pytest.mark.parametrize(
    "wrong",
    [{"measures": (SlowAnswers(),)}, {"share": 0}, {"share": 100}, {"alpha": 0.0}, {"lasts": 0}, {"tick": 0}, {"measures": ()}],
)
def test_an_experiment_that_could_tell_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(WiringError, match="Experiment"):
        Experiment(
            **{
                "release": gated(image_stage()),
                "target": LocalProcesses(name="app"),
                "router": HAProxy(name="app", port=8080),
                "audience": BY_UID,
                "lasts": 1,
                **wrong,
            }
        )


PROGRAM = "import sys; from tests.stages.delivery.test_experiment import die; die(*sys.argv[1:])"


def die(root: str, home: str, store: str, port: str, kind: str = "experiment.looked") -> None:
    """An experiment whose process is killed at the first event of that kind, by itself as soon as it has looked at its users."""
    project = Project(root=Path(root), home=Path(home), settings=Settings())
    journal = Journal(project.home / "journal.db")

    def listen(event: Event) -> None:
        if event.kind == kind:
            os.kill(os.getpid(), signal.SIGKILL)

    journal.listen(listen)
    run(project, Store(Path(store)), journal, experiment(int(port), "two", lasts=60))


def test_an_experiment_that_was_killed_is_ended_by_the_next_run(project: Project, store: Store, target: LocalTarget) -> None:
    port, journal = free_port(), Journal(project.home / "journal.db")
    assert run_pipeline(delivery(deployment(port, "one")), project, store, journal)[0].failed == {}
    before = anyio.run(target.groups)
    words = [sys.executable, "-c", PROGRAM, str(project.root), str(project.home), str(store.root), str(port)]
    assert subprocess.run(words, cwd=Path(__file__).parents[3], check=False, timeout=60).returncode == -signal.SIGKILL
    assert len(anyio.run(target.groups)) == 2
    with Load(port, posts=False, keys="uid") as users:
        users.more(100)
        assert users.answers["two"] > 0
        outcome, _ = run(project, store, journal, experiment(port, "two", lasts=1))
    assert outcome.failed == {}
    assert users.failures == []
    kinds = [event.kind for event in journal.events(kind=("experiment.started", "experiment.ended"))]
    assert kinds == ["experiment.started", "experiment.ended"] * 2
    assert anyio.run(target.groups) == before
    journal.close()


def test_a_release_that_got_no_users_before_its_experiment_was_killed_is_ended_by_the_next_run(
    project: Project, store: Store, target: LocalTarget
) -> None:
    port, journal = free_port(), Journal(project.home / "journal.db")
    assert run_pipeline(delivery(deployment(port, "one")), project, store, journal)[0].failed == {}
    before = anyio.run(target.groups)
    words = [sys.executable, "-c", PROGRAM, str(project.root), str(project.home), str(store.root), str(port), "rollout.done"]
    assert subprocess.run(words, cwd=Path(__file__).parents[3], check=False, timeout=60).returncode == -signal.SIGKILL
    assert len(anyio.run(target.groups)) == 2
    with Load(port, posts=False, keys="uid"):
        assert run(project, store, journal, experiment(port, "three", lasts=1))[0].failed == {}
    assert anyio.run(target.groups) == before
    journal.close()


def test_an_experiment_that_was_killed_ends_also_where_what_served_then_was_removed(
    project: Project, store: Store, target: LocalTarget
) -> None:
    port, journal = free_port(), Journal(project.home / "journal.db")
    assert run_pipeline(delivery(deployment(port, "one")), project, store, journal)[0].failed == {}
    (one,) = anyio.run(target.groups)
    words = [sys.executable, "-c", PROGRAM, str(project.root), str(project.home), str(store.root), str(port)]
    assert subprocess.run(words, cwd=Path(__file__).parents[3], check=False, timeout=60).returncode == -signal.SIGKILL
    assert run_pipeline(delivery(deployment(port, "two")), project, store, journal)[0].failed == {}
    anyio.run(target.stop, one)
    with Load(port, posts=False, keys="uid"):
        outcome, _ = run(project, store, journal, experiment(port, "three", lasts=1))
    assert outcome.failed == {}
    journal.close()
