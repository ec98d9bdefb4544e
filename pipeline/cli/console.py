"""What a person watches while a run goes on: a live tree on a terminal, plain lines elsewhere."""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import textwrap
from typing import Protocol, Self, TextIO

from pipeline.cli.hint import hint
from pipeline.cli.paint import Paint, shown
from pipeline.history import RunHistory, StageHistory
from pipeline.journal import Event, cached, each
from pipeline.order import ways_out


class View(Protocol):
    """Follows a run: events as they become durable, pieces of logs as they are written."""

    def event(self, event: Event) -> None: ...

    def log(self, stage: str, piece: bytes) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


def console(arguments: argparse.Namespace, out: TextIO) -> View:
    """The view that fits where the output goes."""
    if arguments.output == "json":
        return Stream(out)
    paint = Paint.on_stream(out, arguments.color)
    if out.isatty() and paint.on:
        from pipeline.cli.live import Live

        return Live(out, hint(arguments.directory))
    return Lines(out, paint, hint(arguments.directory))


class Stream:
    """Every event as one JSON object a line, as `docs/journal.md` describes them."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def event(self, event: Event) -> None:
        for one in each(event):
            about = {"seq": one.seq, "at": one.at, "run": one.run, "kind": one.kind, "stage": one.stage, **one.data}
            print(json.dumps(about), file=self._out)
        self._out.flush()

    def log(self, stage: str, piece: bytes) -> None:
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        return None


class Lines:
    """One line for each thing that happened; for logs of CI systems and for files."""

    def __init__(self, out: TextIO, paint: Paint, again: str) -> None:
        self._out, self._story = out, Story(paint, again, starts=True)

    def event(self, event: Event) -> None:
        for line in self._story.lines(event):
            print(line, file=self._out, flush=True)

    def log(self, stage: str, piece: bytes) -> None:
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        return None


BEGINS = ("run.started", "run.resumed")
SHOWN_ELSEWHERE = ("stage.started", "rollout.intended", "rollout.judged", "rollout.compared")
"""What a live view shows as long as a stage runs."""


class Story:
    """What is to be said of a run, event by event. `starts`: also that a stage starts, where nothing else shows what runs."""

    def __init__(self, paint: Paint, again: str, *, starts: bool) -> None:
        self.run = RunHistory(id="")
        self._paint, self._again, self._starts = paint, again, starts
        self._row = Row(paint)

    def lines(self, event: Event) -> list[str]:
        """What there is to say after one more event."""
        if event.kind in BEGINS:
            self.run = RunHistory(id=event.run)
        self.run.add(event)
        if event.kind == "stage.cached":
            return self._cached(event)
        stage = self.run.stages[event.stage] if event.stage else None
        return [*self._row.end(), *self._told(stage, event)]

    def _cached(self, event: Event) -> list[str]:
        """Those with a concern, or from elsewhere, are told by themselves, the others together once something else happens."""
        lines = []
        for one in cached(event):
            stage = self.run.stages[one.name]
            if stage.concern or event.stage:
                lines += [*self._row.end(), outcome(stage, self._paint)]
            else:
                self._row.add(stage)
        return lines

    def _told(self, stage: StageHistory | None, event: Event) -> list[str]:
        if event.kind in BEGINS:
            return [heading(self.run)]
        if event.kind == "run.finished":
            return closing(self.run, self._paint, self._again)
        if event.kind == "run.stopping":
            return [stopping(event, self._paint)]
        if event.kind in ("remote.off", "remote.unsent"):
            return [remote(event, self._paint)]
        if event.kind in ("workers.joined", "workers.off"):
            return [workers(event, self._paint)]
        line = said(stage, event, self._paint) if stage and (self._starts or event.kind not in SHOWN_ELSEWHERE) else ""
        return [line] if line else []


MARKS = {
    "passed": ("✓", "green"),
    "cached": ("≡", "cyan"),
    "skipped": ("-", "dim"),
    "failed": ("✗", "red"),
    "blocked": ("·", "dim"),
    "running": ("▶", "yellow"),
    "waiting": (" ", "dim"),
    "interrupted": ("!", "red"),
    "not reached": ("·", "dim"),
}


def heading(run: RunHistory) -> str:
    about = run.about
    commit = f" at {about['commit'][:12]}" if about.get("commit") else ""
    again = " resumed" if about.get("number") else ""
    return f"{run.pipeline}{commit}, run {run.id}{again} on {run.engine} ({about.get('reason', '')})"


MOST = 100
"""Names of stages that are told together; nobody reads more."""


class Row:
    """Stages one after another of which nothing had to run: a repeated run tells them together, and what runs stands out."""

    def __init__(self, paint: Paint) -> None:
        self._paint = paint
        self._stages: list[StageHistory] = []

    def add(self, stage: StageHistory) -> None:
        """To be told by `end`."""
        self._stages.append(stage)

    def end(self) -> list[str]:
        """The lines of what was kept; two stages or less are told one by one."""
        stages, self._stages = self._stages, []
        if len(stages) <= 2:
            return [outcome(stage, self._paint) for stage in stages]
        mark, colour = MARKS["cached"]
        more = f" and {len(stages) - MOST:,} more" if len(stages) > MOST else ""
        names = textwrap.wrap(
            ", ".join(stage.name for stage in stages[:MOST]) + more,
            shutil.get_terminal_size().columns,
            initial_indent="    ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        counted = self._paint("bold", f"{len(stages)} stages")
        return [f"{self._paint(colour, mark)} {counted} cached, what they depend on is unchanged:", *names]


def said(stage: StageHistory, event: Event, paint: Paint) -> str:
    """The line for an event of a stage; empty for events nobody needs to watch."""
    name = paint("bold", stage.name)
    if event.kind.startswith("rollout."):
        return rollout(stage, event, paint)
    match event.kind:
        case "stage.started":
            again = f", attempt {stage.attempts}" if stage.attempts > 1 else ""
            return f"{paint('yellow', '▶')} {name}{again}: {paint('dim', stage.reason)}"
        case "stage.expanded":
            return f"  {name} comes to {listed([part['name'] for part in event.data['stages']]) or 'nothing'}"
        case "stage.finished" | "stage.cached" | "stage.skipped" | "stage.blocked":
            return outcome(stage, paint)
        case "stage.failed":
            return failure(stage, event, paint)
        case "stage.retried":
            return f"{paint('yellow', '↻')} {name}: {shown(first_line(stage.error))}"
        case "gate.decided":
            return "\n".join(verdicts(stage, paint))
        case "effect.waits":
            return f"{paint('yellow', '‖')} {name} waits for another run, whose side effects are not confirmed yet"
        case "undo.intended":
            return f"{paint('yellow', '↩')} {name} goes back: {shown(event.data['reason'])}"
        case "undo.done" | "undo.failed":
            first, *rest = stage.undone.splitlines()
            said = f"{paint('green' if event.kind == 'undo.done' else 'red', '↩')} {name}: {shown(first)}"
            return "\n".join([said, *(f"      {shown(line.strip())}" for line in rest)])
    return ""


def rollout(stage: StageHistory, event: Event, paint: Paint) -> str:
    """The line for what happens in a rollout: its steps, what its judge has found, and who has it wait."""
    name = paint("bold", " ".join(filter(None, (stage.name, event.data.get("service")))))
    match event.kind:
        case "rollout.intended":
            return f"  {name} step {event.data['number']} of {event.data['of']}: {event.data['step']}"
        case "rollout.judged" | "rollout.compared":
            return f"  {name}: {shown(event.data['said'])}"
        case "rollout.paused":
            why = f": {shown(event.data['why'])}" if event.data["why"] else ""
            return f"{paint('yellow', '‖')} {name} is paused by {event.data['by']}{why}; {ways_out(event.data.get('until', ''))}"
        case "rollout.resumed":
            return f"{paint('yellow', '▶')} {name} goes on"
        case "rollout.back" if stage.state == "running":  # on its own, before anybody has it undone
            to = ", ".join(f"{share} % to {group}" for group, share in event.data.get("weights", {}).items() if share > 0)
            return f"{paint('yellow', '↩')} {name} goes back: {to or 'nobody served before'}"
        case "rollout.stays":
            return f"{paint('red', '↩')} {name} does not go back: {shown(event.data['why'])}"
    return ""


def outcome(stage: StageHistory, paint: Paint) -> str:
    """One line on how a stage ended."""
    mark, colour = ("!", "yellow") if stage.concern and stage.state in ("passed", "cached") else MARKS[stage.state]
    seconds = f" {stage.seconds:.1f}s" if stage.state in ("passed", "failed") else ""
    seconds += f", attempt {stage.attempts}" if stage.state == "failed" and stage.attempts > 1 else ""
    text = {
        "passed": stage.summary,
        "cached": f"{stage.summary or 'the same result'} (cached: {stage.reason})",
        "failed": first_line(stage.error),
    }.get(stage.state, stage.reason)
    return f"{paint(colour, mark)} {paint('bold', stage.name)}{paint('dim', seconds)}{': ' + shown(text) if text else ''}"


def first_line(error: str) -> str:
    """Of an error that says anything."""
    return next(iter(error.strip().splitlines()), "it does not say why") if error else ""


def failure(stage: StageHistory, event: Event, paint: Paint) -> str:
    """How a stage failed. Attempt 0 is none: the stage ended before, and its concern was told then."""
    mark, colour = MARKS["failed"]
    unjudged = f"{paint(colour, mark)} {paint('bold', stage.name)}: no gate has weighed it"
    return "\n".join([outcome(stage, paint) if event.data["attempt"] else unjudged, *particulars(stage, paint)])


def particulars(stage: StageHistory, paint: Paint) -> list[str]:
    """What else there is to know of a failed stage: the rest of its error, the end of its log."""
    rest = stage.error.splitlines()[1:]
    tail = stage.tail.strip().splitlines()[-12:]
    return [f"    {shown(line)}" for line in rest] + [paint("dim", f"    | {shown(line)}") for line in tail]


def verdicts(stage: StageHistory, paint: Paint) -> list[str]:
    """The gate's verdicts with the evidence they stood on; the particulars of those that are no pass."""
    lines = [
        f"  {paint('bold', stage.name)} weighs {len(stage.verdicts)} {'verdict' if len(stage.verdicts) == 1 else 'verdicts'}:"
    ]
    for name, verdict in zip(stage.weighed(), stage.verdicts, strict=True):
        about = f"{name}: " if name else ""
        ok = verdict["ruling"] == "passed"
        mark = paint("green", "✓") if ok else paint("red", "✗" if verdict["ruling"] == "failed" else "?")
        lines.append(
            f"    {mark} {about}{shown(verdict['rule'])}: {shown(verdict['said'])}"
            + paint("dim", f" [evidence {verdict['evidence'][:12]}]")
        )
        if not ok:
            lines += [f"        {shown(fact)}" for fact in verdict["facts"][:10]]
            more = len(verdict["facts"]) - 10
            lines += [f"        and {more} more"] if more > 0 else []
            lines.append(f"        would have passed: {shown(verdict['wanted'])}")
    return lines


def stopping(event: Event, paint: Paint) -> str:
    """What goes on after the user asked to stop more than once."""
    return f"{paint('yellow', '↩')} {event.data['said']}"


def remote(event: Event, paint: Paint) -> str:
    """What the remote cache does not do for this run."""
    data = event.data
    what = f"off for {data['of']}" if event.kind == "remote.off" else f"was not sent {listed(data['stages'])}"
    return f"{paint('yellow', '!')} remote cache {data['address']} {what}: {data['reason']}"


def workers(event: Event, paint: Paint) -> str:
    """Where actions are executed besides here, and when they no longer are."""
    data = event.data
    if event.kind == "workers.off":
        return f"{paint('yellow', '!')} cluster {data['address']} off, actions go on here: {data['reason']}"
    many, threads = len(data["workers"]), sum(data["workers"].values())
    return f"  cluster {data['address']}: {many} worker{'' if many == 1 else 's'}, {threads} thread{'' if threads == 1 else 's'}"


def listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def closing(run: RunHistory, paint: Paint, again: str) -> list[str]:
    """The last lines of a run: counts, and for a failure what failed, why, and the command that shows more.

    `again` is how this program is called, as in `python -m pipeline`.
    """
    order = ("passed", "cached", "skipped", "failed", "blocked", "interrupted", "not reached")
    found = run.counts()
    counts = ", ".join(f"{found[state]} {state}" for state in order if found[state])
    colour = "green" if run.exit == 0 else "red"
    lines = [f"{paint(colour, run.state)} in {run.seconds:.1f}s: {counts}"]
    failed = [stage for stage in run.stages.values() if stage.state == "failed" or stage.undone.startswith("could not")]
    if failed:
        first = failed[0]
        why = shown(f"failed: {first_line(first.error)}" if first.error else first_line(first.undone))
        lines.append(f"{paint('red', first.name)} {why}; {again} logs {shlex.quote(first.name)}")
    return lines
