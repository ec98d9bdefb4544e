"""The stages of a run that always run: when they have their turn, and which had none yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio

from pipeline.dag import Pipeline
from pipeline.stage import Stage


class Cleanup:
    """The stages among `wanted` that always run.

    Each has its turn once all that it comes after has ended and side effects above it stand. Where these are to be taken back, it
    has its turn after that, as `undo` may need what is cleaned up. `is_open` says whether one of some stages has an open effect.
    """

    def __init__(
        self, pipeline: Pipeline, wanted: frozenset[Stage[Any]], is_open: Callable[[Iterable[Stage[Any]]], bool]
    ) -> None:
        self._pipeline, self._is_open = pipeline, is_open
        self.left = {stage for stage in pipeline.always if stage in wanted}
        """Those that have not ended yet."""
        self._last = False
        self._running: set[anyio.CancelScope] = set()

    def waits(self, stage: Stage[Any]) -> bool:
        """Whether the stage has its turn only after what is open was taken back."""
        inputs = self._pipeline.inputs(stage)
        return not self._last and (not self.left.isdisjoint(inputs) or self._is_open(self._pipeline.upstream(inputs)))

    def last(self) -> frozenset[Stage[Any]]:
        """The stages that are left now that all others have ended, and nothing is open any more."""
        self._last = True
        return frozenset(self.left)

    @contextmanager
    def uncut(self) -> Iterator[None]:
        """Nothing but `leave` cuts off what is done herein."""
        with anyio.CancelScope(shield=True) as scope:
            self._running.add(scope)
            try:
                yield
            finally:
                self._running.discard(scope)

    def leave(self) -> None:
        """Cut off what runs."""
        for scope in self._running:
            scope.cancel()

    def names(self) -> str:
        """The stages that are left, for people."""
        return ", ".join(sorted(map(self._pipeline.name_of, self.left)))
