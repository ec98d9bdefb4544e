"""Figures in sentences."""

from __future__ import annotations


def counted(number: int, thing: str) -> str:
    """How many there are of a thing.

    >>> counted(1, "file"), counted(0, "file"), counted(1200, "file")
    ('1 file', '0 files', '1,200 files')
    """
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
