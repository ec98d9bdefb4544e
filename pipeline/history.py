"""Runs as the journal tells them: folds over its events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pipeline.damage import UNFIT, damaged
from pipeline.journal import Event, Journal, cached


@dataclass(slots=True, kw_only=True)
class StageHistory:
    """One stage in one run."""

    name: str
    state: str = "waiting"
    """waiting, running, passed, cached, skipped, failed, blocked, interrupted or not reached."""
    reason: str = ""
    summary: str = ""
    concern: str = ""
    """Why nobody should go on because of the result; what a gate weighs."""
    error: str = ""
    tail: str = ""
    trace: str = ""
    seconds: float = 0.0
    started: float = 0.0
    attempts: int = 0
    actions: int = 0
    key: str = ""
    result: str = ""
    made_in: str = ""
    """The run that made the result of a cached stage."""
    undone: str = ""
    """`undone`, or why undoing failed."""
    network: list[str] = field(default_factory=list)
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    part_of: str = ""
    """The fan-out of which it is a part, or on which such a part rests: it became known while the run went on."""

    def weighed(self) -> list[str]:
        """For each verdict of a gate what its check is about, as in `unit`; of its inputs the checks follow the artifact."""
        checks = self.inputs[1 : 1 + len(self.verdicts)]
        names = [name.partition("[")[2].removesuffix("]") if name.endswith("]") else name for name in checks]
        return names if len(names) == len(self.verdicts) else [""] * len(self.verdicts)


@dataclass(slots=True, kw_only=True)
class RunHistory:
    """One run. `exit` is None while it is not finished: running, or killed."""

    id: str
    pipeline: str = ""
    engine: str = ""
    started: float = 0.0
    ended: float = 0.0
    exit: int | None = None
    about: dict[str, Any] = field(default_factory=dict)
    stages: dict[str, StageHistory] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return self.ended - self.started

    @property
    def state(self) -> str:
        return {None: "unfinished", 0: "passed", 1: "failed", 130: "interrupted"}.get(self.exit, "error")

    def counts(self) -> Counter[str]:
        """How many stages are in each state."""
        return Counter(stage.state for stage in self.stages.values())

    def add(self, event: Event) -> None:
        """Take one more event into account."""
        self.ended = event.at
        if event.kind == "run.started":
            self.started, self.about = event.at, event.data
            self.pipeline, self.engine = event.data["pipeline"], event.data["engine"]
            self._plan(event.data.get("stages", ()))  # journals of format 1 have the plan here
        elif event.kind == "run.resumed":
            self.started, self.about, self.exit = self.started or event.at, event.data, None
            self.pipeline, self.engine = event.data["pipeline"], event.data["engine"]
            for stage in self.stages.values():
                stage.state = "waiting" if stage.state in ("running", "interrupted", "not reached") else stage.state
        elif event.kind == "run.planned":
            self._plan(event.data["stages"])
        elif event.kind == "stage.cached":
            for one in cached(event):
                stage = self._stage(one.name)
                if one.made_in == self.id and stage.state == "passed":
                    continue  # the run was resumed, and found what it had done itself
                stage.state, stage.reason, stage.summary, stage.concern = "cached", one.reason, one.summary, one.concern
                stage.result, stage.key, stage.made_in = one.result, one.key or "", one.made_in
        elif event.kind == "run.finished":
            self.exit = event.data["exit"]
            for stage in self.stages.values():
                stage.state = {"running": "interrupted", "waiting": "not reached"}.get(stage.state, stage.state)
        elif event.stage:
            _add_to_stage(self._stage(event.stage), event)
            if event.kind == "stage.expanded":
                self._expand(event.stage, event.data["stages"])

    def _stage(self, name: str) -> StageHistory:
        found = self.stages.get(name)
        if found is None:
            found = self.stages[name] = StageHistory(name=name)
        return found

    def _plan(self, steps: Iterable[dict[str, Any]]) -> None:
        for step in steps:
            if step["name"] not in self.stages:  # else the run was resumed
                self.stages[step["name"]] = StageHistory(name=step["name"], inputs=step["inputs"], reason=step["reason"])

    def _expand(self, whole: str, parts: Iterable[dict[str, Any]]) -> None:
        self._plan({**part, "reason": f"a part of {whole}"} for part in parts)
        for part in parts:
            self.stages[part["name"]].part_of = whole


def _add_to_stage(stage: StageHistory, event: Event) -> None:
    data = event.data
    match event.kind:
        case "stage.started":
            stage.state, stage.attempts, stage.reason = "running", data["attempt"], data["reason"]
            stage.started = stage.started or event.at
        case "stage.expanded":
            stage.inputs = data["inputs"]
        case "stage.finished":
            stage.state, stage.summary, stage.seconds = "passed", data["summary"], data["seconds"]
            stage.result, stage.key, stage.made_in, stage.concern = (
                data["result"],
                data["key"] or "",
                event.run,
                data.get("concern", ""),
            )
        case "stage.skipped" | "stage.blocked":
            stage.state, stage.reason = event.kind.removeprefix("stage."), data["reason"]
        case "stage.failed" | "stage.retried":
            stage.state = "failed" if event.kind == "stage.failed" else "running"
            stage.error, stage.tail, stage.trace, stage.seconds = data["error"], data["tail"], data["trace"], data["seconds"]
        case "action.started":
            stage.actions += 1
        case "action.finished":
            stage.network.append(data["network"])
        case "gate.decided":
            stage.verdicts = data["verdicts"]
        case "undo.done":
            stage.undone = data.get("said") or "undone"
        case "undo.failed":
            stage.undone = f"could not be undone: {data['error']}"


def fold(events: Iterable[Event]) -> dict[str, RunHistory]:
    """All runs that the events tell of, the oldest first. Raises Damaged for an event that is not as one of its kind."""
    runs: dict[str, RunHistory] = {}
    for event in events:
        try:
            runs.setdefault(event.run, RunHistory(id=event.run)).add(event)
        except UNFIT as error:
            raise damaged(event.data, error) from error
    return runs


def one(journal: Journal, wanted: str) -> RunHistory | None:
    """The run whose id is `wanted` or begins with it; the latest one for an empty string."""
    ids = [run for run in journal.runs() if run.startswith(wanted)]
    return fold(journal.events(ids[-1]))[ids[-1]] if ids else None


def planned(journal: Journal, run: str) -> Iterator[dict[str, Any]]:
    """What was journalled of each stage when the run was planned, and when a fan-out came to it."""
    for event in journal.events(run, kind=("run.started", "run.planned", "stage.expanded")):
        in_format_1 = event.kind == "run.started"
        yield from event.data.get("stages", ()) if in_format_1 else event.data["stages"]


def recall_verdicts(run: RunHistory, journal: Journal) -> None:
    """Give the cached gates of a run their verdicts, which the runs that made their results journalled."""
    for stage in run.stages.values():
        if stage.state == "cached":
            for event in journal.events(stage.made_in, kind="gate.decided", stage=stage.name):
                stage.verdicts = event.data["verdicts"]
