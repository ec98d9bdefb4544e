"""Where a command line becomes a command, and an error becomes one clear message and an exit code."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TextIO

from pipeline.cli.arguments import VERBS, Usage, directory, parse, parser
from pipeline.cli.output import lost
from pipeline.errors import Exit, LockgateError, said


def main(words: Sequence[str]) -> int:
    """Run one command line; the exit code."""
    out = sys.stdout
    try:
        arguments = parse(list(words))
    except Usage as error:
        from pipeline.cli.hint import hint

        print(f"error: {error}".replace("python -m pipeline", hint(directory(words))), file=sys.stderr)
        return Exit.UNUSABLE
    except SystemExit:  # --help was shown
        return _written(out, Exit.PASSED)
    with contextlib.redirect_stdout(sys.stderr):  # what others print is none of the command's output
        code = _run(arguments, out)
    return _written(out, code, ran=arguments.command == "run" and not arguments.dry_run)


def _run(arguments: argparse.Namespace, out: TextIO) -> int:
    if arguments.version:
        from pipeline import __version__

        print(f"lockgate {__version__}", file=out)
        return Exit.PASSED
    if arguments.command is None:
        parser().print_help(out)
        return Exit.UNUSABLE
    module = "order" if arguments.command in VERBS else arguments.command
    command: Callable[..., int] = import_module(f"pipeline.cli.{module}").command
    try:
        return command(arguments, out)
    except LockgateError as error:
        from pipeline.cli.hint import hint

        error.next = error.next.replace("python -m pipeline", hint(arguments.directory))
        return _say(error, error.exit, verbose=arguments.verbose)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return Exit.INTERRUPTED
    except OSError as error:
        from pathlib import Path

        from pipeline.store import unwritable

        return _say(unwritable(Path(error.filename or "."), error), Exit.UNUSABLE, verbose=arguments.verbose)
    except Exception as error:
        internal = LockgateError(f"internal error: {said(error)}", next="run again with --verbose and report what it shows")
        return _say(internal, Exit.UNUSABLE, verbose=arguments.verbose)


def _written(out: TextIO, code: int, *, ran: bool = False) -> int:
    """The exit code, when all is said. Output that is lost is an error, unless a run `ran`: the journal has what it did."""
    error = lost(out)
    if error is None:
        return code
    _say(
        LockgateError(
            f"the output cannot be written: {error.strerror}",
            right="room for all of it",
            next="python -m pipeline report" if ran else "df -h, then the same command again",
        )
    )
    return code if ran else code or Exit.UNUSABLE


def _say(error: LockgateError, code: int = Exit.UNUSABLE, *, verbose: bool = False) -> int:
    if verbose:
        import traceback

        traceback.print_exc()
    print(f"error: {error}", file=sys.stderr)
    return code
