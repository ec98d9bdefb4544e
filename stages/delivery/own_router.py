"""A router that is a process of this machine and outlives the run: found again by its mark, and told things by its socket."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import anyio
from pydantic import TypeAdapter

from pipeline import StageFailed
from stages.delivery import durable, process, tls
from stages.delivery.certificate import Certificates, Shown, said
from stages.delivery.entrance import Entrance
from stages.delivery.model import Address
from stages.delivery.port import checked, free
from stages.delivery.private import sockets
from stages.delivery.probe import Probe, Ready, read, written
from stages.delivery.tls import Pair, Tls

C = TypeVar("C", bound=Entrance)

PROGRAMS = {"haproxy": "HAProxy", "envoy": "Envoy"}
"""The kinds of routers, by the program that runs."""


@dataclass(frozen=True)
class Used:
    """What of its settings a router keeps until a deployment gives it others: where users come in, how it asks instances."""

    host: str
    port: int
    tls: Tls | None
    ready: str | dict[str, Any] | None
    """As `probe.written` has it."""


USED = TypeAdapter(Used)


def _used(content: bytes) -> tuple[Used, Probe]:
    used = USED.validate_json(content)
    if (ready := read(used.ready)) is None:
        raise ValueError("there is no probe in it")
    return used, ready


def _places(config: Entrance) -> list[Address]:
    """Where users come in."""
    return [Address(host=one.host, port=one.port) for one in (config, config.tls) if one is not None]


def _is_free(config: Entrance) -> bool:
    """Whether a router could listen where the settings say."""
    try:
        for place in _places(config):
            free(place)
    except OSError:
        return False
    return True


@dataclass(kw_only=True)
class OwnRouter(ABC, Generic[C]):
    """What all of them have in common. Below `state` is what one is told by, and its log."""

    called: ClassVar[str]
    """The program, as people know it."""

    config: C
    ready: Ready
    """What the router asks of every instance; one that is not well gets no requests."""
    state: Path
    pair: Callable[[], Pair] = tls.nothing
    """Reads the certificate that is wanted, and its key."""
    _sockets: Path = field(init=False)

    def __post_init__(self) -> None:
        self._sockets = sockets(self.state)

    @property
    def address(self) -> Address:
        return Address(host=self.config.host, port=self.config.port)

    async def died(self) -> bool:
        """One that gave its place to another one, and still has requests to answer, serves nobody else."""
        if not self._entrance.exists():
            return False
        running = self._running()
        try:
            return not self.in_place().listens(running)
        except StageFailed:  # nobody can read where it was, until the next deployment
            return not running

    async def check(self) -> str:
        self._need_alone()
        running = self._running()
        found = [checked(one, self.called, self.config.name, running) for one in _places(self.config)]
        if self.config.tls is not None:
            tls.checked(self.pair(), self.config.tls, datetime.now(UTC))
        if await self.died():
            return f"{self.called} has died, and its users find nobody: `recover` or a deployment starts it again"
        return "; ".join(found)

    async def certify(self, about: Callable[[Shown], None] = lambda _shown: None) -> Shown | None:
        if self.config.tls is None:
            return None
        wanted = self.pair()
        tls.checked(wanted, self.config.tls, datetime.now(UTC))
        pair = Pair.of(wanted.pem)
        shown = said(pair, self._certificates.now)
        about(shown)
        await self._switch(pair)
        return shown

    @property
    def certified(self) -> str:
        now = self._certificates.now
        return tls.told(now).fingerprint if now is not None else ""

    async def certify_back(self, shown: Shown) -> str | None:
        now, before = self._certificates.now, self._certificates.before
        if self.config.tls is None or now is None or tls.told(now).fingerprint != shown.fingerprint:
            return "another certificate is shown by now: there is nothing to go back from"
        if shown.before == shown.fingerprint:
            return "the same certificate was shown before"
        if before is None or tls.told(before).fingerprint != shown.before:
            return "no certificate was shown before, and this one stays"
        tls.checked(before, self.config.tls, datetime.now(UTC))
        await self._switch(before)
        return None

    async def _switch(self, pair: Pair) -> None:
        """Keep it and show it; where it cannot be shown, keep what was kept, and raise StageFailed."""
        now, before = self._certificates.now, self._certificates.before
        with anyio.CancelScope(shield=True):  # what is kept is what is shown
            self._certificates.keep(pair)
            try:
                if self._running():
                    await self._show(pair)
            except StageFailed:
                self._certificates.put_back(now, before)
                raise

    @abstractmethod
    async def _show(self, pair: Pair) -> None:
        """Have the running router show it. One that was started without TLS will read what is kept."""

    async def _need_certificate(self) -> None:
        """There is one to show. It is looked at when it comes; on a way back nobody asks whether it still is good."""
        if self.config.tls is not None and self._certificates.now is None:
            await self.certify()

    @property
    def _certificates(self) -> Certificates:
        return Certificates(self.state)

    def asking(self, ready: Ready) -> Self:
        return replace(self, ready=ready)

    def in_place(self) -> Self:
        """The same where its users find it, and asking its instances as it did, whatever the settings say.

        One that has died is to be where the settings say when somebody else is where it was. Raises StageFailed where nobody
        knows where.
        """
        running = self._running()
        if self._entrance.exists():
            used, ready = durable.read(self._entrance, _used, f"where users find {self.called}")
            there = replace(self.config, host=used.host, port=used.port, tls=used.tls)
            return replace(self, config=there if running or _is_free(there) else self.config, ready=ready)
        if running and not self.listens(running):
            raise StageFailed(
                f"{self.called} runs, and not on {self.address.summary()}, and nothing tells where its users find it",
                right="the settings it was deployed with, as an environment variable that was set then",
            )
        return self

    def listens(self, running: Iterable[process.Process]) -> bool:
        """Whether one of the processes listens wherever the settings say."""
        return any(all(process.listens(one, place.port) for place in _places(self.config)) for one in running)

    def _here(self) -> None:
        """Users find it where the settings say, and it asks instances as they say."""
        now = USED.dump_json(Used(self.config.host, self.config.port, self.config.tls, written(self.ready)))
        if not self._entrance.exists() or self._entrance.read_bytes() != now:
            durable.write(self._entrance, now)

    @property
    def _entrance(self) -> Path:
        """The file that has what of the settings is in use."""
        return self.state / "entrance.json"

    async def stop(self) -> None:
        for found in self._running():
            await process.stop(found)
        self._entrance.unlink(missing_ok=True)
        shutil.rmtree(self._sockets, ignore_errors=True)

    def _running(self) -> list[process.Process]:
        return [one for one in process.running(self._mark) if not self._stranger(one)]

    def _need_alone(self) -> None:
        """Raises StageFailed where the port is in the hands of a router of another kind that this project started."""
        if other := next((name for one in process.running(self._mark) if (name := self._stranger(one))), ""):
            raise StageFailed(
                f"{other} runs where {self.called} {self.config.name} is to: neither takes over from the other",
                where=f"{self.called}(name={self.config.name!r})",
                right=f"{self.called} with another name and port, or no {other}",
                next="python -m stages.delivery.down . (in the project's directory), which takes down what runs, and run again",
            )

    def _stranger(self, one: process.Process) -> str:
        """The kind of a router that is not of this kind."""
        found = PROGRAMS.get(process.program(one), "")
        return found if found != self.called else ""

    @property
    def _mark(self) -> str:
        return f"{self.state}:"

    @property
    def _socket(self) -> Path:
        return self._sockets / "admin.sock"
