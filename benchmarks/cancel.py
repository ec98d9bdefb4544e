"""Runs that are asked to stop at instants drawn by chance: whether they end in time, and what they leave behind.

A run has a side effect that can be taken back, then actions of every kind that is hard to end, and a stage that cleans up.
Each run has a directory of its own for all that is temporary. Its name is in the environment of everything the run starts, or
on its command line, so that what outlives the run is found among all processes of the machine; so are those in containers of a
Dagger engine on this machine, with which the same is done where there is one.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.figure import ROOT, Figure, python
from pipeline.engines.choose import RUNNER, answers, local_engine
from pipeline.history import RunHistory, one
from pipeline.journal import Journal

DELIVERY = '''
from pathlib import Path
from typing import Any, ClassVar

from pipeline import Action, Effect, Pipeline, Result, Service, Stage, Work

HERE = Path(__file__).parent

CHILDREN = "sleep 300 & (sleep 300; true) & sh -c 'sleep 300; true' & wait"

DEAF = """
import signal, subprocess, sys, time
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
time.sleep(300)
"""

ESCAPES = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
        time.sleep(300)
    os._exit(0)
os.wait()
time.sleep(300)
"""

SERVER = """
import os, signal, socket, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with socket.create_server((os.environ["HOST"], int(os.environ["PORT"]))) as server:
    while True:
        server.accept()[0].close()
"""


def did(what: str) -> None:
    with (HERE / "did").open("a") as file:
        file.write(what + "\\n")


class Number(Result):
    value: int


class Given(Stage[Number]):
    async def run(self, work: Work) -> Number:
        return Number(value=1)


class Opens(Stage[Number]):
    effect: ClassVar[Effect] = Effect.RETRYABLE

    of: Stage[Number]

    async def run(self, work: Work) -> Number:
        did("opened")
        return Number(value=1)

    async def undo(self, work: Work, result: Any) -> None:
        did("took back")


class Runs(Stage[Number]):
    of: Stage[Number]
    argv: tuple[str, ...]
    served: bool = False

    async def run(self, work: Work) -> Number:
        marked = {"MARK": str(HERE)}
        server = Service(name="db", argv=("python", "-c", SERVER), port=5000, env=marked)
        action = Action(argv=self.argv, env=marked, services=(server,) if self.served else ())
        return Number(value=(await work.execute(action)).exit_code)


class Tidies(Runs):
    effect: ClassVar[Effect] = Effect.RETRYABLE

    async def run(self, work: Work) -> Number:
        found = await super().run(work)
        did("tidied")
        return found


given = Given()
opens = Opens(of=given)
shell = Runs(of=opens, argv=("sh", "-c", CHILDREN))
deaf = Runs(of=opens, argv=("python", "-c", DEAF))
escapes = Runs(of=opens, argv=("python", "-c", ESCAPES))
served = Runs(of=opens, argv=("sleep", "300"), served=True)
tidies = Tidies(of=given, argv=("true",), after=(shell, deaf, escapes, served), always=True)
pipeline = Pipeline(
    "cancel", given=given, opens=opens, shell=shell, deaf=deaf, escapes=escapes, served=served, tidies=tidies
)
'''

LIMIT = 7.0
"""Seconds in which a run that was asked to stop has ended."""

BEGINS = {"host": 2.0, "dagger": 4.0}
"""Seconds after its first effect in which all that a run starts is running; the instants are drawn from them."""

EARLY = 0.25
"""How many of the instants are drawn from the seconds after the program itself began."""


@dataclass(frozen=True)
class Found:
    """What came of one run: `begun` whether the journal knows of it, `wrong` what was not as it should be."""

    seconds: float
    begun: bool
    orphans: int
    wrong: tuple[str, ...]


def measure(*, times: int = 100) -> Iterator[Figure]:
    yield from of("host", times)
    if not answers(local_engine()):
        yield Figure(
            "cancellations on dagger", 0, "", detail=f"not measured: no engine of this machine listens on {local_engine()}"
        )
    elif os.geteuid() != 0:
        yield Figure("cancellations on dagger", 0, "", detail="not measured: only root sees what runs in containers")
    else:
        yield from of("dagger", times)


def of(engine: str, times: int) -> Iterator[Figure]:
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(partial(cancelled, engine), range(times)))
    clean = sum(not one.wrong and one.seconds <= LIMIT for one in found)
    wrong = "; ".join(f"{number}: {', '.join(one.wrong)}" for number, one in enumerate(found) if one.wrong)
    about = f"SIGINT or SIGTERM, {sum(one.begun for one in found)} after the run had begun"
    what = f"cancellations on {engine}"
    yield Figure(f"{times} {what}, at instants by chance: clean", clean, "", times, least=True, detail=wrong or about)
    yield Figure(f"{what}: the slowest", max(one.seconds for one in found), "s", LIMIT)
    yield Figure(f"{what}: processes that outlive their run", sum(one.orphans for one in found), "", 0)


def cancelled(engine: str, seed: int) -> Found:
    """Start a run, ask it to stop, and look at what is left."""
    chance = random.Random(seed)
    environment = {name: value for name, value in os.environ.items() if name != RUNNER}  # what runs elsewhere is not seen
    with tempfile.TemporaryDirectory(prefix="lockgate-bench-") as place:
        root = Path(place)
        (root / "delivery.py").write_text(DELIVERY)
        (root / "pyproject.toml").write_text(f'[tool.pipeline]\nengine = "{engine}"\njobs = 4\n')
        (root / "tmp").mkdir()
        with (root / "said").open("wb") as said:
            process = subprocess.Popen(
                ["env", "--default-signal=INT", *python("-m", "pipeline", "run")],  # in a shell's background it would be deaf
                cwd=root,
                env={**environment, "PYTHONPATH": str(ROOT), "TMPDIR": str(root / "tmp")},
                stdout=said,
                stderr=said,
            )
            try:
                early = chance.random() < EARLY
                while process.poll() is None and not (listens(process.pid) if early else (root / "did").exists()):
                    time.sleep(0.001)
                time.sleep(chance.uniform(0, BEGINS[engine]))
                asked = time.monotonic()
                process.send_signal(chance.choice((signal.SIGINT, signal.SIGTERM)))
                process.wait(10 * LIMIT)
            finally:
                process.kill()
            took = time.monotonic() - asked
        orphans = processes_of(root)
        for pid in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        run = recorded(root)
        return Found(took, run is not None, len(orphans), tuple(misses(root, process.returncode, orphans, run)))


def listens(pid: int) -> bool:
    """Whether the program is in charge of what a signal does: while the interpreter starts, nobody is."""
    wanted = 1 << (signal.SIGTERM - 1) | 1 << (signal.SIGINT - 1)
    with open(f"/proc/{pid}/status") as status:
        caught = next(line for line in status if line.startswith("SigCgt:"))
    return int(caught.split()[1], 16) & wanted == wanted


def processes_of(root: Path) -> list[int]:
    """The processes with the directory in their environment or on their command line."""
    mark, found = str(root).encode(), []
    for place in Path("/proc").iterdir():
        if place.name.isdigit() and int(place.name) != os.getpid():
            with contextlib.suppress(OSError):  # it has ended
                if any(mark in (place / name).read_bytes() for name in ("environ", "cmdline")):
                    found.append(int(place.name))
    return found


def recorded(root: Path) -> RunHistory | None:
    """What the journal says of the run; None where it had not begun."""
    path = root / ".pipeline" / "journal.db"
    if not path.exists():
        return None
    with closing(Journal(path)) as journal:
        return one(journal, "")


def misses(root: Path, code: int, orphans: list[int], run: RunHistory | None) -> Iterator[str]:
    """What is not as it should be after a cancellation, in words."""
    lines = (root / "did").read_text().splitlines() if (root / "did").exists() else []
    left = sorted(path.name for path in (root / "tmp").iterdir())
    if code != 130:
        yield f"exit code {code}: {(root / 'said').read_text()[-200:]}"
    if orphans:
        yield f"{len(orphans)} processes left"
    if left:
        yield f"{' '.join(left)} left"
    if lines.count("opened") != lines.count("took back"):
        yield "the effect was not taken back"
    if run is not None and run.state != "interrupted":
        yield f"recorded as {run.state}"
    there = run is not None and "given" in run.stages and run.stages["given"].state == "passed"
    if lines.count("tidied") != int(there):
        yield "it was not cleaned up" if there else "there was nothing to clean up"
