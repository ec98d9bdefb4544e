"""Colours on a terminal that wants them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TextIO

CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36"}


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
