"""Migrates a database with one version of the code after the other, then runs tests of one of them: a program of its own.

    compatibility.py MIGRATE... -- TEST...

MIGRATE is a command, run in `schema-0`, then in `schema-1` where there is one; TEST is run in `code`. Each has the PYTHONPATH
that a variable of its own names (PYTHONPATH_CODE, PYTHONPATH_SCHEMA_0). Exit code 90 says that a migration failed, else it is
that of TEST.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

MIGRATION_FAILED = 90


def main(words: list[str]) -> int:
    cut = words.index("--")
    migrate, test = words[:cut], words[cut + 1 :]
    here = Path.cwd()
    for place in sorted(here.glob("schema-[0-9]")):
        done = subprocess.run(migrate, cwd=place, env=environment(place), check=False)
        if done.returncode != 0:
            return MIGRATION_FAILED
    return subprocess.run(test, cwd=here / "code", env=environment(here / "code"), check=False).returncode


def environment(place: Path) -> dict[str, str]:
    """That of this process, with the PYTHONPATH of the version in `place`."""
    return {**os.environ, "PYTHONPATH": os.environ[f"PYTHONPATH_{place.name.replace('-', '_').upper()}"]}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
