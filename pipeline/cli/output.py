"""Standard output and error that last as long as the command, whether or not anybody reads them."""

from __future__ import annotations

import errno
import io
import os
import stat
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class Lasting(io.FileIO):
    """A file descriptor that drops what is written once nobody is left to read it: no run dies of that."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if not self._is_unread(error):
                raise
            with open(os.devnull, "wb") as nothing:
                os.dup2(nothing.fileno(), self.fileno())
            return memoryview(data).nbytes

    def _is_unread(self, error: OSError) -> bool:
        """Whether a pipe's reader has gone, or the terminal was closed; a disk that fails is another matter."""
        closed = error.errno == errno.EIO and stat.S_ISCHR(os.fstat(self.fileno()).st_mode)
        return error.errno == errno.EPIPE or closed


def lasting(stream: TextIO) -> TextIO:
    """The same stream, which goes on when its reader has gone and shows what it cannot encode as escapes."""
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    try:
        number = stream.fileno()
    except OSError:
        return stream  # captured in memory
    stream.flush()
    file = Lasting(number, "wb", closefd=False)
    return io.TextIOWrapper(
        file if stream.write_through else io.BufferedWriter(file),
        encoding=stream.encoding,
        errors="backslashreplace",  # a terminal that cannot show a letter is no reason to fail
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
