"""How large a request may be, how long it may be on its way, and how many may be connected."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline import WiringError


@dataclass(frozen=True, kw_only=True)
class RequestLimits:
    """What the router refuses by itself, so that no instance has to; None: what the router does by itself.

    `body`: bytes (413); `headers`: KiB, all together (431); `sending`: seconds in which all headers have to be here (408);
    `connections`: of all users at once, further ones are closed.
    """

    body: int | None = None
    headers: int | None = None
    sending: float | None = None
    connections: int | None = None

    def __post_init__(self) -> None:
        if any(value is not None and value <= 0 for value in vars(self).values()) or (self.headers or 0) > 1024:
            raise WiringError(f"{self}", right="more than 0 of everything that is limited, and at most 1024 KiB of headers")


NO_LIMITS = RequestLimits()
