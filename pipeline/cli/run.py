"""`run`: execute the plan, and show what happens."""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipeline.cli.console import console
from pipeline.cli.plan import opened, show
from pipeline.errors import Exit
from pipeline.events import new_id, run_finished, run_started, settled
from pipeline.plan import Decision, Plan
from pipeline.session import Session

if TYPE_CHECKING:
    from pipeline.run import Outcome, Runner


def command(arguments: argparse.Namespace) -> int:
    session = opened(arguments)
    plan = session.plan(arguments.stages, again=arguments.again)
    if arguments.dry_run:
        show(session, plan, arguments)
        return Exit.PASSED
    if not plan.of(Decision.RUN) and not any(step.record and step.record.concern for step in plan.steps):
        return _nothing_to_do(session, plan, arguments)
    return execute(session, plan, arguments)


def _nothing_to_do(session: Session, plan: Plan, arguments: argparse.Namespace) -> int:
    """Journal a run in which everything was cached or skipped; neither engine nor event loop is needed."""
    run = new_id(time.time())
    view = console(arguments)
    session.journal.listen(view.event)
    with view:
        started = run_started(plan, run, reason=session.choice.reason, pid=os.getpid())
        session.journal.append(started, *(settled(step, run) for step in plan.steps), run_finished(run, 0, []))
    return Exit.PASSED


def execute(session: Session, plan: Plan, arguments: argparse.Namespace) -> int:
    """Run the plan in an event loop; a first signal cancels, and cleanup still runs."""
    import anyio

    from pipeline.engines.choose import open_engine
    from pipeline.run import Options, Runner
    from pipeline.schedule import Capacity

    run = new_id(time.time())
    view = console(arguments)
    session.journal.listen(view.event)
    capacity = Capacity(
        cpu=arguments.jobs or session.project.settings.jobs or os.cpu_count() or 1, memory=session.project.settings.memory
    )

    async def main() -> Outcome | None:
        outcome: list[Outcome] = []
        async with open_engine(session.choice.name, session.project, session.store) as engine:
            runner = Runner(
                plan,
                run=run,
                engine=engine,
                store=session.store,
                journal=session.journal,
                project=session.project,
                options=Options(capacity=capacity, fail_fast=arguments.fail_fast),
                listen=view.log,
            )
            await _until_signal(runner, outcome)
        return outcome[0] if outcome else None

    with view:
        session.journal.append(run_started(plan, run, reason=session.choice.reason, pid=os.getpid()))
        try:
            found = anyio.run(main)
        except Exception:
            session.journal.append(run_finished(run, int(Exit.UNUSABLE), []))
            raise
    return found.exit if found else Exit.INTERRUPTED


async def _until_signal(runner: Runner, outcome: list[Any]) -> None:
    import anyio

    async def watch(cancel: Callable[[], None]) -> None:
        hung_up = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)  # nohup asks to go on
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, *hung_up) as signals:
            async for _ in signals:
                cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(watch, group.cancel_scope.cancel)
        outcome.append(await runner.run())
        group.cancel_scope.cancel()
