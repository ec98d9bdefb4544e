"""Runs that were cut off go on: nothing is done twice that must not be, nothing that was done is lost."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pipeline import Event, Journal, Project
from pipeline.cli import resume
from pipeline.cli.main import main
from pipeline.errors import ConfigError, JournalError
from pipeline.history import RunHistory, one
from pipeline.lease import Lease
from tests import warm
from tests.pipeline.cli.test_cli import PYTHONPATH

DELIVERY = '''
import os, signal
from typing import Any, ClassVar

from pipeline import Effect, Pipeline, Stage, Work
from pipeline.errors import StageFailed
from tests.pipeline.toys import FromFile, Number


def did(work: Work, what: str) -> None:
    with (work.project.root / "did").open("a") as file:
        file.write(what + "\\n")


def die(work: Work, where: str) -> None:
    """Be killed once at a place that a file names."""
    deadly = work.project.root / "die"
    if deadly.exists() and deadly.read_text() == where:
        deadly.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


class Does(Stage[Number]):
    of: Stage[Number]

    async def run(self, work: Work) -> Number:
        die(work, work.name + " before")
        if (work.project.root / "refuses").exists() and (work.project.root / "refuses").read_text() == work.name:
            raise StageFailed("it refuses")
        did(work, work.name)
        die(work, work.name + " after")
        return Number(value=work[self.of].value + 1)


class Again(Does):
    effect: ClassVar[Effect] = Effect.RETRYABLE


class Mails(Does):
    effect: ClassVar[Effect] = Effect.ONCE


class Finds(Mails):
    """Can find out whether it was done."""

    async def recover(self, work: Work) -> Number | None:
        done = (work.project.root / "did").read_text().splitlines()
        return Number(value=work[self.of].value + 1) if work.name in done else None


class Opens(Finds):
    """Can take it back."""

    async def undo(self, work: Work, result: Any) -> None:
        did(work, "took back " + work.name)


class Confirms(Does):
    confirms: ClassVar[bool] = True


class Checks(Does):
    async def run(self, work: Work) -> Number:
        found = await super().run(work)
        if (work.project.root / "bad").exists():
            raise StageFailed("it is bad")
        return found


source = FromFile(path="n")
pure = Does(of=source)
again = Again(of=pure)
finds = Finds(of=again)
mails = Mails(of=finds)
opens = Opens(of=mails)
confirmed = Confirms(of=opens)
last = Checks(of=confirmed)
pipeline = Pipeline(
    "thing", source=source, pure=pure, again=again, finds=finds, mails=mails, opens=opens, confirmed=confirmed, last=last
)
'''

ORDER = ["pure", "again", "finds", "mails", "opens", "confirmed", "last"]


@dataclass
class Done:
    code: int
    out: str
    err: str


@dataclass
class Place:
    root: Path

    def __call__(self, *words: str, **env: str) -> Done:
        done = warm.run(["-m", "pipeline", *words], cwd=self.root, env={**os.environ, "PYTHONPATH": PYTHONPATH, **env})
        return Done(done.returncode, done.stdout, done.stderr)

    def die(self, where: str) -> None:
        (self.root / "die").write_text(where)
        assert self("run").code == -signal.SIGKILL

    def did(self) -> list[str]:
        return (self.root / "did").read_text().splitlines()

    @property
    def journal(self) -> Journal:
        return Journal(self.root / ".pipeline" / "journal.db")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    found = Place(tmp_path / "project")
    found.root.mkdir()
    (found.root / "pyproject.toml").write_text('[tool.pipeline]\nengine = "host"\n')
    (found.root / "delivery.py").write_text(DELIVERY)
    (found.root / "n").write_text("1")
    return found


@pytest.mark.parametrize("where", [f"{stage} {when}" for stage in ORDER for when in ("before", "after")])
def test_a_run_killed_anywhere_goes_on_where_it_was(place: Place, where: str) -> None:
    place.die(where)
    stage, when = where.split()
    done = place("resume")
    if where == "mails after":  # nobody can find out
        assert done.code == 1
        assert "nobody knows whether mails took place" in done.err + done.out
        assert place.did().count("mails") == 1
        done = place("resume", "--again", "mails")
        assert done.code == 2  # it came to its end, and is begun anew
        return
    if where == "mails before":  # nor here
        assert done.code == 1
        return
    assert done.code == 0, done.out + done.err
    did = place.did()
    repeated = {"again", stage if when == "after" else ""}
    for name in ("pure", "confirmed", "last"):
        assert did.count(name) == (2 if name in repeated else 1)
    assert [did.count(name) for name in ("finds", "mails", "opens")] == [1, 1, 1]
    assert not [line for line in did if line.startswith("took back")]
    assert len(place.journal.runs()) == 1
    (history,) = [one(place.journal, "")]
    assert history is not None
    assert (history.exit, set(history.counts())) == (0, {"passed"})


def test_an_effect_that_was_open_when_its_run_was_killed_is_taken_back_when_the_rest_fails(place: Place) -> None:
    place.die("confirmed before")
    (place.root / "bad").touch()
    done = place("resume")
    assert done.code == 1  # `last` is bad, and what was confirmed before it stays
    assert "took back opens" not in place.did()


def test_what_was_confirmed_before_the_kill_stays_whatever_fails_after_it(place: Place) -> None:
    place.die("last before")
    (place.root / "bad").touch()
    assert place("resume").code == 1
    assert not [line for line in place.did() if line.startswith("took back")]
    kinds = [event.kind for event in place.journal.events(stage="opens") if event.kind.startswith(("effect.", "undo."))]
    assert kinds == ["effect.intended", "effect.done", "effect.stands"]


def test_a_run_that_was_interrupted_goes_on_too_and_does_again_what_it_took_back(place: Place) -> None:
    place.die("confirmed before")
    journal = place.journal
    run = journal.runs()[0]
    journal.append(
        Event(
            run=run,
            kind="undo.done",
            stage="opens",
            data={"about": next(iter(journal.events(kind="effect.done", stage="opens"))).data["about"]},
        ),
        Event(run=run, kind="run.finished", data={"exit": 130, "failed": []}),
    )
    with (place.root / "did").open("r+") as file:
        lines = [line for line in file.read().splitlines() if line != "opens"]
    (place.root / "did").write_text("".join(f"{line}\n" for line in lines))
    assert place("resume").code == 0
    assert place.did().count("opens") == 1


SLOW = """
import anyio
import pipeline.run as running

running.TOGETHER = running.LONGEST = running.SHARE = 3600.0  # what waits to be written together waits for ever


class Slow(Does):
    async def run(self, work: Work) -> Number:
        await anyio.sleep(running.WORTH)
        return await super().run(work)


slow = Slow(of=source)
quick = Does(of=slow)
kills = Does(of=quick)
pipeline = Pipeline("thing", source=source, slow=slow, quick=quick, kills=kills)
"""


def test_what_took_a_second_is_written_at_once_and_what_took_none_may_be_done_again(place: Place) -> None:
    (place.root / "delivery.py").write_text(DELIVERY + SLOW)
    place.die("kills before")
    assert place("resume").code == 0
    assert place.did() == ["slow", "quick", "quick", "kills"]


MANY = """
import pipeline.run as running

running.TOGETHER = running.SHARE = 0.0  # what was noted is written at once, though nobody else has a turn
running.TURN = 3600.0


class Counts(Does):
    number: int


stages = {f"n{number}": Counts(of=source, number=number) for number in range(5)}
pipeline = Pipeline("thing", source=source, **stages)
"""


def test_stages_that_wait_for_nothing_do_not_keep_the_journal_waiting(place: Place) -> None:
    (place.root / "delivery.py").write_text(DELIVERY + MANY)
    place.die("n4 before")
    assert place("resume").code == 0
    assert sorted(place.did()) == ["n0", "n1", "n2", "n3", "n4"]


TIDIES = """
tidies = Again(of=source, after=(pure,), always=True)
pipeline = Pipeline("thing", source=source, pure=pure, tidies=tidies)
"""


@pytest.mark.parametrize("where", ["pure before", "pure after", "tidies before"])
def test_a_run_that_was_killed_cleans_up_once_it_is_resumed(place: Place, where: str) -> None:
    (place.root / "delivery.py").write_text(DELIVERY + TIDIES)
    place.die(where)
    assert "tidies" not in place.did() if (place.root / "did").exists() else True
    assert place("resume").code == 0
    assert place.did()[-1] == "tidies"
    assert place.did().count("tidies") == 1


def test_a_run_that_came_to_its_end_does_not_go_on(place: Place) -> None:
    assert place("run").code == 0
    done = place("resume")
    assert (done.code, "has ended (passed)" in done.err) == (2, True)
    (place.root / "bad").touch()
    (place.root / "n").write_text("2")
    assert place("run").code == 1
    assert "next: " in place("resume").err
    assert "run --failed" in place("resume").err


def test_a_run_that_a_full_disk_ended_goes_on_and_repeats_no_effect(place: Place) -> None:
    full = 'raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/there")'
    unchanged = "class Checks(Does):\n    async def run(self, work: Work) -> Number:\n"
    asks = f'        if (work.project.root / "full").exists():\n            {full}\n'
    text = DELIVERY.replace(unchanged, unchanged + asks).replace("import os", "import errno, os")
    (place.root / "delivery.py").write_text(text)
    (place.root / "full").touch()
    done = place("run")
    assert (done.code, "the disk is full" in done.out, "Traceback" in done.out + done.err) == (2, True, False)
    (place.root / "full").unlink()
    done = place("resume")
    assert done.code == 0, done.out + done.err
    assert [place.did().count(name) for name in ("pure", "finds", "mails", "opens", "confirmed", "last")] == [1] * 6


def test_a_run_whose_files_changed_does_not_go_on_and_says_which_stage_they_are_of(place: Place) -> None:
    place.die("finds before")
    (place.root / "n").write_text("2")
    done = place("resume")
    assert done.code == 2
    assert "cannot go on: what source depends on is not what it was" in done.err
    commands = done.err.splitlines()[-1].removeprefix("  next: ")
    assert re.fullmatch(r"\S+ -m pipeline explain --since \S+ source; \S+ -m pipeline run", commands)
    env = {**os.environ, "PYTHONPATH": PYTHONPATH}
    pasted = subprocess.run(
        ["sh", "-ec", commands.replace("; ", "\n")], cwd=place.root, env=env, capture_output=True, text=True, check=False
    )
    assert (pasted.returncode, "source: run, observed changed" in pasted.stdout) == (0, True), pasted.stderr


def test_without_a_run_there_is_nothing_to_go_on_with(place: Place) -> None:
    assert "there is no journal yet" in place("resume").err
    place.die("finds before")
    assert "no run's id begins with '1999'" in place("resume", "1999").err


def test_the_state_of_a_machine_that_stopped_goes_on_elsewhere(place: Place, tmp_path: Path) -> None:
    place.die("opens before")
    copy = tmp_path / "copy"
    shutil.copytree(place.root / ".pipeline", copy)
    shutil.rmtree(place.root / ".pipeline")
    done = place("resume", PIPELINE_HOME=str(copy))
    assert done.code == 0
    assert f"run {Journal(copy / 'journal.db').runs()[0]} resumed" in done.out
    assert [place.did().count(name) for name in ("pure", "finds", "mails", "opens", "last")] == [1] * 5


def test_of_a_run_that_is_going_on_nobody_else_may_take_its_place(place: Place, tmp_path: Path) -> None:
    place.die("finds before")
    run = place.journal.runs()[0]
    lease = Lease(place.journal, place.root / ".pipeline", run)
    lease.take()
    done = place("resume")
    assert (done.code, "is going on: another process is at work on it" in done.err) == (2, True)
    lease.end()
    assert place("resume").code == 0
    assert place.did().count("finds") == 1


def test_of_two_that_resume_one_run_at_once_one_goes_on(place: Place) -> None:
    place.die("opens before")
    command = [sys.executable, "-m", "pipeline", "resume"]
    env = {**os.environ, "PYTHONPATH": PYTHONPATH}
    both = [
        subprocess.Popen(command, cwd=place.root, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(2)
    ]
    for process in both:
        process.communicate()
    assert 0 in {process.returncode for process in both} <= {0, 2}
    did = place.did()
    assert [did.count(name) for name in ("opens", "confirmed", "last")] == [1, 1, 1]


def test_a_run_that_ended_after_it_was_looked_at_does_not_go_on(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever was at work on it had resumed it before the look, and ends it before this process has the lease."""
    place.die("opens before")
    (place.root / "die").write_text("confirmed before")
    assert place("resume").code == -signal.SIGKILL
    (run,), take = place.journal.runs(), Lease.take

    def late(lease: Lease) -> int:
        monkeypatch.setattr(Lease, "take", take)
        assert place("resume").code == 0
        return lease.take()

    def stale(directory: Project, wanted: str) -> RunHistory:
        found = one(place.journal, run)
        assert found is not None
        monkeypatch.setattr(Lease, "take", late)
        return replace(found, about={**found.about, "number": 2})

    monkeypatch.setattr(resume, "wanted", stale)
    assert main(["resume", "-C", str(place.root)]) == 2
    assert f"run {run} has ended (passed)" in capsys.readouterr().err
    assert [place.did().count(name) for name in ("opens", "confirmed", "last")] == [1, 1, 1]


def test_the_logs_of_attempts_before_the_kill_are_kept(place: Place) -> None:
    text = DELIVERY.replace(
        "        did(work, work.name)\n", '        did(work, work.name)\n        work.say(f"attempt {work.attempt}")\n'
    )
    (place.root / "delivery.py").write_text(text)
    place.die("pure after")
    assert place("resume").code == 0
    assert place("logs", "pure").out.count("attempt ") == 2


def test_a_lease_that_cannot_be_had_is_refused_and_leaves_the_other_alone(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    lease = Lease(journal, tmp_path, "r")
    lease.take()
    with pytest.raises(ConfigError, match="run r is going on"):
        Lease(journal, tmp_path, "r").take()
    lease.end()
    another = Lease(journal, tmp_path, "r")
    assert another.take() == 0
    another.end()


def test_who_looked_at_a_run_before_another_resumed_and_ended_it_does_not_go_on_with_it(tmp_path: Path) -> None:
    other, journal = Journal(tmp_path / "journal.db"), Journal(tmp_path / "journal.db")
    other.append(Event(run="r", kind="run.resumed", data={"number": 1}), Event(run="r", kind="run.finished", data={"exit": 0}))
    lease = Lease(journal, tmp_path, "r", 0)
    lease.take()
    with pytest.raises(JournalError, match="run r goes on elsewhere"):
        journal.append(Event(run="r", kind="run.resumed", data={"number": 1}))
    lease.end()
    other.close()
    journal.close()


@pytest.mark.parametrize(
    ("stage", "where"), [("mails", "confirmed before"), ("finds", "confirmed before"), ("opens", "last before")]
)
def test_what_took_place_is_not_done_again_as_another_run_failed_to_do_it_meanwhile(place: Place, stage: str, where: str) -> None:
    place.die(where)
    (run,) = place.journal.runs()
    (place.root / "refuses").write_text(stage)
    assert place("run").code == 1
    (place.root / "refuses").unlink()
    before = place.did().count(stage)
    assert place("resume", run).code == 0
    assert place.did().count(stage) == before == 1
