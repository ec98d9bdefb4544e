"""What supervisors did, in a file that outlives them."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Act:
    """One instance, known by its port, was started, or ended; `why`, and after how many seconds it is started again."""

    at: float
    """Seconds since 1970."""
    port: int
    did: Literal["started", "ended", "restarts"]
    why: str = ""
    wait: float = 0.0


@dataclass(frozen=True)
class Acts:
    """One line of JSON for each act, in `file`."""

    file: Path

    def note(self, act: Act) -> None:
        """Raises OSError where it cannot be, and nothing of it is there: the next one would be written behind half a line."""
        line = json.dumps(asdict(act)).encode() + b"\n"
        with self.file.open("ab", buffering=0) as file:
            size, written = file.tell(), 0
            try:
                written = file.write(line)
            finally:
                if written != len(line):
                    file.truncate(size)
        if written != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.file))

    def all(self) -> Iterator[Act]:
        """Those that are written to the end of their line; what was damaged tells nothing, and is no reason to fail."""
        try:
            lines = self.file.read_text().splitlines(keepends=True)
        except FileNotFoundError:
            return
        for line in lines:
            if line.endswith("\n"):
                with suppress(ValueError, TypeError):
                    yield Act(**json.loads(line))


def act(port: int, did: Literal["started", "ended", "restarts"], why: str = "", wait: float = 0.0) -> Act:
    """What happens now."""
    return Act(at=time.time(), port=port, did=did, why=why, wait=wait)
