"""`logs`: what stages printed, from the run in which they were executed."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, TextIO

from pipeline.cli.console import verdicts
from pipeline.cli.paint import Paint
from pipeline.damage import UNFIT, Damaged
from pipeline.errors import ConfigError, Exit, LockgateError, did_you_mean
from pipeline.history import RunHistory, StageHistory, one, planned, recall_verdicts
from pipeline.journal import Journal
from pipeline.project import Project, log_directory
from pipeline.session import open_journal

LONGEST = 1 << 20
"""Bytes of a line that are taken at once: a log may be one line, and larger than memory."""
NUMBERED = re.compile(r"\d+-\d+\.")
"""How the name of a log begins."""
LOOKED_BACK = 100
"""Runs among which one is looked for that has a stage."""
OVERLAP = 4096
"""Characters of the piece before in which what is searched for may begin."""


def command(arguments: argparse.Namespace, out: TextIO) -> int:
    project = Project.at(Path(arguments.directory), os.environ)
    run = wanted(project, arguments.run)
    if arguments.stage and arguments.stage not in run.stages:
        raise _lacks(run, arguments.stage, open_journal(project))
    pattern = _pattern(arguments.search)
    chosen = [run.stages[arguments.stage]] if arguments.stage else run.stages.values()
    if arguments.output == "json":
        for stage in chosen:
            for row in _found(pattern, rows(project, run, stage)):
                print(json.dumps(row), file=out)
        return Exit.PASSED
    paint = Paint.on_stream(out, arguments.color)
    host = run.about.get("host", "")
    if host not in {"", os.uname().nodename}:
        print(paint("dim", f"run {run.id} was on {host}: what its stages printed is there"), file=out)
    if arguments.search:
        for stage in chosen:
            for row in _found(pattern, rows(project, run, stage)):
                print(f"{paint('bold', stage.name)}: {row['text']}", file=out)
        return Exit.PASSED
    for stage in chosen:
        _show(project, run, stage, paint, out, always=bool(arguments.stage))
    return Exit.PASSED


def _lacks(run: RunHistory, stage: str, journal: Journal) -> LockgateError:
    """The run has no such stage; the latest one that has it is named, if it is one of the last runs."""
    what = f"run {run.id} has no stage {stage!r}"
    for other in reversed(journal.runs()[-LOOKED_BACK:]):
        if stage in _names(journal, other):
            command = f"python -m pipeline logs {shlex.quote(stage)} --run {other}"
            return LockgateError(what, right=f"a run that has it: {other} is the latest", next=command)
    return LockgateError(what, right=did_you_mean(stage, run.stages), next="python -m pipeline list")


def _names(journal: Journal, run: str) -> set[str]:
    """The stages of a run as far as they can be read: who is led to another run need not hear that a third was damaged."""
    found = set[str]()
    with contextlib.suppress(Damaged, *UNFIT):
        for step in planned(journal, run):
            found.add(step["name"])
    return found


def _pattern(text: str) -> re.Pattern[str]:
    """What lines are searched for. Raises ConfigError for what is no regular expression."""
    try:
        return re.compile(text)
    except re.error as error:
        raise ConfigError(f"{text!r} is no regular expression: {error}", where="--search", right="as 'error|warning'") from error


def _found(pattern: re.Pattern[str], rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows in which the pattern is found, also where it begins in the piece of the same line before."""
    before = ""
    for row in rows:
        text = before + row["text"]
        if any(match.end() > len(before) for match in pattern.finditer(text)) if before else pattern.search(text):
            yield row
        before = text[-OVERLAP:] if row.get("more") else ""


def wanted(project: Project, start: str) -> RunHistory:
    """The run whose id begins with `start`; the latest for an empty string. Raises LockgateError."""
    journal = open_journal(project)
    if not journal.exists:
        raise LockgateError("there is no journal yet", where=journal.where, right="a run", next="python -m pipeline run")
    run = one(journal, start)
    if run is None:
        raise LockgateError(
            f"no run's id begins with {start!r}" if start else "there is no run yet",
            where=str(project.home),
            next="python -m pipeline runs" if start else "python -m pipeline run",
        )
    recall_verdicts(run, journal)
    return run


def rows(project: Project, run: RunHistory, stage: StageHistory) -> Iterator[dict[str, Any]]:
    """What a stage printed line by line, then what went wrong, as `docs/cli.md` describes it."""
    about = {"run": stage.made_in or run.id, "stage": stage.name}
    for file in _files(project, run, stage):
        attempt, action = _order(file)
        with file.open("rb") as log:
            for text, more in _lines(log):
                goes_on = {"more": True} if more else {}
                yield {"kind": "log", **about, "attempt": attempt, "action": action, "text": text, **goes_on}
    if stage.error:
        yield {"kind": "error", **about, "attempt": stage.attempts, "text": stage.error, "trace": stage.trace}


def _lines(log: IO[bytes]) -> Iterator[tuple[str, bool]]:
    """Line by line, a long one in pieces, each with whether its line goes on."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    line = log.readline(LONGEST)
    while line:
        following = log.readline(LONGEST)
        more = bool(following) and not line.endswith(b"\n")
        yield decoder.decode(line if more else line.rstrip(b"\r\n"), final=not more), more
        line = following


def _show(project: Project, run: RunHistory, stage: StageHistory, paint: Paint, out: TextIO, *, always: bool) -> None:
    files = _files(project, run, stage)
    if not (files or stage.error or stage.concern or always):
        return
    made = f", made in run {stage.made_in}" if stage.state == "cached" else ""
    concern = stage.concern.splitlines() if stage.state in ("passed", "cached") else []
    but = f", but {concern[0]}" if concern else ""
    back = f", then {stage.undone}" if stage.undone else ""
    print(paint("bold", f"== {stage.name}: {stage.state}{made}{but}{back}"), file=out, flush=True)
    several = len({_order(file)[0] for file in files}) > 1
    attempt = -1
    for file in files:
        if several and attempt != (attempt := _order(file)[0]):
            print(paint("dim", f"-- attempt {attempt}" if attempt else "-- the way back"), file=out, flush=True)
        with file.open("rb") as log:
            shutil.copyfileobj(log, out.buffer)  # in pieces: a log may be larger than memory
            if log.tell() and not _ends_a_line(log):
                out.buffer.write(b"\n")
        out.buffer.flush()
    if stage.verdicts:
        print("\n".join(verdicts(stage, paint)), file=out)
    for line in concern[1:]:
        print(line, file=out)
    if stage.error:
        print(paint("red", stage.error), file=out)
    if stage.trace:
        print(stage.trace, file=out)
    if not (files or stage.error or stage.verdicts or concern):
        print(paint("dim", f"it printed nothing: {stage.reason}" if stage.reason else "it printed nothing"), file=out)


def _ends_a_line(log: IO[bytes]) -> bool:
    log.seek(-1, os.SEEK_END)
    return log.read(1) == b"\n"


def _files(project: Project, run: RunHistory, stage: StageHistory) -> list[Path]:
    """The log files of a stage in the order they were written, from the run that executed it; what else lies there is none."""
    directory = log_directory(project.home, stage.made_in or run.id, stage.name)
    files = [file for file in directory.glob("*.log") if NUMBERED.match(file.name)] if directory.is_dir() else []
    written = {file: file.stat().st_mtime for file in files}
    first = min((at for file, at in written.items() if _order(file)[0]), default=0.0)

    def order(file: Path) -> tuple[bool, tuple[int, int], bool]:
        """What was taken back comes after all attempts, and what was found out of an earlier run before them."""
        return _order(file)[0] == 0 and written[file] >= first, _order(file), ".note." in file.name

    return sorted(files, key=order)


def _order(file: Path) -> tuple[int, int]:
    """The attempt, and the number of the action; notes have that of the action before them."""
    attempt, _, number = file.name.split(".")[0].partition("-")
    return int(attempt), int(number)
