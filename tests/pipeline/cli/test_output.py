"""Output that lasts as long as the command."""

from __future__ import annotations

import contextlib
import os
import select
import threading
from pathlib import Path

import pytest

from pipeline.cli.output import lasting, lost


def test_what_nobody_reads_any_more_is_dropped() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as pipe:
        stream = lasting(pipe, pipe.fileno())
        print("first", file=stream, flush=True)
        assert os.read(reading, 100) == b"first\n"
        os.close(reading)
        for _ in range(3):
            print("more" * 10_000, file=stream, flush=True)
        assert lost(stream) is None


@pytest.mark.parametrize("at_once", [False, True])
def test_a_disk_that_takes_no_more_breaks_nothing_and_is_told_when_asked(at_once: bool) -> None:
    with open("/dev/full", "w") as full:
        full.reconfigure(write_through=at_once)
        stream = lasting(full, full.fileno())
        for _ in range(3):
            print("more" * 10_000, file=stream, flush=True)
        error = lost(stream)
    assert error is not None
    assert error.strerror == "No space left on device"


def test_what_was_written_before_comes_first_and_what_cannot_be_encoded_is_escaped(tmp_path: Path) -> None:
    with (tmp_path / "f").open("w", encoding="ascii") as file:
        file.write("a")
        stream = lasting(file, file.fileno())
        print("✓", file=stream, flush=True)
        assert lost(stream) is None
    assert (tmp_path / "f").read_text() == "a\\u2713\n"


def test_a_stream_that_is_not_buffered_stays_so() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as pipe:
        pipe.reconfigure(write_through=True)
        stream = lasting(pipe, writing)
        stream.write("now")
        assert select.select([reading], [], [], 0)[0] == [reading]
        assert os.read(reading, 100) == b"now"
    os.close(reading)


@pytest.mark.parametrize("at_once", [False, True])
def test_a_pipe_that_is_full_and_not_to_be_waited_for_gets_all_of_it(at_once: bool) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"-")
    got = bytearray()

    def read() -> None:
        while piece := os.read(reading, 4096):
            got.extend(piece)

    reader = threading.Thread(target=read)
    with os.fdopen(writing, "w") as pipe:
        pipe.reconfigure(write_through=at_once)
        stream = lasting(pipe, writing)
        reader.start()
        stream.write("x" * 1_000_000)
        assert lost(stream) is None
    reader.join()
    os.close(reading)
    assert got.lstrip(b"-") == b"x" * 1_000_000
