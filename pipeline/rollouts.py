"""Rollouts as the journal tells them: a fold over the events of stages that deploy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.frozen import Frozen
from pipeline.journal import Event, Journal
from pipeline.lease import is_at_work
from pipeline.leftover import KINDS as EFFECTS
from pipeline.leftover import leftovers
from pipeline.order import ORDERED, REFUSED, Order

KINDS = (
    "effect.intended",
    "rollout.started",
    "rollout.intended",
    "rollout.done",
    "rollout.judged",
    "rollout.compared",
    "rollout.paused",
    "rollout.resumed",
    "rollout.promoted",
    "rollout.aborted",
    "rollout.back",
    "rollout.finished",
    "rollout.stuck",
    "rollout.stays",
    "effect.stands",
    "effect.failed",
    "undo.intended",
    "undo.done",
    "undo.failed",
    "experiment.started",
    "experiment.ended",
    ORDERED,
    REFUSED,
)
BEGINS = ("rollout.started", "experiment.started")
LOOKS = ("rollout.looked", "experiment.looked")
"""What a judge has seen, and an experiment: as many events as there are seconds, of which the last one tells all."""


class Step(Frozen):
    """The step at which a rollout is."""

    number: int = 0
    of: int = 0
    left: int = 0
    """Changes of the traffic that are still to come, its own among them."""
    text: str = ""


@dataclass(slots=True, kw_only=True)
class RolloutHistory:
    """One rollout. `state` is going on, paused, going back, deployed, verified, taken back, stuck half way, or cut off.

    An experiment is told as one too, which is going on, ended or cut off.
    """

    stage: str
    service: str
    """Which one, of a stage that deploys several."""
    run: str
    group: str
    started: float
    ended: float
    state: str = "going on"
    step: Step = field(default_factory=Step)
    weights: dict[str, int] = field(default_factory=dict)
    """Each group's share of the traffic in percent, as it was last changed."""
    said: str = ""
    """What its judge said last, or why it is paused or was taken back."""
    by: str = ""
    """Who paused or aborted it, and since when and why."""
    since: float = 0.0
    why: str = ""
    until: str = ""
    """What ends a pause that nobody can promote."""
    stepped: float = 0.0
    """When its step began."""
    orders: list[Order] = field(default_factory=list)
    experiment: bool = False
    about: str = ""
    """What the effect is about that it is part of."""
    _aborted: bool = False
    _not_now: str = ""
    """Why it was not taken back when that was tried, where it may be tried again."""
    _worker: str = ""
    """The run, or the order, by which it goes back."""

    @property
    def name(self) -> str:
        """What it is a rollout of."""
        return f"{self.stage} {self.service}" if self.service else self.stage

    @property
    def open(self) -> bool:
        """Whether it has not come to its end."""
        return self.state in ("going on", "paused", "going back")

    @property
    def worker(self) -> str:
        """The run that is at work on it, as long as it is open."""
        return self._worker or self.run

    @property
    def share(self) -> int:
        """Percent of the traffic that its group gets."""
        return self.weights.get(self.group, 0)

    def add(self, event: Event) -> None:
        """Take one more event into account."""
        data = event.data
        if event.kind == "effect.failed" and event.run != self.run:
            return  # of a run that did not come to a rollout of its own, as while all are frozen
        if event.kind not in (ORDERED, REFUSED):  # which may come long after
            self.ended = event.at
        self.state = STATES.get(event.kind, self.state)
        self.said = data.get(SAYS.get(event.kind, ""), "") or self.said
        match event.kind:
            case "rollout.intended":
                self._step(event)
            case "rollout.done":
                self.weights = data.get("weights", self.weights)
            case "rollout.paused" | "rollout.aborted":
                self._wait_for(data["by"], data["why"], event.at)
                self.until = data.get("until", "")
                self._aborted = event.kind == "rollout.aborted"
            case "rollout.resumed":
                self.by = self.until = ""
            case "rollout.back":
                self._worker = event.run
                self.by = self.by if self._aborted else ""  # who only paused it has not ended it
            case "rollout.finished":
                self.state = "taken back" if data.get("back") else "deployed"
            case "effect.stands":
                self.state = "verified" if self.state == "deployed" else self.state
            case "rollout.stays" | "undo.failed":
                self._not_now = data.get("why") or (data["error"] if data.get("later") else "")
            case "operator.ordered" | "operator.refused":
                self._order(event)

    def _step(self, event: Event) -> None:
        data = event.data
        self.stepped = event.at
        self.step = Step(number=data["number"], of=data["of"], left=data.get("left", 0), text=data["step"])
        if self.state == "going on":
            self.said = ""  # that was said of the step before

    def _wait_for(self, who: str, why: str, at: float) -> None:
        self.by, self.since, self.why = who, at, why
        if who == "the judge":  # whose reason is what it says
            self.said, self.why = why, ""

    def leave_open(self, said: str) -> None:
        """Say that nobody is at work on it, and why it was not taken back when that was tried."""
        self.said = f"{said}; not taken back yet: {self._not_now}" if self._not_now else said

    def see(self, event: Event) -> None:
        """Take the last look into account that there was at what is still open."""
        self.said = event.data.get("said", self.said)

    def _order(self, event: Event) -> None:
        """An order; one that was not theirs to give, or was given in a run of its own and could not be followed, is refused."""
        if event.kind == ORDERED:
            self.orders.append(Order.told(event))
            return
        refused = Order.told(event)._replace(why="", refused=event.data["why"])
        last = self.orders[-1] if self.orders else None
        if event.data.get("given") and last is not None and last.run == event.run:
            self.orders[-1] = last._replace(refused=refused.refused)
        else:
            self.orders.append(refused)


STATES = {
    "rollout.paused": "paused",
    "rollout.resumed": "going on",
    "rollout.back": "going back",
    "rollout.stuck": "stuck half way",
    "experiment.ended": "ended",
}
"""What a rollout is in after an event of the kind."""

SAYS = {
    "rollout.judged": "said",
    "rollout.compared": "said",
    "rollout.stuck": "error",
    "effect.failed": "error",
    "undo.done": "said",
    "undo.intended": "reason",
    "undo.failed": "error",
}
"""Where an event of the kind says why."""


def rollouts(events: Iterable[Event]) -> list[RolloutHistory]:
    """Every rollout that events of the kinds `KINDS` tell of, the oldest first. Pure.

    What is told of a stage is told of the rollouts of all its services.
    """
    found: list[RolloutHistory] = []
    latest: dict[str, dict[str, RolloutHistory]] = {}
    about: dict[str, str] = {}
    for event in events:
        data, service = event.data, event.data.get("service", "")
        of_stage = latest.setdefault(event.stage, {})
        if event.kind == "effect.intended":
            about[event.stage] = data.get("about", "")
            continue
        if event.kind == "undo.intended" and (undone := _about(found, event)):
            of_stage = latest[event.stage] = undone  # which need not be the latest ones
        if event.kind in BEGINS:
            if any(one.run != event.run for one in of_stage.values()):
                of_stage.clear()  # what is told from now on is not of those
            one = RolloutHistory(
                stage=event.stage,
                service=service,
                run=event.run,
                group=data["group"],
                started=event.at,
                ended=event.at,
                weights=dict(data["weights"]),
                experiment=event.kind == "experiment.started",
                about=about.get(event.stage, ""),
            )
            found.append(one)
            of_stage[service] = one
        elif service in of_stage:
            of_stage[service].add(event)
        elif not service:
            for one in of_stage.values():
                one.add(event)
    return found


def _about(found: Iterable[RolloutHistory], event: Event) -> dict[str, RolloutHistory]:
    """The latest rollouts, by service, that were part of what an event is about."""
    about = event.data.get("about", "")
    return {one.service: one for one in found if about and one.stage == event.stage and one.about == about}


def all_rollouts(journal: Journal) -> list[RolloutHistory]:
    """Every rollout there was, the oldest first."""
    return rollouts(journal.events(kind=KINDS))


def current(journal: Journal, home: Path) -> dict[str, RolloutHistory]:
    """The latest rollout by name; one whose run is not at work any more, and has not ended it, is cut off."""
    found = {one.name: one for one in all_rollouts(journal)}
    for one in found.values():
        look(journal, home, one)
        if one.open and (seen := _last_look(journal, one)) is not None:
            one.see(seen)
    return found


def look(journal: Journal, home: Path, one: RolloutHistory) -> None:
    """Take into account that its run may have ended without being able to say so."""
    if not (one.open or one.state == "deployed") or is_at_work(journal, home, one.worker):
        return
    again = "python -m pipeline recover takes it back, and so does the next run"
    if one.open:
        ended = "what took it back has" if one.state == "going back" and one.worker != one.run else "its run has"
        one.state = "cut off"
        one.leave_open(f"{ended} ended in the middle of it; {again}")
    elif any(left.run == one.run for left in leftovers(journal.events(kind=EFFECTS, stage=one.stage), undoable=True)):
        one.leave_open(f"its run has ended before anybody verified it; {again}")


def _last_look(journal: Journal, one: RolloutHistory) -> Event | None:
    """The last that was seen of it in its step."""
    if one.service:
        found = [event for event in journal.events(one.run, kind=LOOKS, stage=one.stage) if event.data["service"] == one.service]
        event = found[-1] if found else None
    else:
        event = journal.latest(one.stage, LOOKS, run=one.run)
    return event if event is not None and event.at >= one.stepped else None
