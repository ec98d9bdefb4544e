"""Who asks whether containers live once the run is over, and has the daemon start those again that do not.

What ended on its own the daemon starts again by its restart policy, which does not know what `liveness` says.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio

from pipeline import StageFailed, Store
from stages.delivery.acts import act
from stages.delivery.docker import Docker, DockerTarget
from stages.delivery.kept import Kept
from stages.delivery.model import Release
from stages.delivery.supervisor import Backoff, ill, tend_all


@dataclass(frozen=True)
class ContainerSupervisor:
    """Looks after the containers of `release` on `target`."""

    target: DockerTarget
    release: Release

    async def run(self) -> None:
        """Returns once no instance is wanted."""
        await tend_all(self.target.wanted(self.release.group), self._tend)

    async def _tend(self, port: int, _zone: str) -> None:
        backoff = Backoff()
        while port in self.target.wanted(self.release.group).read():
            began = anyio.current_time()
            try:
                container = await self.target.container(self.release.group, port)
                if container is None:
                    return
                why = await ill(self.release.startup, self.release.liveness, partial(self.target.ask, container))
                await self._again(str(container["Id"]), port, why, backoff)
            except StageFailed:  # the daemon is not there: it is asked again, and containers are not started without it
                await anyio.sleep(1.0)
            backoff = backoff.after(anyio.current_time() - began)

    async def _again(self, container: str, port: int, why: str, backoff: Backoff) -> None:
        """End it outside of the lock, which takes as long as it likes; start it only as long as it is wanted."""
        wanted = self.target.wanted(self.release.group)
        if port not in wanted.read():
            return
        with suppress(OSError):
            self.target.acts(self.release.group).note(act(port, "ended", why))
        await self.target.halt(container)
        await anyio.sleep(backoff.wait)
        async with wanted.held():
            if port in wanted.read():
                await self.target.resume(container)


def main(text: str) -> None:
    """`text` is JSON that the target wrote: where it is, and the group."""
    told = json.loads(text)
    state = Path(told["state"])
    config = Docker(name=state.name, host=told["host"], patience=told["patience"])
    target = DockerTarget(state=state, store=Store(Path(told["store"])), secret=os.environ.__getitem__, config=config)
    release = Kept(state).release(told["group"])
    anyio.run(ContainerSupervisor(target, release).run)


if __name__ == "__main__":
    main(sys.argv[1])
