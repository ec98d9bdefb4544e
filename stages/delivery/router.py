"""The seam to what sends releases their traffic."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from gates.window import Window
from stages.delivery.model import Address, Group


class Watch(Protocol):
    """What groups do with their requests, from one look to the next."""

    def windows(self, *sides: Collection[str]) -> list[Window | None]:
        """What the groups of each side did since the last look; None where that is not known, which is never nothing."""
        ...


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
        """Give each group its share in percent; the rest, and instances that are leaving, get no new request.

        No request is lost by it.
        """
        ...

    async def current(self) -> dict[str, int]:
        """Each known group's share, as the router itself tells; as it was told last when it does not run."""
        ...

    def watch(self) -> AbstractAsyncContextManager[Watch]:
        """See what each group does with the requests it gets from now on."""
        ...

    async def in_flight(self, group: str, at: Collection[Address] = ()) -> int:
        """Requests of the group that are not answered yet, or those at these instances of it."""
        ...

    async def forget(self, group: str) -> None:
        """The group is about to be stopped: it can get no traffic any more."""
        ...

    async def stop(self) -> None:
        """End the router; users find nobody there any more."""
        ...
