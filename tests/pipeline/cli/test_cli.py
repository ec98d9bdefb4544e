"""The command line: what it prints, and the exit codes, also for bad input."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import pty
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline import Event, Journal, Store
from pipeline.digest import of_bytes
from pipeline.record import read, save
from pipeline.session import in_use
from tests import warm
from tests.signals import heard

ROOT = Path(__file__).parents[3]
PYTHONPATH = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

PIPELINE = """
from pipeline import Pipeline
from tests.pipeline.toys import *
from gates import Check, QualityGate
from gates.verdict import failed, passed

def fine(number):
    return passed("fine", f"{number.value} is fine")

def small(number):
    if number.value > 100:
        return failed("small", f"{number.value} is large", "too large", wanted="at most 100")
    return passed("small", f"{number.value} is small")

source = FromFile(path="n")
half = Half(of=source)
make = Make(of=half)
check = Check(evidence=half, rule=small)
gate = QualityGate(artifact=make, checks=(check,))
pipeline = Pipeline("thing", source=source, half=half, make=make, check=check, gate=gate)
"""


@dataclass
class Place:
    """A project on which command lines are run in a process of their own."""

    root: Path

    def __call__(self, *words: str, env: dict[str, str] | None = None, prepare: Callable[[], None] | None = None) -> Done:
        whole = {**os.environ, "PYTHONPATH": PYTHONPATH, "COLUMNS": "120", **(env or {})}
        if prepare is None and not any(name.startswith(("LC_", "PYTHON")) for name in env or {}):
            warmed = warm.run(["-m", "pipeline", *words], cwd=self.root, env=whole)
            return Done(warmed.returncode, warmed.stdout, warmed.stderr)
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", *words],
            cwd=self.root,
            env=whole,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=120,
            check=False,
            preexec_fn=prepare,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(text)


@dataclass
class Done:
    code: int
    out: str
    err: str


@pytest.fixture
def place(tmp_path: Path) -> Place:
    found = Place(tmp_path / "project")
    found.root.mkdir()
    found.write("pyproject.toml", '[tool.pipeline]\nengine = "host"\n')
    found.write("delivery.py", PIPELINE)
    found.write("n", "8")
    return found


def test_help_names_every_command_with_examples_and_exit_codes(place: Place) -> None:
    done = place("--help")
    assert done.code == 0
    for word in (
        "run",
        "plan",
        "list",
        "graph",
        "explain",
        "runs",
        "logs",
        "report",
        "doctor",
        "init",
        "examples:",
        "exit codes:",
    ):
        assert word in done.out


@pytest.mark.parametrize("command", ["run", "plan", "list", "graph", "explain", "runs", "logs", "report", "doctor", "init"])
def test_each_command_has_help_with_an_example(place: Place, command: str) -> None:
    done = place(command, "--help")
    assert done.code == 0
    assert f"example: python -m pipeline {command}" in done.out


def test_a_run_shows_every_stage_and_the_verdict_with_its_evidence(place: Place) -> None:
    done = place("run")
    assert done.code == 0, done.err
    for stage in ("source", "half", "make", "check", "gate"):
        assert f"✓ {stage}" in done.out
    assert "✓ check: small: 4 is small [evidence " in done.out
    assert "passed in" in done.out


def test_what_is_to_be_called_next_can_be_called_as_it_stands(place: Place) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "run", "-C", str(place.root), "gaet"],
        env={**os.environ, "PYTHONPATH": PYTHONPATH}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    (command,) = [line.partition("next: ")[2] for line in done.stderr.splitlines() if "next: " in line]
    listed = subprocess.run(command, shell=True, env={**os.environ, "PYTHONPATH": PYTHONPATH}, capture_output=True, check=True)
    assert b"gate" in listed.stdout


def test_a_stage_that_is_another_one_s_twin_says_so(place: Place) -> None:
    twins = "from pipeline import Pipeline\nfrom tests.pipeline.toys import *\n"
    place.write(
        "delivery.py",
        twins
        + "one = FromFile(path='n')\npipeline = Pipeline('x', one=one, a=(a := Half(of=one)), b=Half(of=one, after=(a,)))\n",
    )
    done = place("run")
    assert (done.code, "cached: another stage of this run had the same to do" in done.out) == (0, True)


def test_a_pipeline_of_another_name_is_not_run_on_what_the_first_one_left(place: Place) -> None:
    assert place("run").code == 0
    place.write("delivery.py", PIPELINE.replace('Pipeline("thing"', 'Pipeline("other"'))
    done = place("run")
    assert (done.code, done.out) == (2, "")
    assert "here is the state of the pipeline 'thing', and this one is 'other'" in done.err


def test_a_second_run_executes_nothing(place: Place) -> None:
    place("run")
    done = place("run")
    assert "▶" not in done.out
    assert "5 cached" in done.out


def test_a_closed_gate_is_exit_code_1_with_what_would_have_passed_and_the_next_command(place: Place) -> None:
    place.write("n", "1000")
    done = place("run")
    assert done.code == 1
    assert "✗ check: small: 500 is large" in done.out
    assert "would have passed: at most 100" in done.out
    last = done.out.rstrip().splitlines()[-1]
    assert (last.startswith("gate failed: gate is closed: 500 is large; "), last.endswith("python -m pipeline logs gate")) == (
        True,
        True,
    )


def test_a_run_of_one_stage_runs_what_it_needs_and_no_more(place: Place) -> None:
    done = place("run", "half")
    assert done.code == 0
    assert "✓ half" in done.out
    assert "gate" not in done.out


def test_a_dry_run_shows_the_plan_and_does_nothing(place: Place) -> None:
    done = place("run", "--dry-run")
    assert "5 stages: 5 run, 0 cached, 0 skipped" in done.out
    assert place("runs").out == f"no runs yet in {place.root}/.pipeline; python -m pipeline run\n"


def test_a_plan_gives_a_reason_for_each_stage_as_text_and_as_json(place: Place) -> None:
    place("run")
    place.write("n", "9")
    assert "run      source  observed changed" in place("plan").out
    rows = [json.loads(line) for line in place("plan", "--output", "json").out.splitlines()]
    assert {row["stage"]: row["decision"] for row in rows}["source"] == "run"
    assert all(row["reason"] for row in rows)


def test_explain_names_what_changed(place: Place) -> None:
    place("run")
    place.write("n", "9")
    assert place("explain", "source").out.splitlines()[:2] == ["source: run, observed changed", "  observed"]
    found = json.loads(place("explain", "source", "--output", "json").out)
    assert [change["component"] for change in found["changes"]] == ["observed"]


def test_explain_of_an_unchanged_stage_shows_its_key(place: Place) -> None:
    place("run")
    done = place("explain", "half")
    assert "half: cached" in done.out
    assert "input of = " in done.out


def test_runs_logs_and_reports_are_there_after_a_run(place: Place) -> None:
    place("run")
    assert "5 passed" in place("runs").out
    assert "half: passed" in place("logs", "half").out
    assert place("report").out.startswith("# thing: passed")
    assert '<testcase classname="thing" name="half"' in place("report", "--format", "junit").out
    assert json.loads(place("report", "--format", "json").out)["exit"] == 0
    assert json.loads(place("report", "--format", "sarif").out)["version"] == "2.1.0"
    assert json.loads(place("runs", "--output", "json").out)["state"] == "passed"
    assert "no run's id begins with '2001'" in place("logs", "--run", "2001").err


def test_every_event_of_a_run_is_one_line_of_json(place: Place) -> None:
    rows = [json.loads(line) for line in place("run", "--output", "json").out.splitlines()]
    assert rows[0]["kind"] == "run.started"
    assert rows[-1]["kind"] == "run.finished"
    assert {row["stage"] for row in rows if row["kind"] == "stage.finished"} == {"source", "half", "make", "check", "gate"}


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("text", "  half <- source"),
        ("mermaid", "graph LR"),
        ("dot", 'digraph "thing"'),
        ("svg", "<svg xmlns"),
        ("json", '"inputs"'),
    ],
)
def test_a_graph_is_drawn_in_each_format(place: Place, form: str, words: str) -> None:
    assert words in place("graph", "--format", form).out


def test_list_shows_the_stages_in_order(place: Place) -> None:
    assert [line.split()[0] for line in place("list").out.splitlines()] == ["source", "half", "check", "make", "gate"]
    assert json.loads(place("list", "--output", "json").out.splitlines()[0])["type"] == "FromFile"


def test_colour_is_used_where_it_is_asked_for_and_nowhere_else(place: Place) -> None:
    assert "\x1b[" not in place("plan").out
    assert "\x1b[" in place("plan", "--color", "always").out


EMPTY = "from pipeline import Pipeline\npipeline = Pipeline('x')\n"
HIDES = "[tool.pipeline]\nfile = 'stages.py'\n"

NO_PYTHON = "[tool.pipeline]\nfile = 'delivery.txt'\n"
SMALL = "[tool.pipeline]\nengine = 'host'\nmemory = 1000\n"
LARGE = """
from pipeline import Pipeline, Resources
from tests.pipeline.toys import Constant
pipeline = Pipeline("x", one=Constant(value=1, resources=Resources(memory=2000)))
"""

BAD: dict[str, tuple[dict[str, str], list[str], int, str]] = {
    "broken TOML": ({"pyproject.toml": "[tool.pipeline\n"}, ["run"], 2, "is not valid TOML"),
    "an unknown key": ({"pyproject.toml": "[tool.pipeline]\nengin = 'host'\n"}, ["run"], 2, "did you mean 'engine'?"),
    "a wrong value": ({"pyproject.toml": "[tool.pipeline]\nengine = 'docker'\n"}, ["run"], 2, "engine = 'docker'"),
    "a wrong type": ({"pyproject.toml": "[tool.pipeline]\njobs = 'many'\n"}, ["run"], 2, "jobs = 'many'"),
    "no table": ({"pyproject.toml": "[tool]\npipeline = 1\n"}, ["run"], 2, "[tool.pipeline] is no table"),
    "a misspelt stage": ({}, ["run", "gat"], 2, "did you mean 'gate'?"),
    "a misspelt command": ({}, ["rnu"], 2, "did you mean 'run'?"),
    "a misspelt option": ({}, ["run", "--fail-fats"], 2, "arguments: --fail-fats\n  expected: did you mean '--fail-fast'?"),
    "a misspelt option with a value": ({}, ["run", "--enigne", "host"], 2, "did you mean '--engine'?"),
    "a stage to run up to": ({}, ["run", "--until", "gate"], 2, "the stage to go up to, without an option\n  next: "),
    "a wrong choice": ({}, ["run", "--engine", "docker"], 2, "invalid choice: 'docker'"),
    "a number that is none": ({}, ["run", "--jobs", "0"], 2, "'0' is no whole number above 0"),
    "an end of the program": (
        {"delivery.py": "import sys\nsys.exit('not here')\n"},
        ["run"],
        2,
        "delivery.py:2: it ends the program (SystemExit: not here)",
    ),
    "an import error": ({"delivery.py": "import nothing_such\n"}, ["run"], 2, "delivery.py:1: cannot be imported"),
    "a syntax error": ({"delivery.py": "x = (\n"}, ["plan"], 2, "delivery.py:1: syntax error"),
    "no pipeline object": ({"delivery.py": "x = 1\n"}, ["run"], 2, "`pipeline` is missing"),
    "something else as pipeline": ({"delivery.py": "pipeline = 1\n"}, ["run"], 2, "`pipeline` is a int"),
    "a wiring error": ({"delivery.py": EMPTY}, ["run"], 2, "delivery.py:2: pipeline 'x' has no stages"),
    "a file that hides the package": ({"pyproject.toml": HIDES, "stages.py": ""}, ["run"], 2, "hides the package"),
    "a file that is no Python": ({"pyproject.toml": NO_PYTHON, "delivery.txt": ""}, ["run"], 2, "is no Python file"),
    "more memory than there is": ({"pyproject.toml": SMALL, "delivery.py": LARGE}, ["run"], 2, "one needs 2000 MiB of memory"),
    "a run where there is none": ({}, ["logs", "--run", "2001"], 2, "there is no journal yet"),
    "a stage that observes what is not there": ({"n": ""}, ["run"], 1, "ValueError"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_clear_message_and_the_right_exit_code(place: Place, case: str) -> None:
    files, words, code, message = BAD[case]
    for name, text in files.items():
        place.write(name, text)
    done = place(*words)
    assert done.code == code
    assert message in done.err + done.out
    assert "Traceback" not in done.err + done.out


@pytest.mark.parametrize(
    ("words", "right"),
    [
        (["run", "--until", "gate"], "run gate"),
        (["plan", "--to=gate"], "plan gate"),
        (["run", "half", "--to", "checks[a]"], "run half 'checks[a]'"),
        (["run", "--dry-run", "--until"], "run --dry-run STAGE"),
        (["run", "--until", "--engine", "host"], "run STAGE --engine host"),
        (["run", "--engine", "host", "half", "--until", "gate"], "run --engine host half gate"),
        (["run", "gate", "--until"], "run gate"),
    ],
)
def test_an_option_for_the_stage_to_go_up_to_is_answered_with_the_same_command_and_the_stage_s_name_alone(
    place: Place, words: list[str], right: str
) -> None:
    done = place(*words)
    assert (done.code, "did you mean" in done.err) == (2, False)
    assert done.err.endswith(f"-m pipeline {right}\n")


def test_what_else_is_wrong_is_said_before_a_whole_command_is_shown(place: Place) -> None:
    done = place("run", "--until", "gate", "--untl", "x")
    assert (done.code, done.err.splitlines()[0]) == (2, "error: unrecognized arguments: --untl")


@pytest.mark.parametrize("words", [["run", "--jobs", "0", "-C", "{}"], ["-C", "{}", "run", "--egine"], ["-C{}", "nothing"]])
def test_what_a_usage_error_tells_to_run_can_be_pasted(place: Place, words: list[str]) -> None:
    env = {**os.environ, "PYTHONPATH": PYTHONPATH, "PATH": "/usr/bin:/bin"}  # without the interpreter of these tests
    words = [word.format(place.root.name) for word in words]
    call = functools.partial(
        subprocess.run, cwd=place.root.parent, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    done = call([sys.executable, "-m", "pipeline", *words])
    command = done.stderr.splitlines()[-1].removeprefix("  next: ")
    assert (done.returncode, f"{sys.executable} -m pipeline -C project" in command) == (2, True)
    helped = call(["sh", "-c", command])
    assert (helped.returncode, helped.stdout.startswith("usage: ")) == (0, True)


def test_verbose_shows_the_whole_trace(place: Place) -> None:
    place.write("delivery.py", "import nothing_such\n")
    assert "Traceback" in place("run", "--verbose").err


def test_a_missing_file_is_answered_with_the_command_that_writes_one(place: Place) -> None:
    (place.root / "delivery.py").unlink()
    done = place("run")
    assert done.code == 2
    assert "python -m pipeline init" in done.err


def test_a_directory_that_is_none_is_said(place: Place) -> None:
    done = place("-C", "nowhere", "plan")
    assert done.code == 2
    assert "nowhere: is no directory" in done.err


def test_a_state_directory_that_cannot_be_written_is_said_with_the_way_out(place: Place) -> None:
    place.write("blocked", "a file where a directory is wanted")
    done = place("run", env={"PIPELINE_HOME": str(place.root / "blocked")})
    assert done.code == 2
    assert str(place.root / "blocked") in done.err


def test_dagger_without_an_engine_says_what_is_missing_and_ends_with_2(place: Place) -> None:
    env = {"_EXPERIMENTAL_DAGGER_RUNNER_HOST": "unix:///nowhere.sock", "DAGGER_SESSION_PORT": ""}
    done = place("run", "--engine", "dagger", env=env)
    assert done.code == 2
    assert "no Dagger engine can be reached" in done.err
    assert "python -m pipeline doctor" in done.err


def test_auto_without_an_engine_takes_the_host_and_says_why(place: Place) -> None:
    done = place("run", "--engine", "auto", env={"_EXPERIMENTAL_DAGGER_RUNNER_HOST": "unix:///nowhere.sock"})
    assert done.code == 0
    assert "on host (nothing answers at unix:///nowhere.sock, which _EXPERIMENTAL_DAGGER_RUNNER_HOST names: no such" in done.out


def test_output_that_the_terminal_cannot_encode_is_no_reason_to_fail(place: Place) -> None:
    done = place("run", env={"PYTHONIOENCODING": "ascii", "LC_ALL": "C"})
    assert done.code == 0
    assert "\\u2713 gate" in done.out


def test_a_closed_pipe_is_no_error(place: Place) -> None:
    command = f"{sys.executable} -m pipeline list | head -n 1"
    env = {**os.environ, "PYTHONPATH": PYTHONPATH}
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=place.root, env=env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


TALKS = """
from pathlib import Path
from pipeline import Pipeline
from tests.pipeline.toys import *

class Talks(Stage[Number]):
    of: Stage[Number]

    async def run(self, work: Work) -> Number:
        work.say("before")
        await work.execute(Action(argv=("printf", r"one\\ntwo \\377\\nthree")))
        work.say("after")
        return work[self.of]

source = FromFile(path="n")
stages = {f"s{n}": Sum(parts=(source,), plus=n) for n in range(30)}
talks = Talks(of=source, after=tuple(stages.values()))
pipeline = Pipeline("thing", source=source, **stages, talks=talks, bad=Fails(of=talks), gone=Half(of=talks))
"""


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("more", ["", "2>&1"])
def test_a_run_goes_on_when_nobody_reads_its_output_any_more(place: Place, form: str, more: str) -> None:
    place.write("delivery.py", TALKS)
    command = f"{sys.executable} -m pipeline run --output {form} {more} | head -n 1"
    env = {**os.environ, "PYTHONPATH": PYTHONPATH}
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=place.root, env=env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "")  # the stage that fails, and nothing else
    assert len(done.stdout.splitlines()) == 1
    assert "33 passed, 1 failed" in place("runs").out


def test_a_run_goes_on_when_its_terminal_is_closed(place: Place) -> None:
    place.write("delivery.py", TALKS)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "run"],
        cwd=place.root,
        env={**os.environ, "PYTHONPATH": PYTHONPATH, "TERM": "xterm", "NO_COLOR": ""},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.PIPE,
        start_new_session=True,  # it is no terminal of this process: there is no SIGHUP
    )
    os.close(theirs)
    assert os.read(ours, 64)
    os.close(ours)
    assert process.stderr is not None
    with process.stderr as errors:
        said = errors.read()
    assert (process.wait(60), said) == (1, b"")
    assert "33 passed, 1 failed" in place("runs").out


def redirected(place: Place, *words: str, to: str, unbuffered: str = "") -> Done:
    """The command with its standard descriptors as a shell is told to set them."""
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {to}', "sh", sys.executable, "-m", "pipeline", *words],
        cwd=place.root,
        env={**os.environ, "PYTHONPATH": PYTHONPATH, "PYTHONUNBUFFERED": unbuffered},
        capture_output=True,
        text=True,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


LOST = "error: the output cannot be written: No space left on device\n  expected: room for all of it\n  next: "


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [["list"], ["run", "--dry-run"], ["--version"], ["--help"], ["plan", "--help"]], ids=" ".join)
def test_output_that_a_full_disk_loses_is_said_and_ends_with_2(place: Place, words: list[str], unbuffered: str) -> None:
    done = redirected(place, *words, to=">/dev/full", unbuffered=unbuffered)
    assert (done.code, done.err) == (2, f"{LOST}df -h, then the same command again\n")
    assert redirected(place, *words, to=">/dev/full 2>&1", unbuffered=unbuffered).code == 2


@pytest.mark.parametrize("to", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_a_command_ends_as_ever_where_its_streams_are_closed_or_nobody_hears_its_errors(place: Place, to: str) -> None:
    for words, code in ((["list"], 0), (["--version"], 0), (["lsit"], 2), (["run", "nothing"], 2), (["run"], 0)):
        done = redirected(place, *words, to=to)
        assert done.code == code
        assert "Traceback" not in done.err
        assert "internal error" not in done.err
        assert bool(done.out) == (">&-" not in to.replace("2>&-", "") and code == 0)
    assert '"state": "passed"' in place("runs", "--output", "json").out


PRINTS = """
import os
print("imported")
os.system("echo imported by a child")
from pipeline import Pipeline
from tests.pipeline.toys import *

class Prints(Constant):
    def observe(self, project):
        print("observed")

    async def run(self, work):
        print("ran")
        os.system("echo ran by a child")
        return await super().run(work)

pipeline = Pipeline("thing", prints=Prints(value=1))
"""


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--output", "json"], ["plan", "--output", "json"], ["list", "--output", "json"], ["graph", "--format", "json"],
        ["explain", "prints", "--output", "json"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_a_pipeline_file_prints_is_never_in_the_output(place: Place, words: list[str]) -> None:
    place.write("delivery.py", PRINTS)
    done = place(*words)
    printed = {"imported", "imported by a child"}
    printed |= {"observed"} if words[0] in ("run", "plan", "explain") else set()
    printed |= {"ran", "ran by a child"} if words[0] == "run" else set()
    assert (done.code, set(done.err.splitlines())) == (0, printed)
    assert done.out.startswith("{")
    assert not printed & set(done.out.splitlines())


def test_logs_are_one_object_a_line(place: Place) -> None:
    place.write("delivery.py", TALKS)
    assert place("run").code == 1
    run = json.loads(place("runs", "--output", "json").out)["run"]
    rows = [json.loads(line) for line in place("logs", "--output", "json").out.splitlines()]
    about = {"kind": "log", "run": run, "stage": "talks", "attempt": 1}
    assert rows[:-1] == [
        {**about, "action": 0, "text": "before"},
        {**about, "action": 1, "text": "one"},
        {**about, "action": 1, "text": "two \ufffd"},
        {**about, "action": 1, "text": "three"},
        {**about, "action": 1, "text": "after"},
    ]
    assert rows[-1] == {"kind": "error", "run": run, "stage": "bad", "attempt": 1, "text": "no\n  expected: yes", "trace": ""}
    assert place("logs", "s1", "--output", "json").out == ""
    assert place("logs", "talks").out.index("three") < place("logs", "talks").out.index("after")


def test_logs_in_words_tell_who_said_what_and_why_who_failed(place: Place) -> None:
    place.write("delivery.py", TALKS.replace("gone=Half(of=talks)", "broken=Breaks()"))
    assert place("run").code == 1
    all_of_it = place("logs").out
    shown = sorted(line for line in all_of_it.splitlines() if line.startswith("== "))
    assert shown == ["== bad: failed", "== broken: failed", "== talks: passed"]  # the others said nothing
    assert "== talks: passed\nbefore\none\ntwo \ufffd\nthree" in all_of_it
    assert "== bad: failed\nno\n  expected: yes\n" in all_of_it
    assert "ZeroDivisionError: a bug\nTraceback (most recent call last):\n" in all_of_it
    assert "\x1b[31mno" in place("logs", "bad", "--color", "always").out
    assert place("logs", "s1").out.startswith("== s1: passed\nit printed nothing")


LOOKS = """
from gates import Check, QualityGate
from gates.findings import Finding, Findings, Severity, no_findings
from pipeline import Pipeline, Stage
from tests.pipeline.toys import *

class Looks(Stage[Findings]):
    of: Stage[Number]

    async def run(self, work):
        found = Finding(rule="R1", severity=Severity.HIGH, path="a.py", line=7, message="bad", fingerprint="f")
        return Findings(tool="t 1", subject="files", targets=1, findings=(found,), report=work.store.put(b"{}"))

source = FromFile(path="n")
looks, breaks = Looks(of=source), Fails(of=source)
gate = QualityGate(artifact=Make(of=source), checks=(Check(evidence=looks, rule=no_findings),), after=(breaks,))
pipeline = Pipeline("thing", source=source, looks=looks, breaks=breaks, gate=gate)
"""


def test_what_evidence_found_is_told_where_no_gate_tells_of_it(place: Place) -> None:
    place.write("delivery.py", LOOKS)
    alone = place("run", "looks")
    assert (alone.code, "    high R1 a.py:7: bad" in alone.out) == (1, True)
    assert "high R1 a.py:7: bad" in place("report").out
    assert place("run").code == 1  # the gate is blocked, and the evidence was to be weighed by it
    assert ", but t 1: 1 finding of note or worse in 1 file\n  high R1 a.py:7: bad\n== check" in place("logs").out


def test_pruning_takes_evidence_that_earlier_runs_said_no_to_and_their_report_says_how_to_scan_anew(place: Place) -> None:
    text = LOOKS.replace('b"{}"', "b'{\"runs\": [{}]}'").replace(", after=(breaks,)", "")
    place.write("delivery.py", text)
    assert place("run").code == 1
    run = json.loads(place("runs", "--output", "json").out)["run"]
    assert "what no kept result names" in " ".join(place("cache", "--help").out.split())
    assert place("cache", "prune").out == "nothing to evict\n"
    assert len(json.loads(place("report", "--format", "sarif").out)["runs"]) == 1
    assert place("run", "source").code == place("run", "source").code == 0  # of the two that ended last all stays
    assert "evicted 0 results and" in place("cache", "prune").out  # the verdict too, which is no scan
    done = place("report", "--format", "sarif", "--run", run)
    assert (done.code, done.out) == (2, "")
    assert f"what looks found in run {run} is not there any more: it was evicted, or removed as damaged" in done.err
    command = done.err.splitlines()[-1].removeprefix("  next: ")
    assert "-m pipeline run looks; " in command
    env = {**os.environ, "PYTHONPATH": PYTHONPATH}
    again = subprocess.run(["sh", "-c", command], cwd=place.root, env=env, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert '"runs": [\n' in again.stdout


LARGER = """
class Large(Stage[Number]):
    of: Stage[Findings]

    async def run(self, work):
        return Number(value=len(work.store.read(work.store.put(bytes(2 << 20)))))

class Clean(Looks):
    async def run(self, work):
        report = work.store.put(b'{"runs": [{}]}')
        return Findings(tool="t 1", subject="files", targets=1, findings=(), report=report)

clean = Clean(of=source)
pipeline = Pipeline("thing", source=source, looks=looks, clean=clean, large=Large(of=clean))
"""


def test_a_run_over_the_limits_keeps_what_its_own_report_needs(place: Place) -> None:
    place.write("pyproject.toml", '[tool.pipeline]\nengine = "host"\nstore_size = 1\n')
    place.write("delivery.py", LOOKS.replace('b"{}"', "b'{\"runs\": [{}]}'") + LARGER)
    done = place("run")
    assert (done.code, "is over the limit" in done.err) == (1, True), done.err
    assert len(json.loads(place("report", "--format", "sarif").out)["runs"]) == 2


def test_a_run_that_an_older_version_journalled_is_reported_when_only_what_scans_nothing_is_gone(place: Place) -> None:
    assert place("run").code == 0
    run = json.loads(place("runs", "--output", "json").out)["run"]
    with closing(sqlite3.connect(place.root / ".pipeline" / "journal.db")) as db, db:
        db.execute("drop trigger event_no_update")
        changed = db.execute("update event set data = replace(data, '\"scans\":false,', '') where kind = 'run.planned'")
        assert changed.rowcount == 1
    with closing(sqlite3.connect(place.root / ".pipeline" / "store" / "results.db")) as db, db:
        db.execute("delete from text")
    assert json.loads(place("report", "--format", "sarif", "--run", run).out)["runs"] == []
    place.write("delivery.py", LOOKS)
    done = place("report", "--format", "sarif", "--run", run)
    assert (done.code, "what half found in run" in done.err) == (2, True), done.err


def test_logs_of_a_stage_that_there_is_not_are_refused_with_the_nearest_name(place: Place) -> None:
    place("run")
    done = place("logs", "hlaf")
    assert done.code == 2
    assert "has no stage 'hlaf'\n  expected: did you mean 'half'?\n  next: " in done.err
    assert done.err.endswith("python -m pipeline list\n")


def test_logs_of_a_stage_that_only_an_earlier_run_had_lead_to_that_run(place: Place) -> None:
    place("run")
    place("run", "half", "--again", "half")
    first, last = (json.loads(line)["run"] for line in place("runs", "--output", "json").out.splitlines())
    done = place("logs", "make")
    assert (done.code, done.err.splitlines()[0]) == (2, f"error: run {last} has no stage 'make'")
    assert done.err.endswith(f"python -m pipeline logs make --run {first}\n")
    assert place("logs", "make", "--run", first).out.startswith("== make: passed")


ALONE = """
from pathlib import Path
import anyio
from pipeline import Pipeline
from tests.pipeline.toys import *

class Busy(Constant):
    async def run(self, work):
        log = Path("log")
        with log.open("a") as file:
            file.write(f"{self.value} starts\\n")
        with anyio.move_on_after(WAIT):
            while log.read_text().count("starts") < 2:
                await anyio.sleep(0.01)
        with log.open("a") as file:
            file.write(f"{self.value} ends\\n")
        return await super().run(work)

pipeline = Pipeline("thing", one=Busy(value=1), two=Busy(value=2))
"""


@pytest.mark.parametrize(
    ("jobs", "wait", "words"), [("1", "0.05", ["starts", "ends"] * 2), ("2", "60", ["starts"] * 2 + ["ends"] * 2)]
)
def test_as_many_stages_run_at_once_as_there_are_jobs(place: Place, jobs: str, wait: str, words: list[str]) -> None:
    place.write("delivery.py", ALONE.replace("WAIT", wait))
    assert place("run", "--jobs", jobs).code == 0
    assert [line.split()[1] for line in (place.root / "log").read_text().splitlines()] == words


def test_a_pipeline_may_import_what_lies_beside_it_from_wherever_it_is_run(place: Place, tmp_path: Path) -> None:
    place.write("beside.py", "NAME = 'from-beside'\n")
    place.write("delivery.py", "from beside import NAME\n" + PIPELINE.replace('Pipeline("thing"', "Pipeline(NAME"))
    elsewhere = Place(tmp_path)
    assert json.loads(elsewhere("-C", str(place.root), "graph", "--format", "json").out)["pipeline"] == "from-beside"


def test_an_engine_that_cannot_be_opened_ends_the_run_and_the_journal_says_so(place: Place) -> None:
    (place.root / ".pipeline").mkdir()
    (place.root / ".pipeline" / "python").write_text("a file where a directory is wanted")
    done = place("run")
    assert done.code == 2
    assert done.err.startswith(f"error: {place.root}/.pipeline/python")
    assert "Not a directory" in done.err
    row = json.loads(place("runs", "--output", "json").out)
    assert (row["state"], row["exit"]) == ("error", 2)


READERS = (
    ["runs"], ["runs", "--output", "json"], ["logs", "half"], ["report"], ["report", "--format", "sarif"], ["list"], ["graph"],
    ["plan"], ["explain", "half"],
)  # fmt: skip

PRCTL_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1  # linux/prctl.h, linux/capability.h


def bound_by_modes() -> None:
    """For root too, what a mode forbids is forbidden."""
    ctypes.CDLL(None).prctl(PRCTL_CAPBSET_DROP, CAP_DAC_OVERRIDE)


@pytest.fixture
def read_only(place: Place) -> Iterator[Path]:
    """The state of a project after a run, which nobody may write to."""
    place.write("delivery.py", WITH_SOURCE)
    assert place("run", "--color", "never").code == 0
    home = place.root / ".pipeline"
    directories = [home, *(path for path in home.rglob("*") if path.is_dir())]
    for directory in directories:
        directory.chmod(0o555)
    yield home
    for directory in directories:
        directory.chmod(0o755)


WITH_SOURCE = PIPELINE.replace(
    'pipeline = Pipeline("thing",', 'from stages.source import WorkingCopy\npipeline = Pipeline("thing", copy=WorkingCopy(),'
)


@pytest.mark.parametrize("words", READERS, ids=" ".join)
def test_who_may_only_read_the_state_is_told_what_is_in_it(place: Place, read_only: Path, words: list[str]) -> None:
    allowed, before = place(*words), sorted(read_only.rglob("*"))
    done = place(*words, prepare=bound_by_modes)
    assert (done.code, done.err) == (0, "")
    assert done.out == allowed.out != ""
    assert sorted(read_only.rglob("*")) == before


@pytest.mark.parametrize("words", READERS, ids=" ".join)
def test_a_read_only_mount_can_be_read(place: Place, read_only: Path, words: list[str]) -> None:
    script = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && shift && exec "$@"'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh", str(read_only)]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this system lets nobody mount")
    env = {**os.environ, "PYTHONPATH": PYTHONPATH}
    whole = [*command, sys.executable, "-m", "pipeline", *words]
    done = subprocess.run(whole, cwd=place.root, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout != ""


def test_a_run_and_a_plan_of_new_files_need_a_state_that_can_be_written(place: Place, read_only: Path) -> None:
    place.write("new", "never seen")
    for words in (["plan"], ["run"]):
        done = place(*words, prepare=bound_by_modes)
        assert done.code == 2
        assert done.err == (
            f"error: {read_only}/store: cannot be written: Permission denied\n"
            "  expected: a directory you may write to\n  next: set PIPELINE_HOME to one\n"
        )


def test_events_that_cannot_be_read_are_not_passed_over(place: Place, read_only: Path) -> None:
    journal = read_only / "journal.db"
    read_only.chmod(0o755)
    child = os.fork()
    if child == 0:
        Journal(journal).append(Event(run="later", kind="note"))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    journal.with_name("journal.db-shm").unlink()
    read_only.chmod(0o555)
    done = place("runs", prepare=bound_by_modes)
    assert done.code == 2
    assert "the journal is incomplete without journal.db-wal, which cannot be read where nothing can be written" in done.err


def test_without_a_run_there_is_no_journal_and_nothing_is_made(place: Place) -> None:
    assert place("runs").out == f"no runs yet in {place.root}/.pipeline; python -m pipeline run\n"
    for words in (["logs"], ["report"]):
        done = place(*words)
        assert done.code == 2
        assert f"{place.root}/.pipeline/journal.db: there is no journal yet" in done.err
    assert not (place.root / ".pipeline").exists()


@pytest.mark.parametrize("field", ["result", "concern"])
def test_a_record_that_is_not_what_the_journal_saw_made_is_made_again(place: Place, field: str) -> None:
    assert place("run").code == 0
    store = Store(place.root / ".pipeline" / "store")
    (key,) = [row["key"] for row in map(json.loads, place("plan", "--output", "json").out.splitlines()) if row["stage"] == "half"]
    record = read(store.load(key) or b"", key)
    assert record is not None
    other = b'{"value":1}'
    changed = {"result": store.keep(other), "size": len(other)} if field == "result" else {"concern": "bad"}
    save(store, key, record._replace(**changed))
    store.flush()
    assert "run      half" in place("plan").out
    assert place("run").code == 0
    assert "5 stages: 0 run, 5 cached, 0 skipped" in place("plan").out


def test_the_store_says_what_it_holds_what_is_damaged_and_what_goes(place: Place) -> None:
    (place.root / "delivery.py").write_text(DELIVERY_WITH_CONTENT)
    place("run")
    done = place("cache", "stats")
    assert re.search(r"store: \d+ bytes\n  1 results, 1 texts and 1 files\n  0 trees", done.out)
    assert place("cache", "verify").out == "3 whole, 0 damaged\n"
    (blob,) = [path for path in (place.root / ".pipeline" / "store" / "blobs").rglob("*") if path.is_file()]
    blob.write_bytes(b"concent")
    done = place("cache", "verify")
    assert (done.code, done.out.splitlines()[-1]) == (1, "2 whole, 1 damaged; what is missing is made again")
    assert f"object {blob.name[:12]} is damaged, and was removed" in done.out
    assert ended(place("run")) == "passed in: 1 passed"
    assert place("cache", "prune").out == "nothing to evict\n"
    (blob.parent / ("f" * 64)).write_bytes(b"loose")
    assert place("cache", "prune", "--dry-run").out == "would evict 0 results and 1 object, 5 bytes\n"
    assert json.loads(place("cache", "prune", "--output", "json").out)["objects"] == ["f" * 64]
    assert ended(place("run")) == "passed in: 1 cached"


@pytest.mark.parametrize(
    ("table", "said"),
    [("record", "the record of its result was damaged on disk"), ("text", "its result was damaged on disk")],
)
def test_a_flipped_byte_in_a_row_of_the_store_is_a_miss_that_plan_and_run_tell_of(place: Place, table: str, said: str) -> None:
    assert place("run").code == 0
    with closing(Journal(place.root / ".pipeline" / "journal.db")) as journal:
        (made,) = journal.events(kind="stage.finished", stage="half")
    column, name = ("key", made.data["key"]) if table == "record" else ("digest", made.data["result"])
    with closing(sqlite3.connect(place.root / ".pipeline" / "store" / "results.db")) as db, db:
        ((data,),) = db.execute(f"select data from {table} where {column} = ?", [name])
        flipped = data[:9] + bytes([data[9] ^ 1]) + data[10:]
        db.execute(f"update {table} set data = ? where {column} = ?", [flipped, name])
    assert re.search(rf"run +half +{said}", place("plan").out)
    done = place("run")
    assert f"▶ half: {said}" in done.out
    assert (done.code, place("cache", "verify").code) == (0, 0)
    with closing(Journal(place.root / ".pipeline" / "journal.db")) as journal:
        assert [event.data["result"] for event in journal.events(kind="stage.finished", stage="half")] == [
            made.data["result"]
        ] * 2


def test_a_store_that_a_run_uses_is_left_alone(place: Place) -> None:
    place("run")
    lock = in_use(place.root / ".pipeline")
    assert lock.try_take()
    for what in ("prune", "verify"):
        done = place("cache", what)
        assert (done.code, "the store is in use: a run is going on" in done.err) == (2, True)
    assert place("run").code == place("cache", "stats").code == 0
    lock.give_back()
    assert place("cache", "verify").code == 0


def test_a_store_over_its_limits_says_what_it_gives_up_after_a_run(place: Place) -> None:
    place.write("pyproject.toml", '[tool.pipeline]\nengine = "host"\nstore_size = 1\n')
    place.write("delivery.py", LARGE_CONTENT)
    place("run")
    place.write("n", "12")
    done = place("run")
    assert "evicted 2 results (from_file, writes) and 3 objects" in done.err
    (told,) = Journal(place.root / ".pipeline" / "journal.db").events(kind="store.evicted")
    assert (told.data["stages"], told.data["bytes"] > 700_000) == (["from_file", "writes"], True)
    assert ended(place("run")) == "passed in: 2 cached"


LARGE_CONTENT = """
from pipeline import Blob, Pipeline, Stage, Work
from tests.pipeline.toys import FromFile, Number

class Writes(Stage[Blob]):
    of: Stage[Number]

    async def run(self, work: Work) -> Blob:
        return work.store.put(bytes([work[self.of].value]) * 700_000)

pipeline = Pipeline("thing", writes=Writes(of=FromFile(path="n")))
"""


def test_logs_are_searched_line_by_line(place: Place) -> None:
    place.write("delivery.py", SAYS)
    place("run")
    assert place("logs", "--search", "er+or [0-9]").out == "says: an error 7\n"
    assert [
        json.loads(line)["text"] for line in place("logs", "says", "--search", "^fine", "--output", "json").out.splitlines()
    ] == ["fine"]
    assert place("logs", "--search", "nowhere").out == ""
    done = place("logs", "--search", "(")
    assert (done.code, "--search: '(' is no regular expression" in done.err) == (2, True)


SAYS = """
from pipeline import Pipeline, Stage, Work
from tests.pipeline.toys import Number

class Says(Stage[Number]):
    async def run(self, work: Work) -> Number:
        for line in ("fine", "an error 7", "this is fine"):
            work.say(line)
        return Number(value=1)

pipeline = Pipeline("thing", says=Says())
"""


def test_a_plan_says_one_reason_a_line(place: Place) -> None:
    place("run")
    place.write("n", "10")
    done = place("plan")
    assert re.search(r"\n  run +source +observed changed\n +observed: [0-9a-f]{12} -> [0-9a-f]{12}\n  run +half", done.out)
    rows = {row["stage"]: row for row in map(json.loads, place("plan", "--output", "json").out.splitlines())}
    assert [change["component"] for change in rows["source"]["changes"]] == ["observed"]
    assert rows["half"]["changes"] == []


def test_what_changed_since_a_run_is_said_of_that_run_and_not_of_the_latest(place: Place) -> None:
    place("run")
    (first,) = Journal(place.root / ".pipeline" / "journal.db").runs()
    place.write("n", "12")
    place("run")
    done = place("explain", "half", "--since", first)
    assert re.search(r"^half: cached.*\n  input of\n    [0-9a-f]{64} -> [0-9a-f]{64}\n$", done.out)
    assert "nothing that is known changed since run 2" in place("explain", "half", "--since", "2").out
    assert place("explain", "half", "--since", "1999").code == 2
    (place.root / ".pipeline" / "store" / "results.db").unlink()
    assert f"what half depended on in run {first} is not kept" in place("explain", "half", "--since", first).err


def test_two_runs_are_told_apart_by_what_their_stages_came_to_and_depend_on(place: Place) -> None:
    place("run")
    place.write("n", "12")
    place("run")
    first, second = Journal(place.root / ".pipeline" / "journal.db").runs()
    done = place("diff", first)
    assert done.out.startswith(f"{first} (passed) against {second} (passed)\n")
    assert re.search(r"\n  half: passed, result \w{12} -> \w{12}\n      input of: \w{12} -> \w{12}\n", done.out)
    assert place("diff", second, second).out.endswith("0 stages differ, 5 the same\n")
    rows = [json.loads(line) for line in place("diff", first, second, "--output", "json").out.splitlines()]
    assert {row["stage"]: [change["component"] for change in row["changes"]] for row in rows}["source"] == ["observed"]
    (place.root / ".pipeline" / "store" / "results.db").unlink()
    assert "what it depended on is not kept in the store any more" in place("diff", first).out


def test_what_did_not_pass_is_run_again_by_itself(place: Place) -> None:
    assert "nothing failed" in (place("run"), place("run", "--failed"))[1].err
    assert place("run", "--failed").code == 0
    place.write("n", "no number")
    assert place("run").code == 1
    place.write("n", "8")
    done = place("run", "--failed")
    assert (done.code, done.out.splitlines()[0].startswith("thing, run")) == (0, True)


def test_what_changed_needs_a_base_to_be_measured_against(place: Place) -> None:
    done = place("run", "--changed")
    assert done.code == 2
    assert "--changed: it is not known what changed: there is no base" in done.err


def test_alone_a_stage_runs_only_where_what_it_needs_is_there(place: Place) -> None:
    done = place("run", "half", "--only")
    assert done.code == 2
    assert "nothing else is to be run, and source would have to be" in done.err
    assert place("run", "source").code == 0
    assert place("run", "half", "--only").code == 0


def ended(done: Done) -> str:
    """The last line without the time, which is another in each run."""
    return re.sub(r"in [0-9.]+s", "in", done.out.splitlines()[-1])


def test_a_run_that_finds_everything_as_it_was_says_and_journals_the_same(place: Place) -> None:
    place("run")
    second, third = place("run"), place("run")
    assert second.out.splitlines()[1:-1] == third.out.splitlines()[1:-1]
    assert ended(second) == ended(third) == "passed in: 5 cached"
    journal = Journal(place.root / ".pipeline" / "journal.db")
    runs = journal.runs()
    told = [[(event.kind, event.stage, event.data.get("stages")) for event in journal.events(run)] for run in runs]
    assert told[1] == told[2]
    assert {event.run for event in journal.events(kind="run.finished")} == set(runs)


def test_a_run_after_content_was_lost_does_not_take_the_last_one_for_its_own(place: Place) -> None:
    (place.root / "delivery.py").write_text(DELIVERY_WITH_CONTENT)
    place("run")
    assert ended(place("run")) == ended(place("run")) == "passed in: 1 cached"
    for blob in (place.root / ".pipeline" / "store" / "blobs").rglob("*"):
        if blob.is_file():
            blob.unlink()
    assert ended(place("run")) == "passed in: 1 passed"


DELIVERY_WITH_CONTENT = """
from pipeline import Blob, Pipeline, Stage, Work

class Writes(Stage[Blob]):
    async def run(self, work: Work) -> Blob:
        return work.store.put(b"content")

pipeline = Pipeline("thing", writes=Writes())
"""


def test_a_record_of_another_home_is_taken_as_it_is(place: Place) -> None:
    assert place("run").code == 0
    home = place.root / ".pipeline"
    for file in home.glob("journal.db*"):
        file.unlink()
    assert "5 stages: 0 run, 5 cached, 0 skipped" in place("plan").out


def limited(size: int) -> Callable[[], None]:
    """No file may grow over `size` bytes; the write fails as on a full disk (EFBIG)."""

    def apply() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return apply


def test_a_disk_that_takes_no_more_is_one_message_and_loses_nothing(place: Place) -> None:
    assert place("run").code == 0
    before = place("runs").out
    place.write("n", "10")
    done = place("run", prepare=limited(1000), env={"COVERAGE_PROCESS_CONFIG": "", "COVERAGE_PROCESS_START": ""})
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert "Traceback" not in done.err
    assert place("runs").out.startswith(before)
    assert place("run").code == 0


INTERRUPTED = """
from pathlib import Path
from pipeline import Pipeline
from tests.pipeline.toys import *
source = FromFile(path="n")
send = Sends(of=source, file=Path("sent"))
pipeline = Pipeline("thing", source=source, send=send, wait=Waits(of=send, file=Path("waits")))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_cleans_up_takes_effects_back_and_ends_with_130(place: Place, number: int) -> None:
    place.write("delivery.py", INTERRUPTED)
    with started(place, "run") as process:
        assert process.stdout is not None
        for line in waiting(process.stdout, place.root / "waits"):
            assert line
        process.send_signal(number)
        rest = process.stdout.read()
        assert process.wait(30) == 130
    assert (place.root / "waits").read_text() == "cancelled\n"
    assert (place.root / "sent").read_text() == "sent\ntook back 8\n"
    assert "interrupted in" in rest
    assert "interrupted" in place("runs").out


SLOW = """
import anyio
from pathlib import Path
from pipeline import Pipeline
from tests.pipeline.toys import *

class Slow(Sends):
    async def undo(self, work, result):
        Path("undoing").write_text("now")
        while not Path("go").exists():
            await anyio.sleep(0.02)
        await super().undo(work, result)

source = FromFile(path="n")
send = Slow(of=source, file=Path("sent"))
pipeline = Pipeline("thing", source=source, send=send, wait=Waits(of=send, file=Path("waits")))
"""


def interrupted_twice(place: Place) -> subprocess.Popen[str]:
    """A run that takes its effect back, slowly, and was asked to stop once more."""
    place.write("delivery.py", SLOW)
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "run"],
        cwd=place.root,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in waiting(process.stdout, place.root / "waits"):
        assert line
    process.send_signal(signal.SIGINT)
    while not (place.root / "undoing").exists():
        os.sched_yield()
    process.send_signal(signal.SIGINT)
    said = next(line for line in process.stdout if "taking back what is not confirmed" in line)
    assert said.endswith("once more leaves that to the next run\n")
    return process


def test_a_second_interrupt_does_not_cut_off_what_takes_effects_back(place: Place) -> None:
    process = interrupted_twice(place)
    place.write("go", "")
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert (place.root / "sent").read_text() == "sent\ntook back 8\n"


def test_a_third_interrupt_leaves_what_is_open_to_the_next_run(place: Place) -> None:
    process = interrupted_twice(place)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert (place.root / "sent").read_text() == "sent\n"
    place.write("go", "")
    assert "did not confirm is taken back first" in place("plan").out
    place.write("n", "no number")
    done = place("run")
    assert (done.code, (place.root / "sent").read_text()) == (1, "sent\ntook back 8\n")
    assert "send goes back: run " in done.out


CLEANS = """
import anyio
from pathlib import Path
from pipeline import Pipeline
from tests.pipeline.toys import *

class Slow(Cleans):
    async def run(self, work):
        Path("cleaning").write_text("now")
        while not Path("go").exists():
            await anyio.sleep(0.01)
        return await super().run(work)

source = FromFile(path="n")
send = Sends(of=source, file=Path("sent"))
wait = Waits(of=send, file=Path("waits"))
never = Half(of=wait)
early = (Slow(file=Path("sent"), of=(source,), always=True),) if Path("early").exists() else ()
late = Slow(file=Path("sent"), of=(send,), after=(never, *early), always=True)
pipeline = Pipeline("thing", source=source, send=send, wait=wait, never=never, late=late, early=early)
"""


@contextmanager
def cleaning(place: Place, *, early: bool) -> Iterator[subprocess.Popen[str]]:
    """A run that was interrupted while a stage waited for ever, and cleans up."""
    place.write("delivery.py", CLEANS)
    if early:
        place.write("early", "")
    with started(place, "run") as process:
        assert process.stdout is not None
        for line in waiting(process.stdout, place.root / "waits"):
            assert line
        while early and not (place.root / "cleaning").exists():
            os.sched_yield()
        process.send_signal(signal.SIGINT)
        while not (place.root / "cleaning").exists() or (place.root / "waits").read_text() != "cancelled\n":
            os.sched_yield()
        yield process


def test_an_interrupted_run_ends_what_runs_takes_back_and_then_cleans_up(place: Place) -> None:
    with cleaning(place, early=False) as process:
        assert (place.root / "waits").read_text() == "cancelled\n"
        assert (place.root / "sent").read_text() == "sent\ntook back 8\n"
        place.write("go", "")
        said = process.communicate(timeout=30)[0]
        assert process.returncode == 130
    assert (place.root / "sent").read_text() == "sent\ntook back 8\nlate 8\n"
    assert "1 interrupted, 1 not reached" in said
    assert "▶ late: always, has a side effect (retryable)" in said


def test_what_was_cleaning_up_already_is_not_cut_off_by_an_interrupt(place: Place) -> None:
    with cleaning(place, early=True) as process:
        place.write("go", "")
        process.communicate(timeout=30)
        assert process.returncode == 130
    assert (place.root / "sent").read_text() == "sent\nearly[source] 8\ntook back 8\nlate 8\n"


@pytest.mark.parametrize("early", [False, True])
def test_a_second_interrupt_lets_it_clean_up_and_a_third_leaves_that_to_who_resumes(place: Place, early: bool) -> None:
    with cleaning(place, early=early) as process:
        assert process.stdout is not None
        process.send_signal(signal.SIGINT)
        names = "early[source], late" if early else "late"
        said = next(line for line in process.stdout if "once more leaves that" in line)
        assert f"taking back what is not confirmed, then cleaning up: {names}; once more" in said
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=30)[0]
        assert process.returncode == 130
    assert f"not cleaned up: {names}; python -m pipeline resume goes on with it" in rest
    assert "late 8" not in (place.root / "sent").read_text()
    place.write("go", "")
    with started(place, "resume") as process:
        assert process.stdout is not None
        (place.root / "waits").unlink()
        for line in waiting(process.stdout, place.root / "waits"):
            assert line
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert (place.root / "sent").read_text().endswith("took back 8\nlate 8\n")


def test_a_run_that_was_all_but_done_is_not_ended_before_it_has_cleaned_up(place: Place) -> None:
    last = 'late = Slow(file=Path("sent"), of=(source,), always=True)\npipeline = Pipeline("thing", source=source, late=late)\n'
    place.write("delivery.py", CLEANS.split("send =", maxsplit=1)[0] + last)
    with started(place, "run") as process:
        while not (place.root / "cleaning").exists():
            os.sched_yield()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            process.send_signal(number)
        process.communicate(timeout=30)
        assert process.returncode == 130
    place.write("go", "")
    assert place("resume").code == 0
    assert (place.root / "sent").read_text() == "late 8\n"


def test_what_cleans_up_after_an_interrupt_keeps_its_limit_of_time_in_every_attempt(place: Place) -> None:
    fields = "timeout=0.5, retry=Retry(times=1, wait=0.001, on=(StageTimeout,))"
    last = (
        f'late = Slow(file=Path("sent"), of=(source,), always=True, {fields})\n'
        'pipeline = Pipeline("thing", source=source, late=late)\n'
    )
    place.write("delivery.py", "from pipeline import Retry, StageTimeout\n" + CLEANS.split("send =", maxsplit=1)[0] + last)
    with started(place, "run") as process:
        while not (place.root / "cleaning").exists():
            os.sched_yield()
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=30)[0]
    assert "late took longer than 0.5 s" in said


def waiting(lines: Iterator[str], file: Path) -> Iterator[str]:
    """Lines until the stage that waits has started and written its file."""
    for line in lines:
        yield line
        if "▶ wait" in line:
            while not file.exists() or not file.read_text():
                os.sched_yield()
            return


def test_a_gate_that_closed_is_told_whole_by_its_logs_and_reports(place: Place) -> None:
    place.write("n", "1000")
    assert place("run").code == 1
    logs, report, junit = place("logs", "gate").out, place("report").out, place("report", "--format", "junit").out
    for text in (logs, report, junit):
        assert "too large" in text  # the fact, not only that the gate is closed
    assert "✗ check: small: 500 is large" in logs
    assert "== check: passed, but 500 is large" in place("logs", "check").out


def test_a_gate_that_is_cached_shows_in_the_report_what_it_decided(place: Place) -> None:
    assert [place("run").code for _ in range(2)] == [0, 0]
    assert "≡ gate" not in place("report").out
    assert "| ✅ | check | small | 4 is small | " in place("report").out


def test_evidence_that_a_check_said_no_to_is_made_again_by_the_next_run(place: Place) -> None:
    place.write("n", "1000")
    assert place("run").code == 1
    done = place("run")
    assert "▶ half: its latest result may not be used again" in done.out
    assert "≡ make: " in done.out  # what nobody said no to is kept


def test_importing_the_pipeline_leaves_nothing_in_the_project(place: Place) -> None:
    place.write("rules.py", "limit = 100\n")
    place.write("delivery.py", "import rules\n" + PIPELINE)
    assert place("plan").code == 0
    assert sorted(path.name for path in place.root.iterdir()) == [".pipeline", "delivery.py", "n", "pyproject.toml", "rules.py"]


def test_a_pipeline_edited_twice_within_a_second_is_read_twice(place: Place) -> None:
    for name in ("one", "two", "six"):
        place.write("delivery.py", PIPELINE.replace('Pipeline("thing", source=', f'Pipeline("thing", {name}='))
        os.utime(place.root / "delivery.py", (1_000_000_000, 1_000_000_000))
        assert f"{name} " in place("list").out


def test_what_a_failure_tells_to_run_can_be_pasted(place: Place) -> None:
    place.write("n", "1000")
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "run", "-C", place.root.name],
        cwd=place.root.parent,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        capture_output=True,
        text=True,
        check=False,
    )
    command = done.stdout.strip().splitlines()[-1].rpartition("; ")[2]
    again = subprocess.run(
        ["sh", "-c", command],
        cwd=place.root.parent,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (again.returncode, "gate is closed: 500 is large" in again.stdout) == (0, True)


def test_a_run_whose_output_cannot_be_written_goes_on_and_says_so(place: Place) -> None:
    done = redirected(place, "run", to=">/dev/full")
    assert (done.code, done.err) == (0, f"{LOST}python -m pipeline report\n")
    assert " passed " in place("runs").out


ODD = """
from pipeline import Pipeline
from tests.pipeline.toys import *

class Odd(Constant):
    def observe(self, project):
        raise SystemExit(0)

pipeline = Pipeline("thing", odd=Odd(value=1))
"""


def test_a_stage_that_cannot_be_observed_is_named(place: Place) -> None:
    place.write("delivery.py", ODD)
    for command in ("plan", "run"):
        done = place(command)
        assert (done.code, "odd cannot be planned: Odd.observe raised SystemExit: 0" in done.err) == (2, True)


def test_byte_code_that_a_full_disk_cut_off_is_made_anew(place: Place) -> None:
    place.write("rules.py", "limit = 100\n")
    place.write("delivery.py", "import rules\n" + PIPELINE)
    kept_here = {"PYTHONDONTWRITEBYTECODE": ""}  # whatever the environment of the tests wants
    assert place("plan", env=kept_here).code == 0
    (kept,) = (place.root / ".pipeline" / "byte-code").rglob("rules.*.pyc")
    kept.write_bytes(kept.read_bytes()[:20])
    assert place("plan", env=kept_here).code == 0


def test_whatever_a_pipeline_file_raises_is_exit_code_2(place: Place) -> None:
    place.write("delivery.py", "class Odd(BaseException): pass\nraise Odd('x')\n")
    done = place("plan")
    assert (done.code, "delivery.py:2: cannot be imported: Odd: x" in done.err) == (2, True)


@contextmanager
def started(place: Place, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A command line in the background, which ends with the test whatever becomes of it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *words],
        cwd=place.root,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heard,  # noqa: PLW1509 - there are no threads here
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


HOLDS = "import time\nfrom pathlib import Path\nPath('here').write_text('')\nwhile True:\n    time.sleep(0.01)\n"


@pytest.mark.parametrize("name", ["gettext.py", "delivery.py"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_before_anything_runs_is_one_line_and_130(place: Place, name: str, number: int) -> None:
    place.write(name, HOLDS)  # `gettext` is what argparse imports, and the current directory comes first
    with started(place, "plan") as process:
        while not (place.root / "here").exists():
            os.sched_yield()
        process.send_signal(number)
        said = process.communicate(timeout=30)
        assert (process.returncode, said) == (130, ("", "interrupted\n"))


def test_however_often_a_run_is_interrupted_it_ends_with_130(place: Place) -> None:
    place.write("delivery.py", INTERRUPTED)
    with started(place, "run") as process:
        assert process.stdout is not None
        for line in waiting(process.stdout, place.root / "waits"):
            assert line
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
        said = process.communicate()[1]
        assert (process.returncode, said.replace("interrupted\n", "")) == (130, "")
    assert json.loads(place("runs", "--output", "json").out)["state"] == "interrupted"


def few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12))


def test_a_limit_of_open_files_that_is_too_low_is_named(place: Place) -> None:
    done = place("run", prepare=few_files)
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "error: the limit of file descriptors is 12\n"
        "  expected: at least 64; 1024 is usual\n  next: ulimit -n 1024, then the same command again\n"
    )


SPEECHLESS = """
from pipeline import Pipeline
from tests.pipeline.toys import *

class Speechless(Exception):
    details = object()

    def __str__(self):
        raise RuntimeError("no words")

class Odd(Constant):
    async def run(self, work):
        raise Speechless

pipeline = Pipeline("thing", odd=Odd(value=1), other=Constant(value=2))
"""


def test_an_exception_that_cannot_be_shown_fails_its_stage_and_no_more(place: Place) -> None:
    place.write("delivery.py", SPEECHLESS)
    done = place("run")
    assert (done.code, done.err) == (1, "")
    assert "odd failed: Speechless, which cannot be put into words; " in done.out
    assert "1 passed, 1 failed" in done.out
    place.write("delivery.py", SPEECHLESS + "raise Speechless\n")
    assert "delivery.py:16: cannot be imported: Speechless, which cannot be put into words\n" in place("plan").err


def test_a_pipeline_file_with_a_nul_byte_is_named(place: Place) -> None:
    place.write("delivery.py", "x = 1\n\0")
    done = place("plan")
    assert done.code == 2
    assert done.err.startswith(f"error: {place.root}/delivery.py: syntax error: source code string cannot contain null bytes\n")
    place.write("beside.py", "\0")
    place.write("delivery.py", "\nimport beside\n")
    done = place("plan")
    assert done.err.startswith(f"error: {place.root}/delivery.py:2: syntax error: ")
    assert "expected: text without NUL bytes, here and in what is imported here\n" in done.err


def test_a_journal_that_is_none_is_answered_with_what_to_do(place: Place) -> None:
    assert place("run").code == 0
    journal = place.root / ".pipeline" / "journal.db"
    for file in journal.parent.glob("journal.db*"):
        file.unlink()
    journal.write_bytes(b"garbage" * 1000)
    done = place("runs")
    assert (done.code, "the journal cannot be used: file is not a database" in done.err) == (2, True)
    assert f"  next: move {journal}* away; " in done.err
    assert done.err.endswith("python -m pipeline run then begins a new one\n")
    journal.rename(place.root / "away")
    assert place("run").code == 0


def test_a_setting_that_holds_bytes_that_are_no_text_is_refused_with_what_would_be_right(place: Place) -> None:
    place.write(
        "delivery.py",
        "import os\nfrom pipeline import Pipeline\nfrom tests.pipeline.toys import *\n"
        "pipeline = Pipeline('thing', odd=Runs(argv=('echo', os.environ['ODD'])))\n",
    )
    done = place("plan", env={"ODD": os.fsdecode(b"a\xff")})
    assert done.code == 2
    assert r"Runs.argv holds bytes that are no UTF-8: ('echo', 'a\udcff')" in done.err
    assert "expected: text, or bytes as `bytes`\n" in done.err


def test_list_says_once_what_a_class_says_of_itself_and_of_what_the_other_stages_are(place: Place) -> None:
    place.write("delivery.py", PIPELINE.replace("gate=gate", "gate=gate, other=Half(of=source)"))
    assert place("list").out.splitlines() == [
        "source  Reads a number from a file of the project.",
        "half    Half, rounded down: different inputs may give one result.",
        "check   Puts `rule` to `evidence`. A rule that raises is an error verdict, never a pass.",
        "make    Make of half",
        "gate    Lets `artifact` through when every check passed. All verdicts are journalled either way.",
        "other   Half of source, as half",
    ]


def test_a_check_that_no_gate_weighs_says_what_it_found_once(place: Place) -> None:
    place.write("n", "1000")
    done = place("run", "check")
    assert done.code == 1
    told = done.out[done.out.index("▶ check") :].splitlines()[1:4]
    assert [line.partition("s: ")[2] or line for line in told] == [
        "failed: 500 is large",
        "✗ check: no gate has weighed it",
        "      too large",
    ]


def test_explain_tells_what_it_knows_and_which_inputs_are_not_known_yet_and_why(place: Place) -> None:
    place.write("delivery.py", PIPELINE.replace("make = Make(of=half)", "make = Make(of=Sum(parts=(source, half), plus=1))"))
    assert place("run").code == 0
    place.write("n", "9")
    place.write("delivery.py", (place.root / "delivery.py").read_text().replace("plus=1", "plus=2"))
    assert place("explain", "sum").out.splitlines() == [
        "sum: run, decided when source, half are known",
        f"  source: observed: {of_bytes(b'8')[:12]} -> {of_bytes(b'9')[:12]}",
        "  setting plus",
        "    1 -> 2",
        "  input parts[0]: source is not known yet (observed changed)",
        "  input parts[1]: half is not known yet (after source: observed changed)",
    ]
    found = json.loads(place("explain", "sum", "--output", "json").out)
    assert found["unknown"][1] == {"input": "parts[1]", "stage": "half", "reason": "after source: observed changed"}
    assert (found["components"]["setting plus"], "input parts[0]" in found["components"]) == ("2", False)


READS = """
import os
from pipeline import Action, Entry, Pipeline, Stage, Tree, Work
from stages.source import WorkingCopy
from tests.pipeline.toys import Number

class Lists(Stage[Tree]):
    async def run(self, work: Work) -> Tree:
        blob = work.store.put(b"listed")
        return work.store.tree([Entry("n", "file", blob.digest, blob.size)])

class Reads(Stage[Number]):
    of: Stage[Tree]
    setting: int

    async def run(self, work: Work) -> Number:
        return Number(value=len(work.store.read(work.store.file(work[self.of], "n"))))

class Acts(Reads):
    async def run(self, work: Work) -> Number:
        action = Action(argv=("cat", "src/n"), inputs={"src": work[self.of]})
        return Number(value=(await work.execute(action)).exit_code)

of = SOURCE
pipeline = Pipeline("thing", of=of, reads=READER(of=of, setting=int(os.environ["SETTING"])))
"""


@pytest.mark.parametrize("reader", ["Reads", "Acts"])
@pytest.mark.parametrize(("source", "content"), [("WorkingCopy(include=('n',))", b"8"), ("Lists()", b"listed")])
@pytest.mark.parametrize("verified", [False, True])
def test_a_flipped_byte_of_a_file_in_a_tree_is_made_again_by_the_run_that_needs_it(
    place: Place, source: str, content: bytes, reader: str, verified: bool
) -> None:
    place.write("delivery.py", READS.replace("SOURCE", source).replace("READER", reader))
    assert place("run", env={"SETTING": "1"}).code == 0
    name, about = of_bytes(content), (place.root / "n").stat()
    blob = place.root / ".pipeline" / "store" / "blobs" / name[:2] / name
    stamp = [about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino, about.st_mode]
    remembered = {"losses": 0, "files": [["n", stamp, of_bytes(b"8")]]}  # as of a file that is two seconds old
    place.write(".pipeline/index.json", json.dumps(remembered))
    blob.chmod(0o644)
    blob.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    if verified:
        done = place("cache", "verify", env={"SETTING": "1"})
        assert done.code == 1
        assert "names what is not here, and was removed" in done.out
    done = place("run", env={"SETTING": "2"})
    assert (done.code, blob.read_bytes()) == (0, content)
    assert ("what was found damaged is made again" in done.err) is not verified
    assert place("cache", "verify", env={"SETTING": "2"}).code == 0
    blob.unlink()  # nor is it noticed before it is needed where it is gone altogether
    assert (place("run", env={"SETTING": "3"}).code, blob.read_bytes()) == (0, content)


PAYS = (
    READS.partition("of = SOURCE")[0]
    + """
from pathlib import Path
from typing import ClassVar
from pipeline import Effect

class Pays(Stage[Number]):
    effect: ClassVar[Effect] = Effect.ONCE

    async def run(self, work: Work) -> Number:
        with Path("paid").open("a") as file:
            print("paid", file=file)
        return Number(value=1)

of, pays = Lists(), Pays()
pipeline = Pipeline("thing", of=of, pays=pays, reads=Reads(of=of, setting=int(os.environ["SETTING"]), after=(pays,)))
"""
)


def test_a_run_with_side_effects_is_not_begun_again_by_itself_where_something_is_damaged(place: Place) -> None:
    place.write("delivery.py", PAYS)
    assert place("run", env={"SETTING": "1"}).code == 0
    name = of_bytes(b"listed")
    (place.root / ".pipeline" / "store" / "blobs" / name[:2] / name).unlink()
    assert place("run", env={"SETTING": "2"}).code == 2
    assert (place.root / "paid").read_text().split() == ["paid"] * 2
    assert place("run", env={"SETTING": "2"}).code == 0
    assert (place.root / "paid").read_text().split() == ["paid"] * 3


LOCKED = """
from pathlib import Path
from typing import ClassVar
import anyio
from pipeline import Effect, Pipeline, Resources, Result, Stage, Work

class Loads(Stage[Result]):
    effect: ClassVar[Effect] = Effect.RETRYABLE

    async def run(self, work: Work) -> Result:
        for number in range(2):
            with Path("log").open("a") as file:
                print(work.run, file=file)
            while number == 0 and not Path("go").exists():
                await anyio.sleep(0.01)
        return Result()

pipeline = Pipeline("thing", loads=Loads(resources=Resources(locks=("staging",))))
"""


def test_a_named_lock_is_held_by_one_run_at_a_time(place: Place) -> None:
    place.write("delivery.py", LOCKED)
    command = [sys.executable, "-u", "-m", "pipeline", "run"]
    env = {**os.environ, "PYTHONPATH": PYTHONPATH}
    with (
        subprocess.Popen(command, cwd=place.root, env=env, stdout=subprocess.PIPE, text=True) as one,
        subprocess.Popen(command, cwd=place.root, env=env, stdout=subprocess.PIPE, text=True) as two,
    ):
        logs = place.root / ".pipeline" / "logs"
        while not any(b"another run has the lock" in log.read_bytes() for log in logs.rglob("*.log")):
            assert (one.poll(), two.poll()) == (None, None)
            time.sleep(0.02)
        (place.root / "go").touch()
        one.communicate()
        two.communicate()
    runs = (place.root / "log").read_text().split()
    assert (one.returncode, two.returncode) == (0, 0)
    assert runs[0] == runs[1] != runs[2] == runs[3]


RUDE = r"""
from pipeline import Pipeline, Result, Retry, Stage, StageFailed, Work

class Rude(Result):
    def summary(self):
        return "a\x00b\x1b[31mred\x1b[0m\x1b]0;title\x07\r\nsecond line" + "x" * 5000

class Says(Stage[Rude]):
    async def run(self, work: Work) -> Rude:
        return Rude()

class Refuses(Stage[Rude]):
    async def run(self, work: Work) -> Rude:
        print(end="", flush=True)
        work.say(f"this is attempt {work.attempt}")
        raise StageFailed("no\x1b[2J\nsecond\x07 line")

pipeline = Pipeline("thing", says=Says(), refuses=Refuses(retry=Retry(times=1, wait=0)))
"""


def test_what_a_stage_says_moves_no_cursor_and_begins_no_line_of_its_own(place: Place) -> None:
    place.write("delivery.py", RUDE)
    done = place("run")
    (said,) = [line for line in done.out.splitlines() if line.startswith("✓ says")]
    assert r"a\x00bred\x1b]0;title\x07\x0d\nsecond line" in said
    assert said.endswith("x...")
    assert r"refuses 0.0s, attempt 2: no\x1b[2J" in done.out
    assert r"    second\x07 line" in done.out
    assert not set("\0\x1b\x07\r") & set(done.out)


def test_logs_of_several_attempts_are_told_apart(place: Place) -> None:
    place.write("delivery.py", RUDE)
    place("run")
    lines = place("logs", "refuses").out.splitlines()
    assert lines[1:5] == ["-- attempt 1", "this is attempt 1", "-- attempt 2", "this is attempt 2"]
