"""A Dagger engine for the tests alone, where the program is installed and nothing answers already."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.engines.choose import answers

PROGRAM = "dagger-engine"
STARTS, ENDS = 60.0, 60.0
"""Seconds an engine has to listen, and to end."""


@contextmanager
def an_engine(found: Callable[[Mapping[str, str]], str | None]) -> Iterator[str]:
    """The address of an engine that is started, or nothing where `found` tells of one; skips where there can be none."""
    if found(os.environ) is not None:
        yield ""
        return
    program = shutil.which(PROGRAM)
    if program is None:
        pytest.skip(f"no Dagger engine can be reached, and no {PROGRAM} is on PATH to start one")
    if os.getuid() != 0:
        pytest.skip(f"no Dagger engine can be reached, and {PROGRAM} needs root to start one")
    with started(program) as address:
        yield address


@contextmanager
def started(program: str) -> Iterator[str]:
    """The address of an engine that ends, its data removed, with the context."""
    place = Path(tempfile.mkdtemp(prefix="lockgate-dagger-"))  # not in a test's own: the path of a socket has to be short
    socket = place / "engine.sock"
    try:
        with (place / "log").open("wb") as log:
            command = [program, "--addr", f"unix://{socket}", "--root", str(place / "root")]
            engine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        try:
            until = time.monotonic() + STARTS
            while not answers(socket):
                if engine.poll() is not None or time.monotonic() > until:
                    pytest.skip(f"{PROGRAM} did not start: {(place / 'log').read_text(errors='replace')[-300:]}")
                time.sleep(0.1)
            yield f"unix://{socket}"
        finally:
            engine.terminate()
            try:
                engine.wait(ENDS)
            except subprocess.TimeoutExpired:
                engine.kill()
                engine.wait()
    finally:
        shutil.rmtree(place)
