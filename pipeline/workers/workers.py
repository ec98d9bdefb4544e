"""Workers: what executes the actions of pure stages on a cluster, and here where the cluster does not."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import anyio
import anyio.to_thread

from pipeline.action import Action, ActionResult, Output
from pipeline.engine import Engine, Listener
from pipeline.errors import ConfigError, StoreError, said
from pipeline.journal import Event, Journal
from pipeline.remote.access import Access
from pipeline.remote.breaker import Breaker
from pipeline.remote.client import Client, Failure
from pipeline.remote.download import Gone
from pipeline.remote.entry import Unfit
from pipeline.store import CHUNK, Store
from pipeline.workers.cluster import Cluster, Patience, connected
from pipeline.workers.content import Content
from pipeline.workers.parcel import Parcel, named, travels
from pipeline.workers.race import Race, Unplaced
from pipeline.workers.terms import Terms

ADDRESS = re.compile(r"(tcp|tls)://[^/@\s]+:\d{1,5}")


def check_usable(address: str, access: Access | None) -> Access:
    """The remote cache by which content travels. Raises ConfigError where workers cannot be had, before any is asked."""
    where = "--workers"
    if not ADDRESS.fullmatch(address):
        raise ConfigError(f"{address!r} is no address of a Dask scheduler", where=where, right="as in tcp://scheduler:8786")
    if access is None or not access.write:
        raise ConfigError(
            "workers get what they need by way of a remote cache, and this project may not write to one",
            where=where,
            right="remote_cache and remote_cache_write = true in [tool.pipeline]",
        )
    if importlib.util.find_spec("distributed") is None:
        raise ConfigError("the package distributed is not installed", where=where, next="pip install 'lockgate[workers]'")
    return access


class Workers:
    """A cluster for one run. Nothing of it can fail the run but an action that no worker survives."""

    def __init__(
        self, cluster: Cluster, content: Content, own: Engine, store: Store, journal: Journal, run: str, cpu: int
    ) -> None:
        self._cluster, self._content, self._own, self._store = cluster, content, own, store
        self._journal, self._run = journal, run
        self._breaker, self._here = Breaker(), anyio.CapacityLimiter(cpu)

    @staticmethod
    @contextlib.asynccontextmanager
    async def open(
        address: str,
        access: Access,
        terms: Terms,
        run: str,
        *,
        own: Engine,
        store: Store,
        journal: Journal,
        cpu: int,
        patience: Patience | None = None,
    ) -> AsyncIterator[Workers]:
        """Have the cluster until the end of the block. What it does not execute, `own` does, `cpu` actions at a time.

        Raises EngineError where no worker of it can be asked.
        """

        def tell(kind: str, stage: str = "", **data: Any) -> None:
            journal.append(Event(run=run, kind=kind, stage=stage, data=data))

        def went_off(why: str) -> None:
            tell("workers.off", address=address, reason=why)

        patience = patience or Patience()
        try:
            async with connected(address, patience) as dask, Client(access) as client, anyio.create_task_group() as group:
                cluster = Cluster(dask, address, terms, patience, f"lockgate-{run}-", went_off)
                await group.start(cluster.watch)
                found = {one.address: one.threads for one in cluster.able()}
                tell("workers.joined", address=address, workers=found)
                yield Workers(cluster, Content(client, store), own, store, journal, run, cpu)
                group.cancel_scope.cancel()
        except BaseExceptionGroup as several:
            raise _first(several) from several

    def processors(self) -> int:
        """How many the cluster has just now; 0: everything is done here."""
        return 0 if self._cluster.off else sum(one.threads for one in self._cluster.able())

    def engine(self, stage: str, expected: float | None) -> Engine:
        """What executes the actions of a stage that took `expected` seconds before."""
        return Placing(self, self._own, stage, expected)

    async def execute(self, action: Action, log: Path, listen: Listener, stage: str, expected: float | None) -> ActionResult:
        """The action on the cluster, if it travels and the cluster can; else here."""
        if travels(action) and self.processors():
            try:
                return await self._placed(action, log, listen, stage, expected)
            except (Unplaced, Failure, Unfit, Gone, StoreError) as error:
                self._content.forget(named(action))
                self._tell("workers.failed", stage, reason=said(error) if isinstance(error, StoreError) else str(error))
        async with self._here:
            return await self._own.execute(action, log, listen)

    async def _placed(self, action: Action, log: Path, listen: Listener, stage: str, expected: float | None) -> ActionResult:
        started, needs = time.monotonic(), list(named(action))
        with self._counted():
            await self._content.send(needs)
        parcel = Parcel.of(action, f"{self._cluster.prefix}{uuid4().hex}", self._content.sizes(needs))
        race = Race(
            self._cluster,
            parcel,
            needs,
            slow=self._cluster.patience.slow(expected),
            tell=lambda reason, member: self._tell("workers.again", stage, reason=reason, worker=member.address),
        )
        answer = await race.answer()
        with self._counted():
            await self._content.bring(answer.outputs.values(), answer.sizes)
            await self._content.bring_file(answer.log, log)
        await anyio.to_thread.run_sync(_read_out, log, listen)
        return ActionResult(
            action=action,
            exit_code=answer.exit_code,
            log=log,
            tail=answer.tail,
            outputs={path: Output(path, one, self._store) for path, one in answer.outputs.items()},
            seconds=time.monotonic() - started,
            network=answer.network,
            worker=answer.worker,
        )

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        """Count failures of the remote cache: after some in a row, nothing travels any more."""
        try:
            yield
        except Failure as error:
            self._breaker.failed("writing", str(error))
            if not self._breaker.writes:
                self._cluster.give_up(f"the remote cache, by which content travels: {error}")
            raise
        self._breaker.worked("writing")

    def _tell(self, kind: str, stage: str, **data: Any) -> None:
        self._journal.append(Event(run=self._run, kind=kind, stage=stage, data=data))


class Placing:
    """The engine of one stage whose actions are executed by workers: to the stage it is the run's own."""

    def __init__(self, workers: Workers, own: Engine, stage: str, expected: float | None) -> None:
        self._workers, self._own, self._stage, self._expected = workers, own, stage, expected

    @property
    def name(self) -> str:
        return self._own.name

    @property
    def platform(self) -> str:
        return self._own.platform

    async def execute(self, action: Action, log: Path, listen: Listener) -> ActionResult:
        return await self._workers.execute(action, log, listen, self._stage, self._expected)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        return None


def _read_out(log: Path, listen: Listener) -> None:
    with log.open("rb") as file:
        while piece := file.read(CHUNK):
            listen(piece)


def _first(several: BaseExceptionGroup) -> BaseException:
    first = several.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
