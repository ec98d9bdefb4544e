"""Signals in programs that tests start."""

from __future__ import annotations

import signal


def heard() -> None:
    """For `preexec_fn`: a program in the background of a shell, or under nohup, is born deaf to some signals, and so are the
    tests where they are such a program."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
