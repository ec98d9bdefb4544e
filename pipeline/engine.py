"""The seam between what is to be done and what does it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from pipeline.action import Action, ActionResult

Listener = Callable[[bytes], None]
"""Receives pieces of an action's log as they are written, secrets already masked."""


class Engine(Protocol):
    """Executes actions. An engine is an async context manager; what it holds lives as long as the run."""

    @property
    def name(self) -> str:
        """`host` or `dagger`."""
        ...

    @property
    def platform(self) -> str:
        """What the results depend on besides the action: host platform and interpreter, or the default image."""
        ...

    async def execute(self, action: Action, log: Path, listen: Listener) -> ActionResult:
        """Run one action, its output written to the file `log`.

        Returns a result also when the command fails. Raises EngineError when the engine itself does.
        When cancelled, nothing of the action is left running.
        """
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...
