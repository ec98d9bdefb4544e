"""Two runs side by side: which stages came to another end, and what of their keys differs. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline.explanation import Change
from pipeline.history import RunHistory, StageHistory

Components = Callable[[str], Mapping[str, str] | None]
"""What a key was made of; None where nobody knows it any more."""

Changes = Callable[[Mapping[str, str], Mapping[str, str]], tuple[Change, ...]]


@dataclass(frozen=True)
class Contrast:
    """A stage in which two runs differ. A state is empty where the run did not have the stage."""

    stage: str
    before: str
    now: str
    result_before: str
    result_now: str
    changes: tuple[Change, ...] = ()
    forgotten: bool = False
    """Whether the keys differ, and nobody knows any more in what."""


def contrasts(one: RunHistory, other: RunHistory, components: Components, changes: Changes) -> tuple[Contrast, ...]:
    """The stages in which `other` differs from `one`: by what they came to, by their result, or by what they depend on."""
    names = dict.fromkeys([*one.stages, *other.stages])
    nothing = StageHistory(name="", state="")
    pairs = ((name, one.stages.get(name, nothing), other.stages.get(name, nothing)) for name in names)
    return tuple(_contrast(name, before, now, components, changes) for name, before, now in pairs if _differ(before, now))


def _differ(before: StageHistory, now: StageHistory) -> bool:
    same_end = {"cached": "passed"}.get(before.state, before.state) == {"cached": "passed"}.get(now.state, now.state)
    return not same_end or before.result != now.result or before.key != now.key


def _contrast(name: str, before: StageHistory, now: StageHistory, components: Components, changes: Changes) -> Contrast:
    found: tuple[Change, ...] = ()
    forgotten = False
    if before.key and now.key and before.key != now.key:
        old, new = components(before.key), components(now.key)
        forgotten = old is None or new is None
        found = () if old is None or new is None else changes(old, new)
    return Contrast(name, before.state, now.state, before.result, now.result, found, forgotten)
