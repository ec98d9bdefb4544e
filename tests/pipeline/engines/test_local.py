"""What running programs on this machine needs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import StoreError
from pipeline.engines.local import free_port, isolated_python, search_path


def test_an_isolated_interpreter_is_this_one_without_its_packages(tmp_path: Path) -> None:
    programs = isolated_python(tmp_path)
    assert isolated_python(tmp_path) == programs  # made once
    program = "import importlib.util, sys; print(sys.version_info[:3], importlib.util.find_spec('pydantic'))"
    env = {"PATH": search_path(programs)}
    done = subprocess.run(["/usr/bin/env", "python", "-c", program], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == f"{sys.version_info[:3]} None\n"


def test_an_interpreter_is_made_where_a_process_of_this_number_was_stopped_in_the_middle(tmp_path: Path) -> None:
    programs = isolated_python(tmp_path)
    (programs / "python3").unlink()
    for name in ("python", "python3"):
        (programs / f".{name}-{os.getpid()}").symlink_to("nowhere")
    assert (isolated_python(tmp_path) / "python3").exists()


def test_where_the_interpreter_cannot_be_written_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "python").write_text("a file where a directory is wanted")
    with pytest.raises(StoreError, match="Not a directory"):
        isolated_python(tmp_path / "python")


def test_a_free_port_can_be_listened_on() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as listener:
        assert listener.getsockname()[1] > 1023
