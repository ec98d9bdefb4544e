"""Errors that say what was wrong, where, what would have been right, and the next command."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import IntEnum


class Exit(IntEnum):
    """What the process tells the shell that started it."""

    PASSED = 0
    """Every selected stage passed, was cached or was skipped for a stated reason."""
    FAILED = 1
    """A stage or a gate failed: the pipeline did its work and said no."""
    UNUSABLE = 2
    """Usage, configuration or internal error: the pipeline could not do its work."""
    WAITING = 3
    """The run waits for an approval."""
    INTERRUPTED = 130
    """Stopped by the user or by the machine."""


class LockgateError(Exception):
    """The root of every error this library raises on purpose.

    `what` was wrong, `where` it was found, what would have been `right`, and the `next` command to run.
    """

    exit = Exit.UNUSABLE

    def __init__(self, what: str, *, where: str = "", right: str = "", next: str = "") -> None:  # noqa: A002 - the word users read
        self.what, self.where, self.right, self.next = what, where, right, next
        super().__init__(what)

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.right:
            lines.append(f"  expected: {self.right}")
        if self.next:
            lines.append(f"  next: {self.next}")
        return "\n".join(lines)


class ConfigError(LockgateError):
    """`pyproject.toml` or the user's pipeline file cannot be used."""


class WiringError(LockgateError):
    """The stages do not make a pipeline: a cycle, a name used twice, evidence about something else."""


class UndeclaredInput(LockgateError):
    """A stage asked for the result of a stage that is none of its inputs."""


class StoreError(LockgateError):
    """The store cannot be read or written, or holds something else than it should."""


class JournalError(LockgateError):
    """The journal cannot be read or written."""


class EngineError(LockgateError):
    """The engine itself failed, as opposed to the command it ran."""


class StageFailed(LockgateError):
    """A stage did its work and the answer is no."""

    exit = Exit.FAILED


class BrokenOff(StageFailed):
    """A stage broke off in the middle of its work: nobody knows whether its side effect took place, if it has one."""


class NotNow(StageFailed):
    """A stage refuses what it was asked for, and has changed nothing: later it may be asked again."""


class CommandFailed(BrokenOff):
    """A command of a stage ended with an exit code it must not end with; half of what it does may be done."""

    def __init__(self, argv: tuple[str, ...], exit_code: int, tail: str, *, expected: str = "exit code 0") -> None:
        self.argv, self.exit_code, self.tail = argv, exit_code, tail
        command = " ".join(argv[:4]) + (" ..." if len(argv) > 4 else "")
        super().__init__(f"`{command}` ended with exit code {exit_code}: {telling(tail)}", right=expected)


TELLING = re.compile(r"error\s*:|fatal\s*:|╰─▶", re.IGNORECASE)
"""What stands in the line in which a program says what is wrong; the last is how uv draws it."""


def telling(output: str) -> str:
    """The line of a program's output that says why it failed: the last one that looks like it, else the last one.

    >>> telling("ERROR: file or directory not found: tests\\n\\n=== no tests ran in 0.01s ===")
    'ERROR: file or directory not found: tests'
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    found = [line for line in lines if TELLING.search(line)] or lines
    return found[-1] if found else "it printed nothing"


class StageTimeout(BrokenOff):
    """An attempt took longer than the stage allows."""


def said(error: BaseException) -> str:
    """What an exception says: one of ours in its own words, any other with its type before them."""
    name = type(error).__name__
    try:
        return str(error) if isinstance(error, LockgateError) else f"{name}: {error}"
    except KeyboardInterrupt:
        raise
    except BaseException:  # raised by its `__str__`; the exception itself is the one to tell of
        return f"{name}, which cannot be put into words"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint such as `did you mean 'image'?`, or the known words when none is near.

    >>> did_you_mean("imgae", ["image", "unit"])
    "did you mean 'image'?"
    >>> did_you_mean("zzz", ["image", "unit"])
    'one of: image, unit'
    """
    import difflib  # only who has misspelt something waits for it

    words = sorted(known)
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"one of: {', '.join(words)}" if words else "nothing is known here"
