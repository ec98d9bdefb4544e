"""What instances write to their logs as a source of metrics: lines that match a pattern."""

from __future__ import annotations

import os
import re
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Protocol

import anyio

from pipeline import WiringError, Work
from stages.delivery.sources.polled import Ask, Polled, Reading, Unknown
from stages.delivery.target import Logs

CHUNK = 1 << 20
"""Bytes read at once."""

LONGEST = 1 << 16
"""Bytes of a line that are looked at; the rest of a longer one is passed over."""


class OpensLogs(Protocol):
    """Configuration of a target that keeps logs."""

    def open(self, work: Work) -> Logs: ...


@dataclass(frozen=True, kw_only=True)
class LogShare:
    """Lines in the logs of `target` that match `of`, and how many of these match `bad` too.

    Both are regular expressions that are searched for in each line. Lines count from the moment on at which the watch begins; a
    file that was rotated or truncated is followed on.
    """

    name: str
    target: OpensLogs
    of: str
    bad: str
    every: float = 0.5
    """Seconds from one look at the files to the next."""
    timeout: float = 5.0

    def __post_init__(self) -> None:
        for pattern in (self.of, self.bad):
            try:
                re.compile(pattern)
            except re.error as error:
                where = f"LogShare(name={self.name!r})"
                raise WiringError(f"{where}: {pattern!r}: {error}", where=where, right="a regular expression") from error

    def open(self, work: Work) -> LogMetrics:
        return LogMetrics(self, work.say, self.target.open(work))


@dataclass(frozen=True)
class LogMetrics(Polled[LogShare]):
    """Logs that are followed while a rollout is weighed."""

    logs: Logs

    @asynccontextmanager
    async def asking(self, sides: Sequence[Collection[str]]) -> AsyncIterator[Ask]:
        groups = {group: Followed(self.config, self.logs, group) for side in sides for group in side}

        async def read(asked: Collection[str]) -> Mapping[str, Reading]:
            return {group: await anyio.to_thread.run_sync(groups[group].read) for group in asked}

        try:
            yield read
        finally:
            for one in groups.values():
                one.close()


@dataclass
class Followed:
    """The logs of one group from now on, and what was counted in them."""

    config: LogShare
    logs: Logs
    group: str
    _files: dict[Path, File] | None = None
    _part: int = 0
    _of: int = 0

    @cached_property
    def _patterns(self) -> tuple[re.Pattern[str], re.Pattern[str]]:
        return re.compile(self.config.of), re.compile(self.config.bad)

    def read(self) -> Reading:
        """Count the lines that were finished since. Raises Unknown where there is no log, or one cannot be read."""
        first = self._files is None
        self._files = self._files or {}
        found = self.logs.logs(self.group)
        if not found:
            raise Unknown(f"{self.group} has no log")
        try:
            for path in found:
                if path not in self._files:
                    self._files[path] = File(path, from_its_end=first)
            for file in self._files.values():
                for line in file.lines():
                    self._count(line)
        except OSError as error:
            raise Unknown(f"{error.filename}: {error.strerror}") from error
        return Reading(part=self._part, of=self._of, at=time.monotonic())

    def _count(self, line: str) -> None:
        of, bad = self._patterns
        if of.search(line):
            self._of += 1
            self._part += bad.search(line) is not None

    def close(self) -> None:
        for file in (self._files or {}).values():
            file.close()


@dataclass
class File:
    """A log that grows, is renamed and begun anew, or is emptied. Its last line is not told before it is finished."""

    path: Path
    from_its_end: bool = False
    _file: BinaryIO | None = None
    _left: bytes = b""
    _whole: bool = field(init=False)
    """Whether what is left is the beginning of a line: not where it is the end of one that was not seen, or is too long."""

    def __post_init__(self) -> None:
        self._file = self.path.open("rb")
        self._whole = True
        if self.from_its_end and (size := self._file.seek(0, os.SEEK_END)):
            self._file.seek(size - 1)
            self._whole = self._file.read(1) == b"\n"

    def lines(self) -> Iterator[str]:
        """The lines that were finished since. Raises OSError."""
        if self._file is not None:
            yield from self._rest(self._file)
        try:
            found = self.path.stat()
        except FileNotFoundError:  # renamed, and not begun anew yet; or its group was stopped
            return
        if self._file is None or not os.path.samestat(found, os.fstat(self._file.fileno())):
            self.close()
            self._file, self._left, self._whole = self.path.open("rb"), b"", True
            yield from self._rest(self._file)

    def _rest(self, file: BinaryIO) -> Iterator[str]:
        if os.fstat(file.fileno()).st_size < file.tell():
            file.seek(0)
            self._left, self._whole = b"", True
        while piece := file.read(CHUNK):
            *lines, self._left = (self._left + piece).split(b"\n")
            for line in lines:
                if self._whole:
                    yield line[:LONGEST].decode(errors="replace")
                self._whole = True
            if len(self._left) > LONGEST:
                if self._whole:
                    yield self._left[:LONGEST].decode(errors="replace")
                self._left, self._whole = b"", False

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
