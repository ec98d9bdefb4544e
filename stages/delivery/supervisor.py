"""Who looks after the instances of one group once the run is over: a small process that starts them, and starts them again.

It is started by the target, finds what it needs in the directory of the group, and the values of secrets in its own
environment, as instances do. It ends when no instance is wanted any more.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from pipeline import StageFailed, Store
from pipeline.errors import StoreError
from stages.delivery import process
from stages.delivery.acts import Act, act
from stages.delivery.kept import Kept
from stages.delivery.local import LocalTarget
from stages.delivery.model import Release, Restart
from stages.delivery.probe import Probe
from stages.delivery.wanted import Wanted

LOOKS = 0.1
"""Seconds between two looks at which instances are wanted."""

Ask = Callable[[Probe], Awaitable[str | None]]
"""Why an instance is not well by a probe, or None."""


@dataclass(frozen=True)
class Backoff:
    """How long to wait before an instance is started again: twice as long each time, until it ran for a while.

    The figures are Docker's: from 0.1 s to a minute, and from the beginning after 10 s.
    """

    wait: float = 0.1

    def after(self, ran: float) -> Backoff:
        """The next one, when it ran for so many seconds."""
        return Backoff() if ran >= 10.0 else replace(self, wait=min(2 * self.wait, 60.0))


def restarts(policy: Restart, code: int | None) -> bool:
    """Whether an instance is started again that ended with this code; None: it was ended, or nobody knows how it ended."""
    return policy == "always" or (policy == "on-failure" and code != 0)


async def ill(startup: Probe | None, liveness: Probe | None, ask: Ask) -> str:
    """Returns once an instance is not well, why: by `startup` until it was well by that once, by `liveness` from then on."""
    if startup is not None and (why := await _in_a_row(startup, ask, until_well=True)) is not None:
        return why
    while True:
        if liveness is None:
            await anyio.sleep_forever()
        elif (why := await _in_a_row(liveness, ask)) is not None:
            return why


async def _in_a_row(probe: Probe, ask: Ask, *, until_well: bool = False) -> str | None:
    """Why it was not well as often in a row as the probe allows; None once it was well, where that is waited for."""
    failed = 0
    while True:
        why = await ask(probe)
        failed = failed + 1 if why is not None else 0
        if why is not None and failed >= probe.failures:
            return why
        if why is None and until_well:
            return None
        await anyio.sleep(probe.every)


async def tend_all(wanted: Wanted, tend: Callable[[int, str], Coroutine[Any, Any, None]]) -> None:
    """Tend every instance that is wanted, by its port and zone; returns once none is."""
    tended: set[int] = set()
    async with anyio.create_task_group() as tasks:
        while ports := wanted.read():
            for port, zone in ports.items():
                if port not in tended:
                    tended.add(port)
                    tasks.start_soon(tend, port, zone)
            await anyio.sleep(LOOKS)
        tasks.cancel_scope.cancel()


@dataclass(frozen=True)
class Supervisor:
    """Looks after the instances of `release` on `target`."""

    target: LocalTarget
    release: Release

    async def run(self) -> None:
        """Returns once no instance is wanted."""
        await tend_all(self.target.wanted(self.release.group), self._tend)

    async def _tend(self, port: int, zone: str) -> None:
        """Start an instance, and again whenever the policy says so, as long as it is wanted."""
        backoff, first = Backoff(), True
        while True:
            began = anyio.current_time()
            code: int | None = 127
            try:
                one, own = await self._begin(port, zone, first=first)
            except StageFailed as error:
                why = error.what
            else:
                if one is None:
                    return
                code, why = await self._until_it_fails(one, own=own)
                if port in self.target.wanted(self.release.group).read():
                    self._note(act(port, "ended", why))  # first: a rollout may be quicker to put another one in its place
                await process.stop(one, self.target.patience)  # what is left of its family, or all of one that only hangs
            if port not in self.target.wanted(self.release.group).read():
                return
            if not restarts(self.release.restart, code):
                await self._let_go(port)
                return
            backoff = backoff if first else backoff.after(anyio.current_time() - began)
            first = False
            self._note(act(port, "restarts", why, backoff.wait))
            await anyio.sleep(backoff.wait)

    async def _begin(self, port: int, zone: str, *, first: bool) -> tuple[process.Process | None, bool]:
        """The running instance, none when it is not wanted any more, and whether it was started here."""
        wanted = self.target.wanted(self.release.group)
        async with wanted.held():
            if port not in wanted.read():
                return None, False
            found = self.target.instance(self.release.group, port)
            if found is not None and first:  # another supervisor started it, and was killed
                return found, False
            one = await self.target.begin(self.release, port, zone)
            self._note(act(port, "started"))
            return one, True

    async def _until_it_fails(self, one: process.Process, *, own: bool) -> tuple[int | None, str]:
        """How the instance ended, if it is known, and the reason that is told."""
        found: list[tuple[int | None, str]] = []

        async def ends(scope: anyio.CancelScope) -> None:
            if own:
                code = await process.ended(one.pid)
                found.append((code, f"it ended with {code}"))
            else:
                await _gone(one)
                found.append((None, "it ended"))
            scope.cancel()

        async def fails(scope: anyio.CancelScope) -> None:
            found.append((None, await ill(self.release.startup, self.release.liveness, partial(self.target.ask, one))))
            scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ends, tasks.cancel_scope)
            tasks.start_soon(fails, tasks.cancel_scope)
        return found[0]

    async def _let_go(self, port: int) -> None:
        """It ended as it may: nobody starts it again."""
        wanted = self.target.wanted(self.release.group)
        async with wanted.held():
            with suppress(StoreError):  # on a full disk it is known here alone that it ended
                wanted.write({one: zone for one, zone in wanted.read().items() if one != port})

    def _note(self, done: Act) -> None:
        """Who cannot write it down goes on: a full disk is no reason to leave instances alone."""
        with suppress(OSError):
            self.target.acts(self.release.group).note(done)


async def _gone(one: process.Process) -> None:
    """Return once nothing of an instance runs that another process started: how it ended nobody here learns."""
    while process.alive(one):
        await anyio.sleep(1.0)


def main(text: str) -> None:
    """`text` is JSON that the target wrote: where it is, and the group."""
    told = json.loads(text)
    target = LocalTarget(
        state=Path(told["state"]),
        store=Store(Path(told["store"])),
        python=Path(told["python"]),
        secret=os.environ.__getitem__,
        patience=told["patience"],
    )
    release = Kept(target.state).release(told["group"])
    anyio.run(Supervisor(target, release).run)


if __name__ == "__main__":
    main(sys.argv[1])
