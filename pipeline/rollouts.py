"""Rollouts as the journal tells them: a fold over the events of stages that deploy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.frozen import Frozen
from pipeline.journal import Event, Journal
from pipeline.lease import is_at_work
from pipeline.order import ORDERED, Order

KINDS = (
    "rollout.started",
    "rollout.intended",
    "rollout.done",
    "rollout.judged",
    "rollout.paused",
    "rollout.resumed",
    "rollout.promoted",
    "rollout.aborted",
    "rollout.back",
    "rollout.finished",
    "rollout.stuck",
    "effect.stands",
    "effect.failed",
    "undo.intended",
    "undo.failed",
    ORDERED,
)


class Step(Frozen):
    """The step at which a rollout is."""

    number: int = 0
    of: int = 0
    left: int = 0
    """Changes of the traffic that are still to come, its own among them."""
    text: str = ""


@dataclass(slots=True, kw_only=True)
class RolloutHistory:
    """One rollout. `state` is going on, paused, going back, deployed, verified, taken back, stuck half way, or cut off."""

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
    """Who paused or aborted it."""
    orders: list[Order] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What it is a rollout of."""
        return f"{self.stage} {self.service}" if self.service else self.stage

    @property
    def open(self) -> bool:
        """Whether it has not come to its end."""
        return self.state in ("going on", "paused", "going back")

    @property
    def share(self) -> int:
        """Percent of the traffic that its group gets."""
        return self.weights.get(self.group, 0)

    def add(self, event: Event) -> None:
        """Take one more event into account."""
        data = event.data
        if event.kind != ORDERED:  # which may come long after
            self.ended = event.at
        self.state = STATES.get(event.kind, self.state)
        self.said = data.get(SAYS.get(event.kind, ""), "") or self.said
        match event.kind:
            case "rollout.intended":
                self.step = Step(number=data["number"], of=data["of"], left=data.get("left", 0), text=data["step"])
            case "rollout.done":
                self.weights = data.get("weights", self.weights)
            case "rollout.paused" | "rollout.aborted":
                self.by = data["by"]
            case "rollout.resumed":
                self.by = ""
            case "rollout.finished":
                self.state = "taken back" if data.get("back") else "deployed"
            case "effect.stands":
                self.state = "verified" if self.state == "deployed" else self.state
            case "operator.ordered":
                self.orders.append(Order.told(event))


STATES = {
    "rollout.paused": "paused",
    "rollout.resumed": "going on",
    "rollout.back": "going back",
    "rollout.stuck": "stuck half way",
}
"""What a rollout is in after an event of the kind."""

SAYS = {
    "rollout.judged": "said",
    "rollout.paused": "why",
    "rollout.aborted": "why",
    "rollout.stuck": "error",
    "effect.failed": "error",
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
    for event in events:
        data, service = event.data, event.data.get("service", "")
        of_stage = latest.setdefault(event.stage, {})
        if event.kind == "rollout.started":
            if any(one.run != event.run for one in of_stage.values()):
                of_stage.clear()  # what is told from now on is not of those
            about = {"stage": event.stage, "service": service, "run": event.run, "group": data["group"]}
            one = RolloutHistory(**about, started=event.at, ended=event.at, weights=dict(data["weights"]))
            found.append(one)
            of_stage[service] = one
        elif service in of_stage:
            of_stage[service].add(event)
        elif not service:
            for one in of_stage.values():
                one.add(event)
    return found


def all_rollouts(journal: Journal) -> list[RolloutHistory]:
    """Every rollout there was, the oldest first."""
    return rollouts(journal.events(kind=KINDS))


def current(journal: Journal, home: Path) -> dict[str, RolloutHistory]:
    """The latest rollout by name; one whose run is not at work any more, and has not ended it, is cut off."""
    found = {one.name: one for one in all_rollouts(journal)}
    for one in found.values():
        if one.open and not is_at_work(journal, home, one.run):
            one.state, one.said = "cut off", "its run has ended in the middle of it; the next run takes it back"
    return found
