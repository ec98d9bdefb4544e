"""Runs that are killed with SIGKILL, and then resumed until they pass or people are asked: what is done twice, lost or wrong.

A run has a stage of each of seven kinds, one after the other. It is killed when an event has become durable (of each stage, at
four points), or after a time that is drawn by chance. Every stage leaves a line when it does its work, so that it is known what
was done, and the process that is killed leaves the number of each event it was told is durable.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figure import ROOT, Figure, python, seconds
from pipeline.journal import Journal

DELIVERY = '''
import time
from pathlib import Path
from typing import Any, ClassVar

from pipeline import Effect, Pipeline, Result, Stage, Work

HERE = Path(__file__).parent


class Number(Result):
    value: int


class Given(Stage[Number]):
    value: int

    async def run(self, work: Work) -> Number:
        return Number(value=self.value)


def did(what: str) -> None:
    with (HERE / "did").open("a") as file:
        file.write(what + "\\n")


class Does(Stage[Number]):
    """Adds one, and leaves a line."""

    of: Stage[Number]

    async def run(self, work: Work) -> Number:
        time.sleep(0.003)
        did(work.name)
        time.sleep(0.003)
        return Number(value=work[self.of].value + 1)


class Repeats(Does):
    effect: ClassVar[Effect] = Effect.RETRYABLE


class Sends(Does):
    """Nobody can find out whether it was done."""

    effect: ClassVar[Effect] = Effect.ONCE


class Finds(Sends):
    async def recover(self, work: Work) -> Number | None:
        there = (HERE / "did").exists() and work.name in (HERE / "did").read_text().splitlines()
        return Number(value=work[self.of].value + 1) if there else None


class Opens(Finds):
    async def undo(self, work: Work, result: Any) -> None:
        did("took back " + work.name)


class Reopens(Opens):
    effect: ClassVar[Effect] = Effect.RETRYABLE


class Confirms(Does):
    confirms: ClassVar[bool] = True


given = Given(value=int((HERE / "n").read_text()))
pure = Does(of=given)
repeats = Repeats(of=pure)
finds = Finds(of=repeats)
sends = Sends(of=finds)
opens = Opens(of=sends)
reopens = Reopens(of=opens)
confirms = Confirms(of=reopens)
pipeline = Pipeline(
    "faults",
    given=given,
    pure=pure,
    repeats=repeats,
    finds=finds,
    sends=sends,
    opens=opens,
    reopens=reopens,
    confirms=confirms,
)
'''

KINDS = ("pure", "repeats", "finds", "sends", "opens", "reopens", "confirms")
ONCE = ("finds", "sends", "opens")
POINTS = ("stage.started", "effect.intended", "effect.done", "stage.finished")

INSTEAD = {
    ("pure", "effect.intended"): ("", "run.planned"),
    ("pure", "effect.done"): ("given", "stage.finished"),
    ("repeats", "effect.intended"): ("", "run.finished"),
    ("confirms", "effect.intended"): ("opens", "effect.stands"),
    ("confirms", "effect.done"): ("reopens", "effect.stands"),
}
"""Points that do not come of a stage: without an effect it intends and has done none, and of one that may be repeated nobody
asks whether it was begun. The run is killed at others instead."""


@dataclass(frozen=True)
class Case:
    """When a run is to be killed: when an event of a stage is durable, or, without a point, after up to so many seconds."""

    stage: str
    point: str
    seed: int
    within: float = 0.0


@dataclass(frozen=True)
class Found:
    """What came of one case."""

    killed: bool
    asked: bool
    twice: int
    lost: int
    wrong: int
    stuck: int


def measure(*, seeds: int = 10, instants: int = 200) -> Iterator[Figure]:
    points = [
        Case(*INSTEAD.get((stage, point), (stage, point)), seed) for stage in KINDS for point in POINTS for seed in range(seeds)
    ]
    within = whole()
    for name, cases in (
        (f"{len(KINDS)} kinds of stages x {len(POINTS)} points x {seeds} seeds", points),
        (f"{instants} instants by chance", [Case("", "", seed, within) for seed in range(instants)]),
    ):
        with ThreadPoolExecutor(2) as threads:
            found = list(threads.map(run, cases))
        killed, asked = sum(one.killed for one in found), sum(one.asked for one in found)
        detail = f"{killed} of {len(found)} runs were killed, in {asked} people are asked what became of an effect"
        yield Figure(
            f"killed runs, {name}: effects that must not be repeated and were",
            sum(one.twice for one in found),
            "",
            0,
            detail=detail,
        )
        if cases is points:
            yield Figure(f"killed runs, {name}: that were not killed", len(found) - killed, "", 0)
        yield Figure(f"killed runs, {name}: durable events that are lost", sum(one.lost for one in found), "", 0)
        yield Figure(f"killed runs, {name}: wrong results", sum(one.wrong for one in found), "", 0)
        yield Figure(f"killed runs, {name}: that could not be resumed", sum(one.stuck for one in found), "", 0)


def whole() -> float:
    """Seconds that a run takes of which nobody thinks ill."""
    with tempfile.TemporaryDirectory(prefix="lockgate-bench-") as place:
        lay(Path(place), 1)
        return seconds(python("-m", "benchmarks.killed", place, "", ""))


def lay(root: Path, value: int) -> None:
    (root / "delivery.py").write_text(DELIVERY)
    (root / "pyproject.toml").write_text('[tool.pipeline]\nengine = "host"\n')
    (root / "n").write_text(str(value))


def run(case: Case) -> Found:
    """Kill a run, resume it until it passes or people are asked, and look at what was done."""
    chance = random.Random(f"{case}")
    with tempfile.TemporaryDirectory(prefix="lockgate-bench-") as place:
        root = Path(place)
        value = chance.randrange(1000)
        lay(root, value)
        killed = kill(root, case, chance)
        asked, stuck, code = False, 0, 0
        for _ in range(3 if killed else 0):
            code, said = call(root, "resume")
            asked = "nobody knows whether" in said
            if code == 0 or asked:
                break
            if "has ended (passed)" in said:  # it was killed when all was done
                code = 0
                break
            if "there is no" in said:  # it was killed before it began
                code, said = call(root, "run")
                break
        stuck = int(code != 0 and not asked)
        return looked(root, value, killed=killed, asked=asked, stuck=stuck)


def kill(root: Path, case: Case, chance: random.Random) -> bool:
    """Whether the run was killed before it was done."""
    command = python("-m", "benchmarks.killed", str(root), case.stage, case.point)
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if not case.point:
        try:
            process.wait(timeout=chance.uniform(case.within / 3, case.within))
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait() == -signal.SIGKILL


def call(root: Path, *words: str) -> tuple[int, str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        python("-m", "pipeline", *words, "-C", str(root)), cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def looked(root: Path, value: int, *, killed: bool, asked: bool, stuck: int) -> Found:
    """What the lines that stages left and the journal say of each other."""
    lines = (root / "did").read_text().splitlines() if (root / "did").exists() else []
    times = Counter(lines)
    twice = sum(max(0, times[name] - times[f"took back {name}"] - 1) for name in ONCE)
    told = [int(line) for line in (root / "told").read_text().split()] if (root / "told").exists() else []
    lost = wrong = 0
    path = root / ".pipeline" / "journal.db"
    if path.exists():
        with closing(Journal(path)) as journal:
            events = list(journal.events())
        there = {event.seq for event in events}
        lost = len(set(told) - there) + (max(there, default=0) - len(there))
        expected = {name: str(value + number) for number, name in enumerate(("given", *KINDS))}
        results = {event.stage: event.data["result"] for event in events if event.kind == "stage.finished"}
        wrong = sum(results[name] != digest_of(int(expected[name])) for name in results)
    return Found(killed, asked, twice, lost, wrong, stuck)


def digest_of(value: int) -> str:
    from pipeline import digest

    return digest.of_bytes(json.dumps({"value": value}, separators=(",", ":")).encode())
