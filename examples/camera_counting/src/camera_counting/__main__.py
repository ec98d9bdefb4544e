"""Command line: `serve` and `migrate`."""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import psycopg
import uvicorn
from alembic.util import CommandError

from camera_counting import schema
from camera_counting.app import create_app

# Seconds for requests in flight to finish after SIGTERM.
_DRAIN = 20


class SettingError(ValueError):
    """An environment variable is missing or wrong."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "migrate":
            _migrate(_database_url(), options.down_to)
        else:
            if os.environ.get("CAMERA_COUNTING_MIGRATE") == "1":
                _migrate(_database_url(), None)
            _serve(_database_url())
    except (SettingError, CommandError, psycopg.Error) as error:
        # libpq spreads its messages over several lines.
        print(f"camera_counting: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m camera_counting",
        description="Counts people in the frames of fixed cameras.",
        epilog="Environment: DATABASE_URL (both commands), HOST and PORT (serve, default "
        "127.0.0.1 and 8000), CAMERA_COUNTING_COMMIT (serve, shown at /version), "
        "CAMERA_COUNTING_MIGRATE=1 (serve, migrates first: for a database of its own).",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="answer HTTP requests until SIGTERM")
    migrate = commands.add_parser("migrate", help="bring the database schema up to date")
    migrate.add_argument(
        "--down-to",
        metavar="REVISION",
        help='take back the migrations after this one instead; "base" takes back all',
    )
    return parser


def _database_url() -> str:
    url = os.environ.get("DATABASE_URL")
    if not url:
        raise SettingError("DATABASE_URL is not set, for example postgresql://user@host/database")
    return url


def _migrate(database_url: str, down_to: str | None) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if down_to is None:
        schema.upgrade(database_url)
    else:
        schema.downgrade(database_url, down_to)
    print(f"the schema is at {schema.revision(database_url)}", flush=True)


def _serve(database_url: str) -> None:
    host = os.environ.get("HOST", "127.0.0.1")
    port = os.environ.get("PORT", "8000")
    if not (port.isascii() and port.isdigit() and int(port) < 2**16):
        raise SettingError(f"PORT must be a number below 65536, not {port!r}")
    app = create_app(database_url, os.environ.get("CAMERA_COUNTING_COMMIT", "unknown"))
    # uvicorn drains on SIGTERM, then raises the signal again for whoever handled it
    # before: a requested stop is no failure, so the exit status is 0.
    signal.signal(signal.SIGTERM, _stop)
    uvicorn.run(app, host=host, port=int(port), timeout_graceful_shutdown=_DRAIN)


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
