"""The course of a rollout: what the journal tells of how it began, ended, and went back. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline import NotNow, StageFailed
from stages.delivery.model import State

if TYPE_CHECKING:
    from pipeline.journal import Event


class NothingLeft(StageFailed):
    """A rollout cannot be gone back from: of what served before nothing is left, or nothing that can serve."""


class NobodyWell(NothingLeft, NotNow):
    """What served before runs, and cannot serve at the moment."""


@dataclass(frozen=True)
class Course:
    """The events of one service, the oldest first; of several rollouts the last one counts."""

    started: tuple[Event, ...]
    finished: tuple[Event, ...]
    """Ends, of ways forward and of ways back."""
    back: tuple[Event, ...]
    """Beginnings of ways back."""

    @staticmethod
    def of(events: Callable[[str], list[Event]], service: str = "", *, since: int = 0) -> Course:
        """By the events of each kind, from that number on; of one service, where a stage deploys several."""

        def found(kind: str) -> tuple[Event, ...]:
            all_of_them = events(f"rollout.{kind}")
            return tuple(one for one in all_of_them if one.seq >= since and one.data.get("service", "") == service)

        back = tuple(one for one in found("back") if "weights" in one.data)  # older ones said it by another name
        return Course(found("started"), found("finished"), back)

    @property
    def cut_off(self) -> Event | None:
        """What was begun last, forward or back, where nothing says that it came to an end."""
        last = max((*self.started, *self.back), key=lambda event: event.seq, default=None)
        return last if last is not None and all(event.seq < last.seq for event in self.finished) else None

    def way_back(self, group: str) -> Event | None:
        """A way back from the group that was begun and has not come to its end."""
        begun = self.cut_off
        return begun if begun is not None and begun in self.back and begun.data["group"] == group else None

    def rolled_out_since(self, group: str, run: str, by: Collection[str]) -> str:
        """Which run of those has rolled the group out last since that run did, and it did not go back; empty where none has."""
        mine = max((event.seq for event in self.started if event.run == run), default=0)
        found = going = ""
        for event in sorted((*self.started, *self.finished, *self.back), key=lambda one: one.seq):
            if event.seq <= mine:
                continue
            if event in self.started:
                going = event.run if event.data["group"] == group and event.run in by else ""
            elif event in self.back:
                going = ""
                found = "" if event.data["group"] == group else found
            elif not event.data.get("back"):
                found, going = going or found, ""
        return found

    @property
    def went_forward(self) -> bool:
        """Whether it came to its end, whatever followed."""
        return any(not event.data.get("back") for event in self._after(self.finished))

    @property
    def goes_back(self) -> bool:
        """Whether a way back from it was begun, wherever that came to."""
        return bool(self._after(self.back))

    @property
    def is_complete(self) -> bool:
        """Whether it came to its end, and no way back from it has begun."""
        return self.went_forward and not self.goes_back

    @property
    def is_taken_back(self) -> bool:
        """Whether it has gone back, to the end."""
        return self.cut_off is None and any(event.data.get("back") for event in self._after(self.finished))

    @property
    def is_change(self) -> bool:
        """Whether it was of another release than what served all before."""
        return bool(self.started) and self.started[-1].data["weights"].get(self.started[-1].data["group"]) != 100

    def _after(self, events: tuple[Event, ...]) -> list[Event]:
        """Those since it began."""
        return [event for event in events if self.started and event.seq > self.started[-1].seq]


def recovered(now: State, begun: Event) -> State:
    """What was true before what `begun` tells of, or what that way back leads to, as far as it still runs.

    Raises NothingLeft where somebody served then, none of them runs any more, and the group does; it is `now` where nobody runs.
    """
    served: dict[str, int] = {name: share for name, share in begun.data["weights"].items() if share > 0}
    weights = {name: share for name, share in served.items() if name in now.groups or name in now.resting}
    if served and not weights:
        if begun.data["group"] not in now.groups:
            return now
        raise nothing_left(begun.data["group"], served)
    return State(groups={name: now.groups[name] for name in begun.data["groups"] if name in now.groups}, weights=weights)


def nothing_left(group: str, gone: Iterable[str]) -> NothingLeft:
    """What is told where what served before the group was removed."""
    return NothingLeft(
        f"{group} goes on serving: there is nothing to go back to, as {', '.join(sorted(gone))} was removed",
        right="a release that is kept warm: a CleanUp removes it",
    )
