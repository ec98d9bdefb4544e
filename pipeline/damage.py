"""A row of the journal that is not what was written: found where it is read, and said with the event it was."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from pipeline.errors import JournalError, said

DECODER = json.JSONDecoder()

LATEST = 253402300800.0
"""The year 10000 in seconds since the epoch: no calendar tells what is later, and no event is."""


class Row(NamedTuple):
    """Which event it was, as far as can be read, and where the journal is."""

    seq: int
    run: str
    kind: str
    stage: str
    where: str


class Damaged(JournalError):
    """What an event tells cannot be read, `why` says what of it; others of the journal may."""

    def __init__(self, row: Row, why: str) -> None:
        of = f"{row.kind!r} of {row.stage!r}" if row.stage else repr(row.kind)
        super().__init__(
            f"event {row.seq}, {of} in run {row.run!r}, was damaged: {why}",
            where=row.where,
            right="what a run wrote, as a copy of the journal has it if there is one",
            next="python -m pipeline runs shows what can be read; put the journal back from a copy, or move it away",
        )


class Told(dict[str, Any]):
    """What an event tells. To ask for a member that it does not have raises Damaged: it was written with all of them."""

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
        found = Told(DECODER.decode(text))
        found.row = row
        if not 0 <= at < LATEST:
            raise ValueError(f"{at} is no time")
        return found
    except UNFIT as error:
        raise Damaged(row, said(error)) from error
