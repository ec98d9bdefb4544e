"""Answers that a router keeps for a while, and gives again without asking an instance."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline import WiringError


@dataclass(frozen=True, kw_only=True)
class Cache:
    """Keeps answers that allow it (RFC 9111: `max-age`, `s-maxage`, `Expires`) and set no cookie, each for its release alone.

    While one release has all the traffic: while releases share it, nothing is kept or given from the cache.
    """

    size: int = 64
    """MiB, of all answers."""
    largest: int = 256
    """KiB of one answer with its headers; at most half of the whole."""
    longest: int = 60
    """Seconds after which an answer is asked for again, whatever it allows."""

    def __post_init__(self) -> None:
        if not (1 <= self.size <= 4095 and 1 <= self.largest <= self.size * 512 and self.longest >= 1):
            raise WiringError(f"{self}", right="1 to 4095 MiB, at most half of it for one answer, and 1 second or more")
