"""The seam to what sends releases their traffic."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

from gates.window import Window
from pipeline import StageFailed
from stages.delivery.audience import Chosen, Region
from stages.delivery.model import Address, Group
from stages.delivery.probe import Ready

BOUNDS = tuple(float(f"{10 ** (number / 10):.3g}") for number in range(49))
"""Milliseconds from 1 to 63,100, ten to a decade: what routers count answers by."""


class Watch(Protocol):
    """What groups do with their requests, from one look to the next."""

    def windows(self, *sides: Collection[str]) -> list[Window | None]:
        """What the groups of each side did since the last look; None where that is not known, which is never nothing.

        Of a group that gets a share of an audience, only what the audience asked is counted.
        """
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

    async def split(self, weights: Mapping[str, int], groups: Mapping[str, Group], chosen: Chosen | None = None) -> None:
        """Give each group its share in percent; the rest, and instances that are leaving, get no new request.

        Who is in an audience is served as `chosen` says, and `weights` are shares of everybody else. No request is lost by it.
        """
        ...

    async def current(self) -> dict[str, int]:
        """Each known group's share, as the router itself tells; as it was told last when it does not run.

        While there is an audience it is the share of everybody else, and 1 for a group that only the audience gets.
        """
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


@runtime_checkable
class Mirrors(Router, Protocol):
    """A router that can send copies of requests to somebody else too."""

    def mirror(self, to: Address, share: int) -> AbstractAsyncContextManager[None]:
        """Meanwhile, send `to` a copy of so many percent of the requests that change nothing (GET, HEAD, OPTIONS).

        Users never wait for what becomes of a copy, nor see it. Another `split` ends it, as the run may have died.
        """
        ...

    async def runs(self) -> bool:
        """Whether it runs: one that died copies nothing, and serves nobody."""
        ...


@runtime_checkable
class Placed(Router, Protocol):
    """A router that the settings may send to another address while it runs, or have ask its instances by another probe."""

    def in_place(self) -> Placed:
        """The same where its users find it, and asking its instances as it does, whatever the settings say."""
        ...

    def asking(self, ready: Ready) -> Router:
        """The same that asks its instances so."""
        ...

    async def died(self) -> bool:
        """Whether it served users, nobody ended it, and it does not run."""
        ...

    async def start_again(self) -> None:
        """Start one that died: with the shares it had, and its audience. Raises StageFailed."""
        ...


def in_place(router: Router) -> Router:
    """The router for a way back or an order, which moves nobody: that is a deployment's to do."""
    return router.in_place() if isinstance(router, Placed) else router


def asking(router: Router, ready: Ready) -> Router:
    return router.asking(ready) if isinstance(router, Placed) else router


def need_running(weights: Mapping[str, int], groups: Mapping[str, Group], chosen: Chosen | None = None) -> None:
    """Raises StageFailed where a group is to get traffic of which no instance runs, or an audience that nobody can tell."""
    wanted = [*weights.items(), *(chosen.weights if chosen else ())]
    unknown = sorted({name for name, share in wanted if share and not (name in groups and groups[name].staying)})
    if unknown:
        raise StageFailed(f"{', '.join(unknown)} cannot get traffic: no such group runs", right=", ".join(groups) or "a group")
    if chosen is not None and isinstance(chosen.audience, Region) and not chosen.audience.networks:
        raise StageFailed(f"nobody knows the networks of {chosen.audience}", right="countries that were looked up (geo.resolved)")
    if chosen is not None and not chosen.picked(weights):
        raise StageFailed(
            f"nobody is picked for {chosen.audience}: all its groups are those of everybody else",
            right="a group that gets no other requests",
        )


def told_with(weights: Mapping[str, int], chosen: Mapping[str, int]) -> dict[str, int]:
    """Shares of everybody, in which a group that serves an audience only is told with 1, so that nobody takes it for idle."""
    return {name: share or int(bool(chosen.get(name))) for name, share in weights.items()}
