"""A view that may be lost: what is done must not depend on whether it can be shown."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.cli.console import View
    from pipeline.journal import Event


class Shown:
    """Hands everything on to a view until its output cannot be written; that is said once, and the run goes on."""

    def __init__(self, view: View) -> None:
        self._view: View | None = view

    def event(self, event: Event) -> None:
        self._try(lambda view: view.event(event))

    def log(self, stage: str, piece: bytes) -> None:
        self._try(lambda view: view.log(stage, piece))

    def _try(self, show: Callable[[View], None]) -> None:
        if self._view is None:
            return
        try:
            show(self._view)
        except (OSError, ValueError) as error:
            self._view = None
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lasts
            with contextlib.suppress(OSError, ValueError):
                print(f"the output cannot be written ({error}): the run goes on without", file=sys.stderr)
