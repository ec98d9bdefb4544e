"""`run`: execute the plan, and show what happens."""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import signal
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

from pipeline.cli.console import View, console
from pipeline.cli.plan import opened, show
from pipeline.errors import Exit
from pipeline.events import new_id, run_finished, run_started, settled
from pipeline.plan import Plan
from pipeline.session import Session

if TYPE_CHECKING:
    from anyio import CancelScope

    from pipeline.run import Outcome, Runner


def command(arguments: argparse.Namespace, out: TextIO) -> int:
    session = opened(arguments)
    plan = session.plan(arguments.stages, again=arguments.again)
    if arguments.dry_run:
        show(session, plan, arguments, out)
        return Exit.PASSED
    session.claim()
    view = console(arguments, out)
    session.journal.listen(view.event)
    if plan.settled():
        return _nothing_to_do(session, plan, view)
    return execute(session, plan, view, jobs=arguments.jobs, fail_fast=arguments.fail_fast)


def _nothing_to_do(session: Session, plan: Plan, view: View) -> int:
    """Journal a run in which everything was cached or skipped; neither engine nor event loop is needed."""
    run = new_id(time.time())
    with view:
        started = run_started(plan, run, reason=session.choice.reason, pid=os.getpid())
        session.journal.append(started, *(settled(step, run) for step in plan.steps), run_finished(run, 0, []))
    return Exit.PASSED


def execute(session: Session, plan: Plan, view: View, *, jobs: int, fail_fast: bool) -> int:
    """Run the plan in an event loop; signals stop it, and what is open is taken back."""
    import anyio
    from anyio.lowlevel import checkpoint_if_cancelled

    from pipeline.engines.choose import open_engine
    from pipeline.engines.local import check_open_files
    from pipeline.run import Options, Runner
    from pipeline.schedule import Capacity

    check_open_files()
    gc.freeze()
    gc.enable()  # `__main__` has turned it off
    settings = session.project.settings
    run, capacity = new_id(time.time()), Capacity(cpu=jobs or settings.jobs or os.cpu_count() or 1, memory=settings.memory)
    stop = Stop()

    async def work() -> None:
        session.journal.append(run_started(plan, run, reason=session.choice.reason, pid=os.getpid()))
        ends = Exit.INTERRUPTED
        try:
            async with open_engine(session.choice.name, session.project, session.store) as engine:
                await checkpoint_if_cancelled()  # asked to stop while the engine opened: no runner need know
                stop.runner = Runner(
                    plan,
                    run=run,
                    engine=engine,
                    store=session.store,
                    journal=session.journal,
                    project=session.project,
                    options=Options(capacity=capacity, fail_fast=fail_fast),
                    listen=view.log,
                )
                stop.outcome = await stop.runner.run()
                if stop.outcome.exit is Exit.INTERRUPTED:
                    stop()  # nor wait for an engine that takes its time to close
        except Exception:
            ends = Exit.UNUSABLE
            raise
        finally:
            if stop.runner is None:  # an engine that does not open, or was not waited for
                session.journal.append(run_finished(run, int(ends), []))

    async def until_stopped() -> None:
        with anyio.CancelScope() as stop.scope, stop.listening(), view:
            await work()

    anyio.run(until_stopped)
    return stop.outcome.exit if stop.outcome else Exit.INTERRUPTED


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

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Pass signals on to the event loop; what was to be done about them before is to be done about them afterwards.

        A receiver of asyncio's would leave SIGINT as a KeyboardInterrupt, in the middle of whatever ends the process.
        """
        import asyncio

        loop = asyncio.get_running_loop()
        hung_up = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)  # nohup asks to go on
        before = {
            number: signal.signal(number, lambda *_: loop.call_soon_threadsafe(self))
            for number in (signal.SIGINT, signal.SIGTERM, *hung_up)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
