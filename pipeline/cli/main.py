"""Where a command line becomes a command, and an error becomes one clear message and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from pipeline.cli.arguments import Usage, parse, parser
from pipeline.cli.output import lasting
from pipeline.errors import Exit, LockgateError


def main(words: Sequence[str]) -> int:
    """Run one command line; the exit code."""
    sys.stdout, sys.stderr = lasting(sys.stdout), lasting(sys.stderr)
    try:
        arguments = parse(list(words))
    except Usage as error:
        print(f"error: {error}", file=sys.stderr)
        return Exit.UNUSABLE
    if arguments.version:
        from pipeline import __version__

        print(f"lockgate {__version__}")
        return Exit.PASSED
    if arguments.command is None:
        parser().print_help()
        return Exit.UNUSABLE
    command: Callable[..., int] = import_module(f"pipeline.cli.{arguments.command}").command
    try:
        code = command(arguments)
        sys.stdout.flush()
        return code
    except LockgateError as error:
        return _say(error, error.exit, verbose=arguments.verbose)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return Exit.INTERRUPTED
    except OSError as error:
        from pathlib import Path

        from pipeline.store import unwritable

        return _say(unwritable(Path(error.filename or "."), error), Exit.UNUSABLE, verbose=arguments.verbose)
    except Exception as error:
        said = LockgateError(
            f"internal error: {type(error).__name__}: {error}", next="run again with --verbose and report what it shows"
        )
        return _say(said, Exit.UNUSABLE, verbose=arguments.verbose)


def _say(error: LockgateError, code: Exit, *, verbose: bool) -> int:
    if verbose:
        import traceback

        traceback.print_exc()
    print(f"error: {error}", file=sys.stderr)
    return code
