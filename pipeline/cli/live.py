"""The live view on a terminal: the tree of stages, the last lines of running ones, folded when done."""

from __future__ import annotations

import time
from collections import deque
from typing import Self, TextIO

from rich.console import Console, Group
from rich.live import Live as Screen
from rich.text import Text

from pipeline.cli.console import MARKS, Story
from pipeline.cli.paint import Paint
from pipeline.journal import Event

LINES = 3
"""Log lines shown below a running stage."""


class Live:
    """Finished stages scroll away above; running ones stay below, redrawn a few times a second."""

    def __init__(self, out: TextIO, again: str) -> None:
        self._paint = Paint(True)
        self._story = Story(self._paint, again, starts=False)
        self._logs: dict[str, deque[str]] = {}
        self._partial: dict[str, bytes] = {}
        self._console = Console(file=out, highlight=False, markup=False, emoji=False)
        self._screen = Screen(self, console=self._console, refresh_per_second=8, transient=True)

    def event(self, event: Event) -> None:
        lines = self._story.lines(event)
        if event.kind == "run.finished":
            self._screen.stop()
        for line in lines:
            self._above(line)

    def log(self, stage: str, piece: bytes) -> None:
        *lines, self._partial[stage] = (self._partial.get(stage, b"") + piece)[-8192:].split(b"\n")
        kept = self._logs.setdefault(stage, deque(maxlen=LINES))
        kept.extend(line.decode(errors="replace").rsplit("\r", 1)[-1] for line in lines if line.strip())

    def _above(self, text: str) -> None:
        self._console.print(Text.from_ansi(text), soft_wrap=True)

    def __rich__(self) -> Group:
        """What stays on the screen: running stages with their last lines, then how much is left."""
        now = time.time()
        rows: list[Text] = []
        run = self._story.run
        for stage in run.stages.values():
            if stage.state == "running":
                mark, colour = MARKS["running"]
                rows.append(
                    Text.from_ansi(f"{self._paint(colour, mark)} {self._paint('bold', stage.name)} {now - stage.started:.0f}s")
                )
                rows += [_said(line) for line in self._logs.get(stage.name, ())]
        counts = run.counts()
        done = len(run.stages) - counts["waiting"] - counts["running"]
        rows.append(Text(f"{done}/{len(run.stages)} stages, {now - (run.started or now):.0f}s", style="dim"))
        return Group(*rows)

    def __enter__(self) -> Self:
        self._screen.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._screen.stop()


def _said(line: str) -> Text:
    """A line of a log on one line of the screen; what it asks of a terminal but colours is left out."""
    text = Text.from_ansi(f"    {line.expandtabs()}", style="dim")
    text.no_wrap, text.overflow = True, "ellipsis"
    return text
