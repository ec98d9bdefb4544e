"""Standard output and error that last as long as the command, whether or not anybody reads them.

Standard output belongs to the command, which is handed it. What anything else prints, the pipeline file, a stage, a
program that one of them starts, goes to standard error: it would be in the middle of what another program reads.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STDOUT, STDERR = 1, 2


class Lasting(io.FileIO):
    """A file descriptor that drops everything from the first write that fails: what is done must not depend on it.

    `lost` is why; None as well where it is only that nobody is left to read.
    """

    lost: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        left = memoryview(data)
        while left:
            left = left[self._some(left) :]
        return memoryview(data).nbytes

    def _some(self, data: memoryview) -> int:
        """As much as can be written now; of a pipe that is full and not to be waited for, nothing until it is not."""
        try:
            written = super().write(data)
        except OSError as error:
            self.lost = None if self._is_unread(error) else error
            with open(os.devnull, "wb") as nothing:
                os.dup2(nothing.fileno(), self.fileno())
            return data.nbytes
        if written is None:
            import select

            select.select((), (self,), ())
        return written or 0

    def _is_unread(self, error: OSError) -> bool:
        """Whether a pipe's reader has gone, or the terminal was closed; a disk that fails is another matter."""
        closed = error.errno == errno.EIO and stat.S_ISCHR(os.fstat(self.fileno()).st_mode)
        return error.errno == errno.EPIPE or closed


def lasting(stream: TextIO | None, number: int) -> TextIO:
    """`stream` on the descriptor `number`: it never fails, and shows what it cannot encode as escapes."""
    if stream is not None:
        stream.flush()
    by_line, at_once = getattr(stream, "line_buffering", False), getattr(stream, "write_through", False)
    file = Lasting(number, "wb", closefd=False)
    return io.TextIOWrapper(
        file if at_once else io.BufferedWriter(file),
        encoding=stream.encoding if stream is not None else "utf-8",
        errors="backslashreplace",  # a terminal that cannot show a letter is no reason to fail
        line_buffering=by_line,
        write_through=at_once,
    )


def lost(stream: TextIO) -> OSError | None:
    """Why not all that was written to a lasting stream arrived, although somebody is there to read it."""
    stream.flush()
    buffer = getattr(stream, "buffer", None)
    file = getattr(buffer, "raw", buffer)
    return file.lost if isinstance(file, Lasting) else None


def take_over() -> None:
    """Make both streams last, standard output on a descriptor that no other program is given: its number leads to standard error.

    What was closed before this process began leads nowhere, or the next file that is opened would be taken for it.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        pass
    os.close(number)
    sys.stdout, sys.stderr = lasting(sys.stdout, os.dup(STDOUT)), lasting(sys.stderr, STDERR)
    os.dup2(STDERR, STDOUT)
