"""Outputs: what an action left where it was declared, and nothing else of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import Action, Store
from pipeline.engines.outputs import collect
from pipeline.errors import EngineError


def test_outputs_below_a_directory_that_is_itself_reached_by_a_link_are_its_own(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "f").write_text("x")
    (tmp_path / "root").symlink_to("real")
    found = collect(Action(argv=(), outputs=("f", "../root/f", "none")), tmp_path / "root", Store(tmp_path / "store"))
    assert {path: output.read() for path, output in found.items()} == {"f": b"x", "../root/f": b"x"}


def test_a_link_that_leads_nowhere_or_in_a_circle_is_missing(tmp_path: Path) -> None:
    (tmp_path / "nowhere").symlink_to("none")
    (tmp_path / "circle").symlink_to("circle")
    assert collect(Action(argv=(), outputs=("nowhere", "circle")), tmp_path, Store(tmp_path / "store")) == {}


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "beside/../../secret"])
def test_a_path_that_leads_out_is_refused_as_a_link_is(tmp_path: Path, path: str) -> None:
    (tmp_path / "root" / "beside").mkdir(parents=True)
    (tmp_path / "secret").write_text("x")
    with pytest.raises(EngineError, match="a link out of the action's directory"):
        collect(Action(argv=(), outputs=(path,)), tmp_path / "root", Store(tmp_path / "store"))
