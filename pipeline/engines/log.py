"""The log of an action on its way to a file and to those who listen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO

from pipeline.engine import Listener
from pipeline.masking import Masker

TAIL = 4096
"""Bytes of the end of a log that a result holds."""


class Log:
    """Masks secrets in what it is given, writes it to `file`, and tells `listen`; `tail` is how it ends so far."""

    def __init__(self, file: IO[bytes], secrets: Iterable[str], listen: Listener) -> None:
        self._file, self._masker, self._listen = file, Masker(secrets), listen
        self.tail = b""

    def write(self, piece: bytes) -> None:
        self._show(self._masker.feed(piece))

    def end(self) -> None:
        """Nothing follows: show what was kept back because a secret might have begun there."""
        self._show(self._masker.end())

    def _show(self, shown: bytes) -> None:
        if shown:
            self._file.write(shown)
            self._file.flush()
            self.tail = (self.tail + shown)[-TAIL:]
            self._listen(shown)
