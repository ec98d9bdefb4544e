"""A pipeline planned and run as the command line does it, without its output. Programs that tests start use it too."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TYPE_CHECKING, Any

import anyio

from pipeline import Facts, Journal, Pipeline, Project, Store
from pipeline.engine import Engine
from pipeline.engines.host import HostEngine
from pipeline.events import new_id, run_planned, run_started
from pipeline.plan import World, plan
from pipeline.record import load
from pipeline.remote.access import Access
from pipeline.remote.sharing import Sharing
from pipeline.run import Options, Outcome, Runner
from pipeline.schedule import Capacity

if TYPE_CHECKING:
    from pipeline.workers.workers import Workers


def run_pipeline(
    pipeline: Pipeline,
    project: Project,
    store: Store,
    journal: Journal,
    *,
    engine: Engine | None = None,
    facts: Facts | None = None,
    again: frozenset[str] = frozenset(),
    fail_fast: bool = False,
    remote: Access | None = None,
    workers: Callable[[Engine, str], AbstractAsyncContextManager[Workers]] | None = None,
    capacity: Capacity = Capacity(cpu=2),  # noqa: B008 - frozen
) -> tuple[Outcome, dict[str, Any]]:
    """Plan and run everything; the outcome, and the results of the stages that have one."""
    chosen = engine or HostEngine(store, project.home, project.secret)
    world = World(
        facts=facts or Facts(branch="main"),
        engine=chosen.name,
        platform=chosen.platform,
        observed={stage: stage.observe(project) for stage in pipeline},
        lookup=lambda key: load(store, key),
        last=journal.last_keys(),
        again=again,
    )
    made = plan(pipeline, frozenset(pipeline), world)
    run = new_id(0)
    journal.append(run_started(pipeline, world, run), run_planned(made, run))

    async def main() -> tuple[Outcome, dict[str, Any]]:
        async with AsyncExitStack() as stack:
            entered = await stack.enter_async_context(chosen)
            sharing = Sharing.open(remote, made, run, store=store, journal=journal) if remote else None
            runner = Runner(
                made,
                run=run,
                engine=entered,
                store=store,
                journal=journal,
                project=project,
                options=Options(capacity=capacity, fail_fast=fail_fast),
                remote=await stack.enter_async_context(sharing) if sharing else None,
                workers=await stack.enter_async_context(workers(entered, run)) if workers else None,
            )
            return await runner.run(), runner.results()

    return anyio.run(main)
