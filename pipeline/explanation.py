"""What changed between two keys of a stage, down to the files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.data import Blob, Tree
from pipeline.errors import StoreError
from pipeline.plan import Lookup, Step, difference
from pipeline.store import Store


@dataclass(frozen=True)
class Change:
    """One component of the key, before and now; `details` name the files where it stands for a tree."""

    component: str
    before: str
    now: str
    details: tuple[str, ...] = ()


def changes(step: Step, store: Store, lookup: Lookup, last: Mapping[str, str]) -> tuple[Change, ...]:
    """The components of the step's key that differ from those of the latest result of the stage of its name."""
    key = last.get(step.name)
    before = lookup(key) if key else None
    if before is None or step.components is None:
        return ()
    old, new = before.components, step.components
    return tuple(
        Change(name, old.get(name, ""), new.get(name, ""), _details(store, old.get(name, ""), new.get(name, "")))
        for name in difference(old, new)
    )


def _details(store: Store, before: str, now: str) -> tuple[str, ...]:
    """The files in which two trees differ; empty where the digests stand for something else."""
    old, new = files(store, before), files(store, now)
    if old is None or new is None:
        return ()
    lines = []
    for path in sorted(old.keys() | new.keys()):
        was, became = old.get(path), new.get(path)
        if was is None and became is not None:
            lines.append(f"{path} is new ({became[:12]})")
        elif became is None and was is not None:
            lines.append(f"{path} is gone ({was[:12]})")
        elif was != became and was and became:
            lines.append(f"{path} {was[:12]} -> {became[:12]}")
    return tuple(lines)


def files(store: Store, name: str) -> dict[str, str] | None:
    """Path to digest for the listing of a tree, or for a result that is a tree; None for anything else."""
    if len(name) != 64 or not store.has_object(name):
        return None
    try:
        content = json.loads(store.read(Blob(digest=name, size=0)))
        if isinstance(content, dict) and content.keys() == set(Tree.model_fields):
            name, content = content["digest"], None
        if content is not None and not isinstance(content, list):
            return None
        return {entry.path: entry.target for entry in store.entries(Tree(digest=name, files=0, size=0))}
    except (StoreError, ValueError, TypeError):
        return None  # bytes of some other kind
