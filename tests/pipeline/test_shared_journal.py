"""Runs of several runners with one journal in PostgreSQL: each has a state directory of its own, and results are shared."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import anyio
import anyio.to_thread
import pytest

from pipeline import Effect, Event, Journal, Pipeline, Project, Stage, Store, Work, digest
from pipeline.engines.local import free_port
from pipeline.errors import Exit, JournalError
from pipeline.history import fold
from pipeline.journal_server import JournalServer
from pipeline.run import Outcome
from pipeline.settings import Settings
from tests import warm
from tests.pipeline.test_effects import Mails, Opens
from tests.pipeline.toys import Constant, Half, Number
from tests.postgres import Server
from tests.running import run_pipeline

TOP = Path(__file__).parents[2]


@dataclass
class Runner:
    """A machine with a checkout of the project: what it deploys to, `sent`, is the same for all."""

    root: Path
    home: Path
    rows: JournalServer
    journal: Journal = field(init=False)

    def __post_init__(self) -> None:
        self.home.mkdir()
        self.journal = Journal(self.rows)

    def run(self, pipeline: Pipeline, *, store: str = "store") -> Outcome:
        project = Project(root=self.root, home=self.home, settings=Settings())
        return run_pipeline(pipeline, project, Store(self.root / store), self.journal)[0]

    def run_in_thread(self, pipeline: Pipeline) -> threading.Thread:
        """As another machine would, while this one goes on."""
        thread = threading.Thread(target=self.run, args=(pipeline,))
        thread.start()
        return thread

    def kinds(self, stage: str) -> list[str]:
        return [event.kind for event in self.journal.events(stage=stage) if event.kind.startswith(("effect.", "undo."))]


@pytest.fixture
def runners(tmp_path: Path, postgres: Server) -> Iterator[tuple[Runner, Runner]]:
    with contextlib.ExitStack() as stack:
        made = [Runner(tmp_path, tmp_path / name, JournalServer(postgres.address, str(tmp_path))) for name in ("one", "other")]
        for runner in made:
            stack.callback(runner.journal.close)
        yield made[0], made[1]


@pytest.fixture
def sent(tmp_path: Path) -> Path:
    return tmp_path / "sent"


ASKED = threading.Event()
"""That the effect of `Takes` goes on; set by each test that uses it."""


class Takes(Stage[Number]):
    """An effect that takes its time."""

    effect: ClassVar[Effect] = Effect.ONCE

    value: int
    waits: bool = False

    async def run(self, work: Work) -> Number:
        with (work.project.root / "sent").open("a") as file:
            file.write(f"{self.value} begins\n")
            file.flush()
            if self.waits:
                ASKED.wait(60)
            file.write(f"{self.value} ends\n")
        return Number(value=self.value)


def test_runners_have_their_effects_one_after_the_other(runners: tuple[Runner, Runner], sent: Path) -> None:
    ASKED.clear()
    one, other = runners
    first = one.run_in_thread(Pipeline("thing", send=Takes(value=1, waits=True)))
    while not sent.exists():
        assert first.is_alive()
    second = other.run_in_thread(Pipeline("thing", send=Takes(value=2)))
    while not any("another run has side effects" in note.read_text() for note in other.home.rglob("*.note.*")):
        assert second.is_alive()
    ASKED.set()
    first.join()
    second.join()
    assert sent.read_text().splitlines() == ["1 begins", "1 ends", "2 begins", "2 ends"]
    assert one.kinds("send") == ["effect.intended", "effect.waits", "effect.done", "effect.intended", "effect.done"]
    assert [event.data["exit"] for event in other.journal.events(kind="run.finished")] == [Exit.PASSED] * 2


def test_what_one_runner_sent_and_was_killed_over_is_not_sent_by_another(runners: tuple[Runner, Runner], sent: Path) -> None:
    one, other = runners
    die(one, Pipeline("thing", send=Mails(of=Constant(value=1))))
    outcome = other.run(Pipeline("thing", send=Mails(of=Constant(value=1))))
    assert (outcome.exit, sent.read_text()) == (Exit.FAILED, "1\n")
    assert "nobody knows whether send took place" in outcome.failed["send"]


def test_what_another_machine_left_open_and_cannot_be_taken_back_without_its_results_is_said_to_be_so(
    runners: tuple[Runner, Runner], sent: Path
) -> None:
    one, other = runners
    die(one, Pipeline("thing", send=Opens(of=Constant(value=1))))
    outcome = other.run(Pipeline("thing", send=Opens(of=Constant(value=2))), store="another")
    assert (outcome.exit, sent.read_text()) == (Exit.UNUSABLE, "1\n")
    assert "its result of constant is lost" in outcome.failed["send"]
    assert "python -m pipeline run send --again send" in outcome.failed["send"]
    assert other.run(Pipeline("thing", send=Opens(of=Constant(value=2)))).exit is Exit.PASSED
    assert sent.read_text() == "1\ntook back 1, interrupted\n2\n"


def die(runner: Runner, pipeline: Pipeline) -> None:
    """Run in a process that is killed inside an effect."""
    deadly = runner.root / "deadly"
    deadly.touch()
    child = os.fork()
    if child == 0:
        try:
            runner.run(pipeline)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    deadly.unlink()


def interrupted(meanwhile: Callable[[], None]) -> Pipeline:
    """An effect that can be taken back, something that happens while it is open, and two more effects after that."""

    class Meanwhile(Half):
        async def run(self, work: Work) -> Number:
            await anyio.to_thread.run_sync(meanwhile)
            return await super().run(work)

    first = Opens(of=Constant(value=4))
    after = Meanwhile(of=first)
    return Pipeline("thing", first=first, next=Mails(of=after), last=Mails(of=after))


def test_a_run_whose_server_is_killed_ends_takes_back_what_is_open_and_what_it_recorded_is_there_later(
    runners: tuple[Runner, Runner], postgres: Server, sent: Path
) -> None:
    one, other = runners
    try:
        with pytest.raises(JournalError, match=r"the server does not answer|was lost, and another run may") as caught:
            one.run(interrupted(postgres.kill))
    finally:
        postgres.start()
    assert (caught.value.exit, sent.read_text().partition(",")[0].split()) == (Exit.UNUSABLE, ["4", "took", "back", "4"])
    assert other.kinds("first") == ["effect.intended", "effect.done"]
    assert (other.kinds("next"), other.kinds("last")) == ([], [])
    (history,) = fold(other.journal.events()).values()
    assert (history.state, sorted(history.stages)) == ("unfinished", ["constant", "first", "last", "meanwhile", "next"])
    other.run(Pipeline("thing", first=Opens(of=Constant(value=4))))  # it finds it open, and takes it back at least once
    assert (sent.read_text().count("took back 4"), sent.read_text().splitlines()[-1]) == (2, "4")


def test_a_run_without_effects_whose_server_is_killed_says_that_it_does_not_answer(
    runners: tuple[Runner, Runner], postgres: Server
) -> None:
    class Kills(Constant):
        async def run(self, work: Work) -> Number:
            await anyio.to_thread.run_sync(postgres.kill)
            return await super().run(work)

    try:
        with pytest.raises(JournalError, match="the server does not answer"):
            runners[0].run(Pipeline("thing", it=Kills(value=1)))
    finally:
        postgres.start()


def test_a_stage_that_fails_for_want_of_the_journal_is_no_verdict(runners: tuple[Runner, Runner]) -> None:
    class Records(Constant):
        async def run(self, work: Work) -> Number:
            raise JournalError("the server does not answer")  # and answers again when that is to be journalled

    assert runners[0].run(Pipeline("thing", it=Records(value=1))).exit is Exit.UNUSABLE


def test_a_run_that_loses_the_lock_begins_no_other_effect_and_takes_back_what_is_open(
    runners: tuple[Runner, Runner], postgres: Server, sent: Path
) -> None:
    one, other = runners
    with pytest.raises(JournalError, match="another run may have begun some") as caught:
        one.run(interrupted(postgres.end_sessions))
    assert "before that" not in str(caught.value)  # the others failed of the same
    assert sent.read_text() == "4\ntook back 4, interrupted\n"
    assert other.kinds("first") == ["effect.intended", "effect.done", "undo.intended", "undo.done"]
    assert (other.kinds("next"), other.kinds("last")) == ([], [])
    assert other.rows.effects_lock().try_take()


def test_what_a_run_has_open_is_left_to_the_one_that_took_the_lock_it_lost(
    runners: tuple[Runner, Runner], postgres: Server, sent: Path
) -> None:
    one, other = runners

    def overtaken() -> None:
        postgres.end_sessions()
        assert other.rows.effects_lock().try_take()

    with pytest.raises(JournalError, match="another run may have begun some"):
        one.run(interrupted(overtaken))
    assert sent.read_text() == "4\n"
    other.rows.effects_lock().give_back()
    other.run(Pipeline("thing", first=Opens(of=Constant(value=5))))
    assert sent.read_text() == "4\ntook back 4, interrupted\n5\n"


def test_what_another_run_took_back_after_the_lock_was_lost_is_not_taken_back_again(
    runners: tuple[Runner, Runner], postgres: Server, sent: Path
) -> None:
    one, other = runners

    def overtaken() -> None:
        postgres.end_sessions()
        other.run_in_thread(Pipeline("thing", first=Opens(of=Constant(value=5)))).join()

    with pytest.raises(JournalError, match="another run may have begun some"):
        one.run(interrupted(overtaken))
    assert sent.read_text() == "4\ntook back 4, interrupted\n5\n"


DELIVERY = """
from pipeline import Pipeline
from tests.pipeline.toys import Constant, Sends
from pathlib import Path
pipeline = Pipeline("NAME", send=Sends(of=Constant(value=1), file=Path(__file__).with_name("sent")))
"""


@dataclass
class Place:
    """A checkout on which command lines are run."""

    root: Path
    name: str
    address: str

    def __call__(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return warm.run(["-m", "pipeline", *words], cwd=self.root, env={**os.environ, "PYTHONPATH": str(TOP), **env})


@pytest.fixture
def place(tmp_path: Path, postgres: Server) -> Place:
    name = f"thing-{digest.of_text(str(tmp_path))[:20]}"
    (tmp_path / "delivery.py").write_text(DELIVERY.replace("NAME", name))
    (tmp_path / "pyproject.toml").write_text(f'[tool.pipeline]\nengine = "host"\njournal = "{postgres.address}"\n')
    return Place(tmp_path, name, postgres.address)


def test_the_command_line_reads_what_another_machine_wrote(place: Place) -> None:
    done = place("run")
    assert (done.returncode, (place.root / "sent").read_text()) == (0, "sent\n"), done.stderr
    assert not list((place.root / ".pipeline").glob("journal.db*"))
    runs = place("runs", "--output", "json", PIPELINE_HOME=str(place.root / "other"))
    (run,) = map(json.loads, runs.stdout.splitlines())
    assert (run["state"], run["stages"]) == ("passed", {"constant": "passed", "send": "passed"})
    report = json.loads(place("report", "--output", "json").stdout)
    assert report["about"]["host"] == os.uname().nodename


def test_the_command_line_says_on_which_machine_the_logs_are(place: Place) -> None:
    with contextlib.closing(Journal(JournalServer(place.address, place.name))) as journal:
        about = {"pipeline": "thing", "engine": "host", "host": "build-7"}
        journal.append(Event(run="r", kind="run.started", data=about), Event(run="r", kind="run.finished", data={"exit": 0}))
    done = place("logs")
    assert (done.returncode, done.stdout) == (0, "run r was on build-7: what its stages printed is there\n")
    assert "Machine `build-7`." in place("report").stdout


def test_the_environment_names_the_journal_before_the_configuration_does(place: Place) -> None:
    done = place("run", PIPELINE_JOURNAL=f"postgresql://nobody@127.0.0.1:{free_port()}/none")
    assert done.returncode == Exit.UNUSABLE
    assert "nobody@127.0.0.1" in done.stderr
    assert "the server does not answer" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (place.root / "sent").exists()


def test_a_password_in_the_configuration_is_refused_and_not_shown(place: Place) -> None:
    file = place.root / "pyproject.toml"
    file.write_text(file.read_text().replace("//postgres@", "//postgres:geheim@"))
    for command in ("run", "runs"):
        done = place(command)
        assert done.returncode == Exit.UNUSABLE
        assert "the address of the journal has a password in it" in done.stderr
        assert "geheim" not in done.stdout + done.stderr


def test_a_run_with_nothing_to_do_is_told_whole_in_a_journal_that_does_not_know_the_one_before(place: Place) -> None:
    (place.root / "delivery.py").write_text(
        "from pipeline import Pipeline\nfrom tests.pipeline.toys import Constant\n"
        f"pipeline = Pipeline('{place.name}', it=Constant(value=1))\n"
    )
    file = place.root / "pyproject.toml"
    shared = file.read_text()
    file.write_text('[tool.pipeline]\nengine = "host"\n')
    assert [place("run").returncode for _ in range(2)] == [0, 0]
    file.write_text(shared)
    assert place("run").returncode == 0
    (run,) = map(json.loads, place("runs", "--output", "json").stdout.splitlines())
    assert run["stages"] == {"it": "cached"}
