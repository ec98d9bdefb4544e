"""`run`: execute the plan, and show what happens."""

from __future__ import annotations

import argparse
import gc
import os
import signal
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from pipeline.cli.console import console
from pipeline.cli.plan import opened, show
from pipeline.cli.shown import Shown
from pipeline.errors import Exit
from pipeline.events import new_id, run_finished, run_started, settled
from pipeline.plan import Plan
from pipeline.session import Session

if TYPE_CHECKING:
    from anyio import CancelScope
    from anyio.abc import TaskStatus

    from pipeline.run import Outcome, Runner


def command(arguments: argparse.Namespace) -> int:
    session = opened(arguments)
    plan = session.plan(arguments.stages, again=arguments.again)
    if arguments.dry_run:
        show(session, plan, arguments)
        return Exit.PASSED
    session.claim()
    if plan.settled():
        return _nothing_to_do(session, plan, arguments)
    return execute(session, plan, arguments)


def _nothing_to_do(session: Session, plan: Plan, arguments: argparse.Namespace) -> int:
    """Journal a run in which everything was cached or skipped; neither engine nor event loop is needed."""
    run = new_id(time.time())
    view = console(arguments)
    session.journal.listen(Shown(view).event)
    with view:
        started = run_started(plan, run, reason=session.choice.reason, pid=os.getpid())
        session.journal.append(started, *(settled(step, run) for step in plan.steps), run_finished(run, 0, []))
    return Exit.PASSED


def execute(session: Session, plan: Plan, arguments: argparse.Namespace) -> int:
    """Run the plan in an event loop; signals stop it, and what is open is taken back."""
    import anyio
    from anyio.lowlevel import checkpoint_if_cancelled

    from pipeline.engines.choose import open_engine
    from pipeline.run import Options, Runner
    from pipeline.schedule import Capacity

    gc.freeze()
    gc.enable()  # `__main__` has turned it off
    run = new_id(time.time())
    view = console(arguments)
    shown = Shown(view)
    session.journal.listen(shown.event)
    capacity = Capacity(
        cpu=arguments.jobs or session.project.settings.jobs or os.cpu_count() or 1, memory=session.project.settings.memory
    )

    stop = Stop()

    async def work() -> None:
        async with open_engine(session.choice.name, session.project, session.store) as engine:
            await checkpoint_if_cancelled()  # asked to stop while the engine opened: no runner need know
            stop.runner = Runner(
                plan,
                run=run,
                engine=engine,
                store=session.store,
                journal=session.journal,
                project=session.project,
                options=Options(capacity=capacity, fail_fast=arguments.fail_fast),
                listen=shown.log,
            )
            stop.outcome = await stop.runner.run()
            if stop.outcome.exit is Exit.INTERRUPTED:
                stop()  # nor wait for an engine that takes its time to close

    with view:
        session.journal.append(run_started(plan, run, reason=session.choice.reason, pid=os.getpid()))
        try:
            anyio.run(_until_stopped, work, stop)
        except (Exception, KeyboardInterrupt) as error:
            if stop.runner is None:  # an engine that does not open, or an interrupt before anybody listens for signals
                code = Exit.UNUSABLE if isinstance(error, Exception) else Exit.INTERRUPTED
                session.journal.append(run_finished(run, int(code), []))
            raise
        if stop.runner is None:
            session.journal.append(run_finished(run, int(Exit.INTERRUPTED), []))
    return stop.outcome.exit if stop.outcome else Exit.INTERRUPTED


async def _until_stopped(work: Callable[[], Awaitable[None]], stop: Stop) -> None:
    """Do `work`, and listen for signals meanwhile."""
    import anyio

    try:
        async with anyio.create_task_group() as group:
            stop.scope = group.cancel_scope
            await group.start(_listen, stop)
            await work()
            group.cancel_scope.cancel()
    except ExceptionGroup as one:  # what `work` raised, as it is, and not in the group's wrapping
        raise one.exceptions[0] from one


class Stop:
    """What a signal means: while there is a runner at work it decides, before and afterwards all that goes on ends."""

    def __init__(self) -> None:
        self.scope: CancelScope | None = None
        self.runner: Runner | None = None
        self.outcome: Outcome | None = None

    def __call__(self) -> None:
        if self.runner is not None and self.outcome is None:
            self.runner.stop()
        elif self.scope is not None:
            self.scope.cancel()


async def _listen(stop: Stop, *, task_status: TaskStatus[None]) -> None:
    """Pass signals on, from now until cancelled."""
    import anyio

    hung_up = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)  # nohup asks to go on
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, *hung_up) as signals:
        task_status.started()
        async for _ in signals:
            stop()
