"""The seam to what sends releases their traffic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from stages.delivery.model import Address, Group


class Router(Protocol):
    """Sends requests to groups by share. Every method may be repeated without harm."""

    @property
    def address(self) -> Address:
        """Where users find the service."""
        ...

    async def check(self) -> str:
        """How users can be served at `address`: the router is there, or nothing stands in its way. Raises StageFailed."""
        ...

    async def split(self, weights: Mapping[str, int], groups: Mapping[str, Group]) -> None:
        """Give each group its share in percent; the rest get no new request. No request is lost by it."""
        ...

    async def current(self) -> dict[str, int]:
        """Each known group's share, as the router itself tells; as it was told last when it does not run."""
        ...

    async def in_flight(self, group: str) -> int:
        """Requests of the group that are not answered yet."""
        ...

    async def forget(self, group: str) -> None:
        """The group is about to be stopped: it can get no traffic any more. A router that knows no group ends."""
        ...
