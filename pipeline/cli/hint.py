"""How to call this program again: what a message tells people to run can be pasted."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path


def hint(directory: str) -> str:
    """As in `.venv/bin/python -m pipeline -C examples/counting`; the command is to follow."""
    where = f" -C {shlex.quote(directory)}" if directory != "." else ""
    return f"{interpreter()} -m pipeline{where}"


def interpreter() -> str:
    """`python` where that is this one, else its path, relative where it lies below the current directory."""
    found = shutil.which("python")
    if found and os.path.samefile(found, sys.executable) and Path(found).parent == Path(sys.executable).parent:
        return "python"
    here = Path.cwd()
    program = Path(sys.executable)
    return shlex.quote(str(program.relative_to(here) if program.is_relative_to(here) else program))
