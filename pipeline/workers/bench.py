"""The worker's side: what a Dask worker has open to execute actions, and the functions that the cluster calls there."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
from dask.typing import Key
from distributed import Worker, WorkerPlugin, get_worker

from pipeline import __version__
from pipeline.engine import Engine
from pipeline.engines.choose import open_engine
from pipeline.errors import EngineError, said
from pipeline.project import Project
from pipeline.remote.access import access
from pipeline.remote.client import Client
from pipeline.remote.download import Gone
from pipeline.scratch import Scratch
from pipeline.settings import Settings
from pipeline.store import Store
from pipeline.workers.content import Content
from pipeline.workers.parcel import Answer, Parcel, Refusal, named
from pipeline.workers.terms import Terms

NOTHING = "0" * 64
"""A digest that is asked for to see whether the remote cache lets this worker in."""


async def meet(terms: Terms, dask_worker: Worker) -> str:
    """Why this worker cannot execute actions of a run; empty: it can."""
    if terms.version != __version__:
        return f"it has Lockgate {__version__}, and the run {terms.version}"
    try:
        bench = await bench_of(dask_worker, terms)
        if bench.engine.platform != terms.platform:
            return f"its platform is {bench.engine.platform}, and the run's {terms.platform}"
        await bench.client.has("cas", NOTHING)
    except Exception as error:
        return said(error)
    return ""


async def execute(terms: Terms, parcel: Parcel) -> Answer | Refusal:
    """One action, as a task of the cluster."""
    worker = get_worker()
    try:
        bench = await bench_of(worker, terms)
        return await bench.execute(parcel, worker)
    except (EngineError, Gone) as error:  # the action's own fault, or the cache's
        return Refusal(worker=worker.address, reason=said(error), able=True)
    except Exception as error:
        return Refusal(worker=worker.address, reason=said(error))


async def bench_of(worker: Worker, terms: Terms) -> Bench:
    """The worker's bench for these terms, which stays open for as long as the worker lives."""
    name = terms.name()
    bench = worker.plugins.get(name)
    if not isinstance(bench, Bench):
        await worker.plugin_add(bench := Bench(terms), name=name)
    try:
        await asyncio.shield(bench.opened)
    except Exception:
        worker.plugins.pop(name, None)  # the next one who asks may have more luck
        raise
    return bench


def home(worker: Worker, environment: Mapping[str, str]) -> Path:
    """Where a worker keeps its store from one action, run and restart to the next."""
    if environment.get("PIPELINE_HOME"):
        return Path(environment["PIPELINE_HOME"]).resolve()
    return Path(worker.local_directory).parent / "lockgate"  # its own directory goes away with the process


class Bench(WorkerPlugin):
    """An engine, a store and a connection to the remote cache."""

    engine: Engine
    client: Client
    opened: asyncio.Future[None]

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._running: dict[Key, anyio.CancelScope] = {}

    async def setup(self, worker: Worker) -> None:
        self.opened = asyncio.get_running_loop().create_future()
        self._over = asyncio.Event()
        self._life = asyncio.create_task(self._live(home(worker, os.environ)))
        await asyncio.wait([self.opened])

    async def teardown(self, worker: Worker) -> None:
        self._over.set()
        await self._life

    async def _live(self, home: Path) -> None:
        """Have everything open until the worker ends: in one task, as an engine wants to be left by who entered it."""
        try:
            settings = Settings.model_construct(remote_cache=self._terms.cache, remote_cache_write=True, image=self._terms.image)
            self._store = Store(home / "store")
            async with (
                Client(access(settings, os.environ)) as self.client,
                open_engine(self._terms.engine, Project(root=home, home=home, settings=settings), self._store) as self.engine,
            ):
                self._content = Content(self.client, self._store)
                self.opened.set_result(None)
                await self._over.wait()
        except Exception as error:
            if self.opened.done():
                raise
            self.opened.set_exception(error)

    def transition(self, key: Key, start: str, finish: str, **kwargs: Any) -> None:
        """End what nobody waits for any more: its client is gone or has another answer. Dask itself would let it go on."""
        if finish == "released" and key in self._running:
            self._running[key].cancel()

    async def execute(self, parcel: Parcel, worker: Worker) -> Answer | Refusal:
        """The action in `parcel`. Ended when nobody waits for it, it leaves nothing running."""
        task = worker.state.tasks.get(parcel.key)
        with anyio.CancelScope() as self._running[parcel.key]:
            try:
                if task is not None and task.state == "executing":
                    return await self._execute(parcel, worker.address)
            finally:
                del self._running[parcel.key]
        return Refusal(worker=worker.address, reason="nobody waits for it any more", able=True)

    async def _execute(self, parcel: Parcel, address: str) -> Answer:
        action = parcel.action()
        needed = list(named(action))
        try:
            await self._content.bring(needed, parcel.sizes)
            with Scratch() as scratch:
                log = scratch.path / "log"
                result = await self.engine.execute(action, log, lambda _piece: None)
                outputs = {path: output.content for path, output in result.outputs.items()}
                await self._content.send(outputs.values())
                return Answer(
                    worker=address,
                    exit_code=result.exit_code,
                    tail=result.tail,
                    log=await self._content.send_file(log),
                    outputs=outputs,
                    sizes=self._content.sizes(outputs.values()),
                    network=result.network,
                )
        except Exception:
            self._content.forget(needed)  # something of it may have been removed from the store
            raise
