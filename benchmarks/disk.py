"""Disks that are full, read-only or broken, at every single write of the state directory: what is lost, wrong or unclear.

A command is run once to count the calls with which it writes there (as `faulty_disk.c` counts them), and then once for each of
them and each kind of fault. Then the disk is as good as ever, and the project is looked at, verified and brought to its end.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Self

from benchmarks.figure import ROOT, Figure, python
from pipeline.journal import Journal

SOURCE = Path(__file__).with_name("faulty_disk.c")

DELIVERY = '''
from pathlib import Path
from typing import Any, ClassVar

from pipeline import Action, Blob, Effect, Pipeline, Result, Stage, Tree, Work
from stages.source import WorkingCopy

HERE = Path(__file__).parent


class Number(Result):
    value: int


class Words(Result):
    """As long as a result has to be to become a file."""

    words: tuple[str, ...]


def did(what: str) -> None:
    with (HERE / "did").open("a") as file:
        file.write(what + "\\n")


class Listed(Stage[Tree]):
    """A tree with a large file, an executable and a link."""

    of: Stage[Tree]

    async def run(self, work: Work) -> Tree:
        number = work.store.read(work.store.file(work[self.of], "n"))
        place = work.state("listed")
        (place / "bin").mkdir(exist_ok=True)
        (place / "large").write_bytes(number * 1_500_000)
        (place / "bin" / "program").write_text("#!/bin/sh\\necho done\\n")
        (place / "bin" / "program").chmod(0o755)
        (place / "link").unlink(missing_ok=True)
        (place / "link").symlink_to("large")
        return work.store.put_tree(place)


class Counted(Stage[Blob]):
    """An action with an input, a tool, a log and a stored output."""

    of: Stage[Tree]

    async def run(self, work: Work) -> Blob:
        command = "tool/bin/program && wc -c <src/large >out && echo counted"
        tree = work[self.of]
        action = Action(argv=("sh", "-c", command), inputs={"src": tree}, tools={"tool": tree}, outputs=("out",))
        done = await work.execute(action)
        assert done.exit_code == 0, done.tail
        work.say("it was counted")
        found = done.outputs["out"].content
        assert isinstance(found, Blob)
        return found


class Spelt(Stage[Words]):
    of: Stage[Blob]

    async def run(self, work: Work) -> Words:
        return Words(words=tuple(f"{number:050}" for number in range(int(work.store.read(work[self.of])) // 1000)))


class Does(Stage[Number]):
    """Leaves a line."""

    of: Stage[Any]

    async def run(self, work: Work) -> Number:
        did(work.name)
        return Number(value=len(work[self.of].words) if isinstance(work[self.of], Words) else work[self.of].value + 1)


class Sends(Does):
    """Nobody can find out whether it was done."""

    effect: ClassVar[Effect] = Effect.ONCE


class Finds(Sends):
    async def recover(self, work: Work) -> Number | None:
        there = (HERE / "did").exists() and work.name in (HERE / "did").read_text().splitlines()
        return Number(value=work[self.of].value + 1) if there else None


class Opens(Sends):
    async def undo(self, work: Work, result: Any) -> None:
        did("took back " + work.name)


class Confirms(Does):
    confirms: ClassVar[bool] = True


source = WorkingCopy(include=("n",))
listed = Listed(of=source)
counted = Counted(of=listed)
spelt = Spelt(of=counted)
sends = Sends(of=spelt)
finds = Finds(of=sends)
opens = Opens(of=finds)
confirms = Confirms(of=opens)
pipeline = Pipeline(
    "disk",
    source=source,
    listed=listed,
    counted=counted,
    spelt=spelt,
    sends=sends,
    finds=finds,
    opens=opens,
    confirms=confirms,
)
'''

ONCE = ("sends", "finds", "opens")

CLEAR = re.compile(
    r"does not read or write|disk is full|[Rr]ead-only|readonly|Input/output error|disk I/O error|unable to open|No space left"
)
"""What is said of a fault."""


NOTHING = re.compile(r"has ended \(passed\)|there is no|cannot go on")
"""What is said where there is no run to go on with."""


@dataclass(frozen=True)
class Fault:
    """What the call fails with, and whether all calls after it do."""

    name: str
    error: int
    stays: bool


FAULTS = (
    Fault("full", errno.ENOSPC, True),
    Fault("full once", errno.ENOSPC, False),
    Fault("read-only", errno.EROFS, True),
    Fault("broken once", errno.EIO, False),
    Fault("broken", errno.EIO, True),
)


CUT = FAULTS[-1]


@dataclass(frozen=True)
class Scenario:
    """The command whose writes fail, after commands that went well."""

    name: str
    words: tuple[str, ...]
    before: tuple[tuple[str, ...], ...] = ()
    changed: bool = False
    """Whether the project's files changed after the commands before."""
    cut: int = 0
    """Of a run after that, the write from which on the disk is broken, until the run has ended; 0: there is no such run."""

    @property
    def runs(self) -> bool:
        return self.words[0] in ("run", "resume")


PURE = ("source", "listed", "counted", "spelt")

SCENARIOS = (
    Scenario("a first run", ("run", "--output", "json")),
    Scenario("a run after a change", ("run",), before=(("run",),), changed=True),
    Scenario("a run in which all is cached", ("run", *PURE), before=(("run", *PURE),)),
    Scenario("the same once more", ("run", *PURE), before=(("run", *PURE), ("run", *PURE))),
    Scenario("a plan", ("plan",), before=(("run", *PURE),), changed=True),
    Scenario("a store that is verified", ("cache", "verify"), before=(("run",),)),
    Scenario("a store that is pruned", ("cache", "prune", "--size", "1"), before=(("run", *PURE),)),
    Scenario("a run that goes on", ("resume",), cut=215),
)


@dataclass
class Found:
    """What came of one fault. Lists hold what was said of what is not as it should be."""

    code: int | None = 0
    asked: bool = False
    unclear: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


class Commands:
    """Runs commands one at a time in forks of one process."""

    def __init__(self, library: Path, place: Path) -> None:
        self._out, self._err = place / "out", place / "err"
        env = {**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": str(ROOT)}
        command = python("-m", "benchmarks.command")
        self._process = subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def __call__(self, root: Path, *words: str, fault: Fault | None = None, number: int = 0) -> Said:
        """What a command said; the call of that number fails (0: none)."""
        error, stays = (fault.error, fault.stays) if fault else (0, False)
        about = {"below": str(root / ".pipeline"), "number": number, "error": error, "stays": stays}
        order = {"root": str(root), "words": words, "out": str(self._out), "err": str(self._err), **about}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return Said(answer["code"], self._out.read_text(errors="replace"), self._err.read_text(errors="replace"), answer["calls"])


@dataclass(frozen=True)
class Said:
    """How a command ended (None: it hung), what it printed, and how many calls wrote below the state directory."""

    code: int | None
    out: str
    err: str
    calls: int

    @property
    def all(self) -> str:
        return self.out + self.err


def measure() -> Iterator[Figure]:
    if shutil.which("cc") is None:
        yield Figure("faults of the disk: none tried, there is no C compiler (cc)", 0, "")
        return
    for scenario in SCENARIOS:
        calls, found = every(scenario)
        name, said = f"faults of the disk, {scenario.name}", Counter(one.code for one in found)
        codes = ", ".join(f"{said[code]} end with {code}" for code in sorted(said, key=str))
        detail = f"{calls} writes x {len(FAULTS)} faults; {codes}; in {sum(one.asked for one in found)} people are asked"
        yield Figure(f"{name}: not told clearly", sum(bool(one.unclear) for one in found), "", 0, detail=detail)
        yield Figure(f"{name}: durable events that are lost", sum(bool(one.lost) for one in found), "", 0)
        yield Figure(f"{name}: wrong results", sum(bool(one.wrong) for one in found), "", 0)
        yield Figure(f"{name}: effects that must not be repeated and were", sum(bool(one.twice) for one in found), "", 0)
        yield Figure(f"{name}: state that cannot be used afterwards", sum(bool(one.unreadable) for one in found), "", 0)


def every(scenario: Scenario, *, faults: Iterable[Fault] = FAULTS, step: int = 1) -> tuple[int, list[Found]]:
    """How many writes there are, and what came of a fault at each `step`-th of them."""
    with tempfile.TemporaryDirectory(prefix="lockgate-bench-") as name:
        place = Path(name).resolve()
        library = compiled(place)
        tries = SimpleQueue[Bench]()
        with opened(library, place / "one") as one, opened(library, place / "other") as other:
            for bench in (one, other):
                bench.prepare(scenario)
                tries.put(bench)
            calls = one.count(scenario)
            cases = [(fault, number) for fault in faults for number in range(1, calls + 1, step)]

            def tried(case: tuple[Fault, int]) -> Found:
                bench = tries.get()
                try:
                    return bench.tried(scenario, *case)
                finally:
                    tries.put(bench)

            with ThreadPoolExecutor(2) as threads:
                return calls, list(threads.map(tried, cases))


def compiled(place: Path) -> Path:
    """The library that makes the disk fail."""
    library = place / "faulty_disk.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE], check=True)
    return library


@contextmanager
def opened(library: Path, place: Path) -> Iterator[Bench]:
    place.mkdir()
    with Commands(library, place) as commands:
        yield Bench(commands, place)


class Bench:
    """A project that is laid anew for each fault."""

    def __init__(self, commands: Commands, place: Path) -> None:
        self._commands, self.prepared, self._root = commands, place / "prepared", place / "project"

    def prepare(self, scenario: Scenario) -> None:
        """Lay the project as it is before the command, and find out what its results are."""
        lay(self._root)
        for words in scenario.before:
            self._well(*words)
        if scenario.changed:
            (self._root / "n").write_text("2")
        if scenario.cut and self._commands(self._root, "run", fault=CUT, number=scenario.cut).code != 2:
            raise RuntimeError("the run was not cut off")
        shutil.move(self._root, self.prepared)
        self._again()
        self._well(*scenario.words)
        self._well("run")
        self.results = results(self._root)

    def count(self, scenario: Scenario) -> int:
        self._again()
        return self._well(*scenario.words).calls

    def _well(self, *words: str) -> Said:
        said = self._commands(self._root, *words)
        if said.code != 0:
            raise RuntimeError(f"{' '.join(words)} ended with {said.code}: {said.all}")
        return said

    def _again(self) -> None:
        shutil.rmtree(self._root, ignore_errors=True)
        shutil.copytree(self.prepared, self._root, symlinks=True)

    def tried(self, scenario: Scenario, fault: Fault, number: int) -> Found:
        """Run the command with a fault, and look at what there is afterwards."""
        self._again()
        said = self._commands(self._root, *scenario.words, fault=fault, number=number)
        found = Found(code=said.code)
        about = f"{scenario.name}, {fault.name} at {number}: {said.code}"
        found.unclear = [f"{about}: {why}\n{said.all}" for why in unclear(said)]
        if scenario.words[-1] == "json":
            found.lost = [f"{about}: {what}" for what in self.lost(said)]
        for words in (("runs",), ("plan",), ("cache", "verify")):
            later = self._commands(self._root, *words)
            if later.code != 0 or "Traceback" in later.all:
                found.unreadable.append(f"{about}: then {' '.join(words)} ends with {later.code}\n{said.all}\n{later.all}")
        self._bring_to_its_end(found, about, scenario, said)
        lines = (self._root / "did").read_text().splitlines() if (self._root / "did").exists() else []
        times = Counter(lines)
        before = Counter((self.prepared / "did").read_text().splitlines()) if (self.prepared / "did").exists() else Counter[str]()
        most = {name: before[name] + 1 for name in ONCE}
        found.twice = [f"{about}: {lines}" for name in ONCE if times[name] - times[f"took back {name}"] > most[name]]
        return found

    def _bring_to_its_end(self, found: Found, about: str, scenario: Scenario, said: Said) -> None:
        """Resume, or run anew where there is nothing to go on with, until it passes or people are asked."""
        if said.code != 0 or not scenario.runs:
            later = self._commands(self._root, "resume")
            of_it = scenario.words[0] == "resume" or runs(self._root)[-1:] != runs(self.prepared)[-1:]
            passed = of_it and "has ended (passed)" in later.all  # and then the disk failed
            if later.code != 0 and not passed and NOTHING.search(later.all):
                later = self._commands(self._root, *(scenario.words if scenario.runs else ("run",)))
            found.asked = "nobody knows whether" in later.all
            if later.code != 0 and not passed and not found.asked:
                found.unreadable.append(f"{about}: it cannot be brought to its end\n{said.all}\n{later.all}")
        now = results(self._root)
        found.wrong = [f"{about}: {stage}" for stage, result in now.items() if result != self.results[stage]]
        if not now.keys() >= set(PURE):
            found.wrong.append(f"{about}: only {sorted(now)} have results")

    def lost(self, said: Said) -> Iterator[str]:
        """What was told, and is not in the journal."""
        told = [json.loads(line) for line in said.out.splitlines()]
        path = self._root / ".pipeline" / "journal.db"
        there: dict[int, tuple[str, str]] = {}
        if path.exists():
            with closing(Journal(path)) as journal:
                there = {event.seq: (event.kind, event.stage) for event in journal.events()}
        for event in told:
            if there.get(event["seq"]) != (event["kind"], event["stage"]):
                yield f"{event['seq']} {event['kind']} {event['stage']}"
        if said.code == 0 and (not told or told[-1]["kind"] != "run.finished"):
            yield "run.finished"


def unclear(said: Said) -> Iterator[str]:
    """What is wrong with how a command ended that met a fault."""
    if said.code is None:
        yield "it hung"
    if "Traceback" in said.all or "Exception ignored" in said.all or "internal error" in said.all:
        yield "a trace"
    if said.code not in (0, 2):
        yield f"exit code {said.code}"
    if said.code == 2 and not CLEAR.search(said.all):
        yield "what was wrong"
    if said.code == 2 and "next" not in said.all:
        yield "what next"


def lay(root: Path) -> None:
    root.mkdir()
    (root / "delivery.py").write_text(DELIVERY)
    (root / "pyproject.toml").write_text('[tool.pipeline]\nengine = "host"\n')
    (root / "n").write_text("1")
    subprocess.run(["git", "init", "-q", root], check=True)


def runs(root: Path) -> list[str]:
    """The ids of all runs, the oldest first."""
    with closing(Journal(root / ".pipeline" / "journal.db")) as journal:
        return journal.runs()


def results(root: Path) -> dict[str, str]:
    """The digest of the latest result of each stage."""
    with closing(Journal(root / ".pipeline" / "journal.db")) as journal:
        return {event.stage: event.data["result"] for event in journal.events(kind=("stage.finished", "stage.cached"))}
