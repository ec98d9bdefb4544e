"""The body of a request, which may not be larger than is allowed."""

from __future__ import annotations

from email.message import Message
from io import BufferedIOBase

PIECE = 1 << 16


class BadBody(Exception):
    """Why a body is not taken; `status` is what HTTP has for it."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def body(headers: Message, file: BufferedIOBase, largest: int) -> bytes:
    """Read it. Raises BadBody.

    Of one that is too large as much again is read and thrown away: who still sends when the connection is closed does not see
    the answer.
    """
    length = headers.get("Content-Length", "")
    if not (length.isascii() and length.isdecimal()):
        raise BadBody(411, "Content-Length is wanted")
    if int(length) > largest:
        left = min(int(length), 2 * largest)
        while left > 0 and (piece := file.read(min(left, PIECE))):
            left -= len(piece)
        raise BadBody(413, f"at most {largest} bytes")
    return file.read(int(length))
