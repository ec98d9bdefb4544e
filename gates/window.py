"""What the old and the new release did in the same moment: what a judge compares."""

from __future__ import annotations

import bisect
import itertools
from typing import Annotated

from pydantic import Field, model_validator

from pipeline import Result

Number = Annotated[int, Field(ge=0)]


class Histogram(Result):
    """Answers by how long they took: `counts[i]` took at most `bounds[i]` milliseconds, the last of them longer than any bound.

    Bounds ascend; there is one count more than there are bounds.
    """

    bounds: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...]
    counts: tuple[Number, ...]

    @model_validator(mode="after")
    def _fits(self) -> Histogram:
        if len(self.counts) != len(self.bounds) + 1 or any(a >= b for a, b in itertools.pairwise(self.bounds)):
            raise ValueError("bounds have to ascend, with one count more than there are bounds")
        return self

    @property
    def total(self) -> int:
        return sum(self.counts)

    def above(self, bound: float) -> int:
        """How many took longer than the bound, which has to be one of the histogram's."""
        return sum(self.counts[bisect.bisect_left(self.bounds, bound) + 1 :])

    def bound(self, part: float) -> float | None:
        """The bound nearest to the quantile `part` (0 to 1): what is above it comes closest to `1 - part` of all.

        None where nothing was counted, or nearly all is above every bound.
        """
        total, left = self.total, self.total
        nearest: tuple[float, float] | None = None
        for bound, count in zip(self.bounds, self.counts, strict=False):
            left -= count
            if total and left < total and (nearest is None or abs(left / total - (1 - part)) < nearest[0]):
                nearest = (abs(left / total - (1 - part)), bound)
        return nearest[1] if nearest else None

    def __add__(self, other: Histogram) -> Histogram:
        """Both together. Raises ValueError for other bounds."""
        if self.bounds != other.bounds:
            raise ValueError("histograms with other bounds cannot be added")
        return Histogram(bounds=self.bounds, counts=tuple(a + b for a, b in zip(self.counts, other.counts, strict=True)))


class Share(Result):
    """How many of how many: orders that failed, of all that were begun."""

    part: Number
    of: Number

    @model_validator(mode="after")
    def _fits(self) -> Share:
        if self.part > self.of:
            raise ValueError(f"{self.part} of {self.of} are more than all")
        return self


class Window(Result):
    """What one release did from one tick to the next. What is not known is left out: it is never 0."""

    requests: Number
    errors: Number
    latency: Histogram | None = None
    """Of the requests that were answered."""
    business: dict[str, Share] = Field(default_factory=dict)
    """Shares of what should not happen, by name."""

    @model_validator(mode="after")
    def _fits(self) -> Window:
        if self.errors > self.requests:
            raise ValueError(f"{self.errors} errors are more than {self.requests} requests")
        return self


class Tick(Result):
    """The same moment of both releases. None is a window that is unknown: missing, stale or no number."""

    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """How long it was."""
    old: Window | None
    new: Window | None
