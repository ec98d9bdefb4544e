"""How often somebody may ask."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline import WiringError
from stages.delivery.audience import Header, Source


@dataclass(frozen=True, kw_only=True)
class RateLimit:
    """Each client may ask so many times in so many seconds; what is more is answered 429 with Retry-After, by the router itself.

    Clients are told apart by the address of their connection, or by a header; who has not that header, by the address.
    """

    requests: int
    seconds: float = 1.0
    by: Source | Header = Source()  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        if self.requests < 1 or not 0.1 <= self.seconds <= 86_400:
            raise WiringError(f"{self}", right="1 request or more, in 0.1 to 86,400 seconds")

    @property
    def after(self) -> int:
        """Seconds after which it is worth asking again."""
        return math.ceil(self.seconds)
