"""Colours on a terminal that wants them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TextIO

CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36"}


CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""What moves a terminal's cursor, or turns the direction of what is written."""
COLOURED = re.compile("\x1b\\[[0-9;]*m")
LONGEST = 2000
"""Characters of one text that are shown; the journal has all of it."""


def shown(text: str) -> str:
    """What a stage or a program says, on one line of a terminal: it moves no cursor and begins no line of its own.

    >>> shown("a\\x1b[31mb\\x1b[0m\\rc")
    'ab\\\\x0dc'
    """
    plain = CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", COLOURED.sub("", text[: LONGEST * 2]))
    line = plain.replace("\n", "\\n").replace("\t", " ")
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}..."


@dataclass(frozen=True)
class Paint:
    """Wraps text in ANSI colours, or leaves it as it is."""

    on: bool

    @staticmethod
    def on_stream(stream: TextIO, wanted: str) -> Paint:
        """`wanted` is auto, always or never; NO_COLOR (no-color.org) and dumb terminals turn `auto` off."""
        if wanted != "auto":
            return Paint(wanted == "always")
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        return Paint(stream.isatty() and not plain)

    def __call__(self, colour: str, text: str) -> str:
        return f"\x1b[{CODES[colour]}m{text}\x1b[0m" if self.on and text else text
