"""The socket of a router: in a directory of its own that nobody else may enter, and what is told of one that does not answer."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from pathlib import Path

from pipeline import StageFailed


def sockets(state: Path) -> Path:
    """The directory of a router's socket: not below `state`, as the path of a socket has at most 107 letters.

    A router outlives the run, and the next one may have another TMPDIR, or none of the session it was started in.
    """
    name = hashlib.sha256(str(state).encode()).hexdigest()[:12]
    return Path(f"/tmp/lockgate-{os.getuid()}-{name}")  # noqa: S108 # nosec B108 - made as a private directory, and looked at


def private(place: Path, whose: str) -> None:
    """Make the directory, which nobody else may write to. Raises StageFailed where something else is there."""
    with contextlib.suppress(FileExistsError):
        place.mkdir(mode=0o700)
    found = place.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise StageFailed(
            f"something else is where the socket of {whose} has to be",
            where=str(place),
            right="a directory of this user that nobody else may enter, or nothing",
        )


def unanswered(error: Exception, within: float) -> str:
    """Why whoever listens there gave no answer in so many seconds; a connection that broke has no words of its own. Pure."""
    if isinstance(error, TimeoutError):
        return f"it takes more than {within:g} s"
    return str(error) or "it ended the connection"
