"""Asking whether instances live once the run is over, where somebody else starts those again that end: a daemon, or systemd.

Neither knows what `liveness` says.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

import anyio

from pipeline import StageFailed
from stages.delivery.acts import Acts, act
from stages.delivery.model import Release
from stages.delivery.probe import Probe
from stages.delivery.supervisor import Backoff, ill, tend_all
from stages.delivery.wanted import Wanted

T = TypeVar("T")


class Tended(Protocol[T]):
    """A target whose instances are asked, each of them a T."""

    def wanted(self, group: str) -> Wanted: ...

    def acts(self, group: str) -> Acts: ...

    async def instance(self, group: str, port: int) -> T | None:
        """The one with this port, whatever it does."""
        ...

    async def ask(self, one: T, asked: Probe) -> str | None:
        """Why it is not well, or None."""
        ...

    async def restart(self, one: T) -> None:
        """End it and start it again, whatever becomes of who asks for it."""
        ...


@dataclass(frozen=True)
class Tending(Generic[T]):
    """Looks after the instances of `release` on `target`."""

    target: Tended[T]
    release: Release

    async def run(self) -> None:
        """Returns once no instance is wanted."""
        await tend_all(self.target.wanted(self.release.group), self._tend)

    async def _tend(self, port: int, _zone: str) -> None:
        backoff = Backoff()
        while port in self.target.wanted(self.release.group).read():
            began = anyio.current_time()
            try:
                one = await self.target.instance(self.release.group, port)
                if one is None:
                    return
                why = await ill(self.release.startup, self.release.liveness, partial(self.target.ask, one))
                await self._again(one, port, why, backoff)
            except StageFailed as error:  # who has the instances does not answer: it is asked again
                print(f"port {port}: {error}", file=sys.stderr, flush=True)  # in the supervisor's log
                await anyio.sleep(backoff.wait)
            backoff = backoff.after(anyio.current_time() - began)

    async def _again(self, one: T, port: int, why: str, backoff: Backoff) -> None:
        """Restart it only as long as it is wanted: who takes it off the list ends it for good."""
        wanted = self.target.wanted(self.release.group)
        await anyio.sleep(backoff.wait)
        async with wanted.held():
            if port not in wanted.read():
                return
            await self.target.restart(one)
        with suppress(OSError):
            self.target.acts(self.release.group).note(act(port, "ended", why))
