"""Output that lasts as long as the command."""

from __future__ import annotations

import io
import os
import select
from pathlib import Path

import pytest

from pipeline.cli.output import lasting


def test_what_nobody_reads_any_more_is_dropped() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as pipe:
        stream = lasting(pipe)
        print("first", file=stream, flush=True)
        assert os.read(reading, 100) == b"first\n"
        os.close(reading)
        for _ in range(3):
            print("more" * 10_000, file=stream, flush=True)


def test_a_disk_that_takes_no_more_is_an_error() -> None:
    with open("/dev/full", "w") as full:
        stream = lasting(full)
        stream.write("x")
        with pytest.raises(OSError, match="No space left"):
            stream.flush()
        with pytest.raises(OSError, match="No space left"):
            stream.close()


def test_what_was_written_before_comes_first_and_what_cannot_be_encoded_is_escaped(tmp_path: Path) -> None:
    with (tmp_path / "f").open("w", encoding="ascii") as file:
        file.write("a")
        stream = lasting(file)
        print("✓", file=stream, flush=True)
    assert (tmp_path / "f").read_text() == "a\\u2713\n"


def test_a_stream_in_memory_is_left_as_it_is() -> None:
    for stream in (io.StringIO(), io.TextIOWrapper(io.BytesIO())):
        assert lasting(stream) is stream


def test_a_stream_that_is_not_buffered_stays_so() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb", buffering=0) as pipe:
        unbuffered = io.TextIOWrapper(pipe, write_through=True)
        stream = lasting(unbuffered)
        stream.write("now")
        assert select.select([reading], [], [], 0)[0] == [reading]
        assert os.read(reading, 100) == b"now"
    os.close(reading)
