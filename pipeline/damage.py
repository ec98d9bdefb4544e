"""A row of the journal that is not what was written: found where it is read, and said with the event it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeAlias

from pipeline.errors import JournalError, said

scan: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
"""What `decode` does besides is to skip white space, of which an event has none."""

LATEST = 253402300800.0
"""The year 10000 in seconds since the epoch: no calendar tells what is later, and no event is."""


Row: TypeAlias = tuple[int, str, str, str, str]
"""Number, run, kind and stage of an event, as far as can be read, and where the journal is: one for each event that is read."""


class Damaged(JournalError):
    """What an event tells cannot be read, `why` says what of it; others of the journal may."""

    def __init__(self, row: Row, why: str) -> None:
        seq, run, kind, stage, where = row
        of = f"{kind!r} of {stage!r}" if stage else repr(kind)
        super().__init__(
            f"event {seq}, {of} in run {run!r}, was damaged: {why}",
            where=where,
            right="what a run wrote, as a copy of the journal has it if there is one",
            next="python -m pipeline runs shows what can be read; put the journal back from a copy, or move it away",
        )


class Told(dict[str, Any]):
    """What an event tells. To ask for a member that it does not have raises Damaged: it was written with all of them."""

    __slots__ = ("row",)
    row: Row

    def __missing__(self, name: str) -> Any:
        raise Damaged(self.row, f"it has no {name!r}")


UNFIT = (LookupError, TypeError, ValueError, AttributeError)
"""What is raised where something else is in an event than is asked for."""


def damaged(data: dict[str, Any], error: Exception) -> Exception:
    """What to raise where the data of an event did not fit: Damaged if they were read; those that were just made are whole."""
    return Damaged(data.row, said(error)) if isinstance(data, Told) else error


def told(text: str, at: float, row: Row) -> Told:
    """The data of an event as they were written. Raises Damaged where that is no object of JSON, or happened at no time."""
    try:
        value, end = scan(text, 0)
        found = Told(value)
        found.row = row
        if end != len(text):
            raise ValueError(f"there is more after its {end} characters")
        if not 0 <= at < LATEST:
            raise ValueError(f"{at} is no time")
        return found
    except StopIteration as error:
        raise Damaged(row, "it does not begin as JSON does") from error
    except UNFIT as error:
        raise Damaged(row, said(error)) from error
