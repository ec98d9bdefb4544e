"""The live view on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console, Group

from pipeline.cli.live import _said


@pytest.mark.parametrize("line", ["x" * 200, "漢字" * 60, "a\tb" * 40, "\x1b[31mred\x1b[0m " * 40, "short"])
def test_a_line_of_a_log_stays_on_one_line_of_the_screen(line: str) -> None:
    out = io.StringIO()
    Console(file=out, width=40, color_system=None).print(Group(_said(line)))
    (shown,) = out.getvalue().splitlines()
    assert cell_len(shown) <= 40
    assert shown.startswith("    ")


def test_what_a_log_asks_of_a_terminal_is_left_out_but_for_colours() -> None:
    out = io.StringIO()
    Console(file=out, width=60, force_terminal=True, color_system="standard").print(
        Group(_said("\x1b[2J\x1b[H\x1b[31mred\x1b[0m \x1b]0;title\x07 \x1b[5Aup"))
    )
    assert "\x1b[2;31mred" in out.getvalue()
    assert not [code for code in ("\x1b[2J", "\x1b[H", "\x1b[5A", "\x1b]0;") if code in out.getvalue()]
