"""A router that is a process of this machine and outlives the run: found again by its mark, and told things by its socket."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Generic, Protocol, TypeVar

from stages.delivery import process
from stages.delivery.model import Address
from stages.delivery.port import checked
from stages.delivery.private import sockets
from stages.delivery.probe import Ready


class Listens(Protocol):
    """Configuration of a router that users come to at `host`:`port`."""

    @property
    def name(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...


C = TypeVar("C", bound=Listens)


@dataclass(kw_only=True)
class OwnRouter(Generic[C]):
    """What all of them have in common. Below `state` is what one is told by, and its log."""

    called: ClassVar[str]
    """The program, as people know it."""

    config: C
    ready: Ready
    """What the router asks of every instance; one that is not well gets no requests."""
    state: Path
    _sockets: Path = field(init=False)

    def __post_init__(self) -> None:
        self._sockets = sockets(self.state)

    @property
    def address(self) -> Address:
        return Address(host=self.config.host, port=self.config.port)

    async def check(self) -> str:
        return checked(self.address, self.called, self.config.name, self._running())

    async def stop(self) -> None:
        for found in self._running():
            await process.stop(found)
        shutil.rmtree(self._sockets, ignore_errors=True)

    def _running(self) -> list[process.Process]:
        return list(process.running(self._mark))

    @property
    def _mark(self) -> str:
        return f"{self.state}:"

    @property
    def _socket(self) -> Path:
        return self._sockets / "admin.sock"
