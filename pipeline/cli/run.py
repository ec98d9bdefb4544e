"""`run`: execute the plan, and show what happens."""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, TextIO

from pipeline.cli.console import View, console
from pipeline.cli.plan import nothing, opened, selection, show
from pipeline.errors import ConfigError, Exit, StageFailed
from pipeline.events import new_id, run_finished, run_planned, run_resumed, run_started, settled
from pipeline.history import one
from pipeline.journal import Event, Journal
from pipeline.lease import Lease
from pipeline.plan import Decision, Plan, World, plan, skips
from pipeline.repeat import fingerprint, remember
from pipeline.resumption import check_cut_off
from pipeline.selection import Selection, check_alone, select
from pipeline.session import Session, in_use
from pipeline.stage import Effect, Stage

if TYPE_CHECKING:
    from anyio import CancelScope

    from pipeline.engine import Engine
    from pipeline.history import RunHistory
    from pipeline.remote.access import Access
    from pipeline.remote.sharing import Sharing
    from pipeline.run import Outcome, Runner
    from pipeline.workers.workers import Workers


def command(arguments: argparse.Namespace, out: TextIO) -> int:
    session = opened(arguments)
    asked = selection(session, arguments)
    wanted = select(session.pipeline, asked)
    if not wanted:
        return nothing(asked)
    if arguments.dry_run:
        made = session.plan(asked, again=arguments.again)
        show(session, made, arguments, out)
        return Exit.PASSED if show_steps(session, made, arguments, out) else Exit.FAILED
    remote_access(session)  # what is wrong with it is told, also where nothing asks it
    losses = session.store.losses
    code = at_work(session, lambda: _run(session, asked, wanted, arguments, console(arguments, out)))
    only_pure = all(stage.effect is Effect.PURE for stage in wanted)  # what has an effect is not begun again unasked
    if code != Exit.UNUSABLE or session.store.losses == losses or not only_pure:
        return code
    print("what was found damaged is made again", file=sys.stderr)
    session = opened(arguments)
    return at_work(session, lambda: _run(session, asked, select(session.pipeline, asked), arguments, console(arguments, out)))


def show_steps(session: Session, plan: Plan, arguments: argparse.Namespace, out: TextIO) -> bool:
    """What stages that would run say of their steps; whether each could take them."""
    stages = [step.stage for step in plan.of(Decision.RUN) if type(step.stage).steps is not Stage.steps]
    if not stages:
        return True
    import anyio

    from pipeline.operation import Operation

    fine = True
    for stage in stages:
        name = plan.pipeline.name_of(stage)
        work = Operation(session, stage, "dry", lambda line: print(line, file=out)).work(stage)
        steps: list[str] = []
        wrong = ""
        try:
            steps = list(anyio.run(stage.steps, work))
        except StageFailed as error:
            wrong, fine = error.what, False
        if arguments.output == "json":
            print(json.dumps({"kind": "steps", "stage": name, "steps": steps, "fails": wrong}), file=out)
            continue
        print(f"{name} would fail: {wrong}" if wrong else f"{name}, {len(steps)} steps to what is new:", file=out)
        for number, step in enumerate(steps, 1):
            print(f"  {number:3d}  {step}", file=out)
    return fine


def at_work(session: Session, run: Callable[[], int]) -> int:
    """The exit code of a run that has its state directory, and its store as long as it goes on; the store is kept small then."""
    session.claim()
    using = in_use(session.project.home)
    using.wait()
    try:
        code = run()
    finally:
        using.give_back()
    keep_small(session)
    session.leave()
    return code


def _run(session: Session, asked: Selection, wanted: frozenset[Stage[Any]], arguments: argparse.Namespace, view: View) -> int:
    session.journal.listen(view.event)
    world = session.world(wanted, arguments.again)
    skipped = skips(session.pipeline, wanted, world)
    print_ = fingerprint(session.pipeline, wanted, skipped, world)
    before = session.store.settled(print_) if print_ and arguments.output == "text" else None
    if before is not None and session.journal.latest("", ("run.finished",), run=before):  # else it was told elsewhere
        return _as_before(session, world, before, view)
    made = plan(session.pipeline, wanted, world)
    check_alone(made, asked)
    if not made.settled():
        return execute(session, made, view, jobs=arguments.jobs, fail_fast=arguments.fail_fast, workers=arguments.workers)
    run = _nothing_to_do(session, made, view)
    if print_:
        remember(session.store, print_, made, run)
    return Exit.PASSED


def _as_before(session: Session, world: World, before: str, view: View) -> int:
    """Journal a run that finds everything as the run `before` did."""
    run = new_id(time.time())
    started, finished = run_started(session.pipeline, world, run, **_about(session)), run_finished(run, 0, [])
    session.journal.repeat(started, before, finished)
    with view:
        for event in (started, *session.journal.settled_together(before), finished):
            view.event(event._replace(run=run, at=event.at or time.time()))
    return Exit.PASSED


def _nothing_to_do(session: Session, plan: Plan, view: View) -> str:
    """Journal a run in which everything was cached or skipped; neither engine nor event loop is needed. Returns its id."""
    run = new_id(time.time())
    with view:
        about = (_begins(session, plan, run, 0), run_planned(plan, run))
        session.journal.append(*about, *settled(plan.steps, run), run_finished(run, 0, []))
    return run


def _begins(session: Session, plan: Plan, run: str, number: int) -> Event:
    """The first event of a run, or of going on with it for the first, second or a later time."""
    if number:
        return run_resumed(session.pipeline, plan.world, run, number, **_about(session))
    return run_started(session.pipeline, plan.world, run, **_about(session))


def _about(session: Session) -> dict[str, Any]:
    """Where a run takes place, and on what engine for what reason."""
    return {"reason": session.choice.reason, "pid": os.getpid(), "host": os.uname().nodename}


def keep_small(session: Session) -> None:
    """Evict from the store what is over the project's limits, unless another run takes something from it just now."""
    settings = session.project.settings
    lock = in_use(session.project.home, shared=False)
    if not (settings.store_size or settings.store_days) or not lock.try_take():
        return
    try:
        from pipeline.cli.cache import said
        from pipeline.pruning import MIB, latest, prune

        gone = prune(session.store, session.journal, largest=settings.store_size * MIB, days=settings.store_days)
        if gone.eviction.keys or gone.eviction.objects:
            session.store.discard(gone.eviction.keys, gone.eviction.objects, gone.trees)
            about = {"stages": gone.stages, "objects": len(gone.eviction.objects), "bytes": gone.bytes}
            run = next(iter(latest(session.journal)), "") or session.journal.runs()[-1]
            session.journal.append(Event(run=run, kind="store.evicted", data=about))
            print(f"{said(gone)}: what was used least recently is over the limit", file=sys.stderr)
    finally:
        lock.give_back()


def _check_not_ended(journal: Journal, run: str, lease: Lease) -> None:
    """Raise ConfigError for a run that came to its end between the look at it and the lease."""
    found = one(journal, run)
    try:
        if found is not None:
            check_cut_off(found)
    except ConfigError:
        lease.end()
        raise


def execute(
    session: Session, plan: Plan, view: View, *, jobs: int, fail_fast: bool, workers: str = "", resume: RunHistory | None = None
) -> int:
    """Run the plan in an event loop, or go on with a run; signals stop it, and what is open is taken back."""
    import anyio
    from anyio.lowlevel import checkpoint_if_cancelled

    from pipeline.engines.choose import open_engine
    from pipeline.engines.local import check_open_files
    from pipeline.run import Options, Runner
    from pipeline.schedule import Capacity

    check_open_files()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)  # most of what a run makes stays until its end
    gc.enable()  # `__main__` has turned it off
    settings = session.project.settings
    run, capacity = (
        resume.id if resume else new_id(time.time()),
        Capacity(cpu=jobs or settings.jobs or os.cpu_count() or 1, memory=settings.memory),
    )
    stop, remote = Stop(), remote_access(session)
    carrier = carried(workers, remote)
    lease = Lease(session.journal, session.project.home, run, resume.about.get("number", 0) if resume else 0)
    number = lease.take()
    if resume:
        _check_not_ended(session.journal, resume.id, lease)

    async def work() -> None:
        session.journal.append(_begins(session, plan, run, number + 1 if resume else 0), run_planned(plan, run))
        if resume:
            session.journal.fence(run, number + 1)
        ends = Exit.INTERRUPTED
        try:
            async with (
                open_engine(session.choice.name, session.project, session.store) as engine,
                shared(remote, session, plan, run) as sharing,
                placed(workers, carrier, session, run, engine, capacity.cpu) as cluster,
            ):
                await checkpoint_if_cancelled()  # asked to stop while the engine opened: no runner need know
                stop.runner = Runner(
                    plan,
                    run=run,
                    engine=engine,
                    store=session.store,
                    journal=session.journal,
                    project=session.project,
                    options=Options(capacity=capacity, fail_fast=fail_fast, resumed=bool(resume)),
                    listen=view.log,
                    remote=sharing,
                    workers=cluster,
                )
                stop.outcome = await stop.runner.run()
                if stop.outcome.exit is Exit.INTERRUPTED:
                    stop()  # nor wait for an engine that takes its time to close
        except Exception:
            ends = Exit.UNUSABLE
            raise
        finally:
            if stop.runner is None and not session.journal.taken_over:  # an engine that does not open, or was not waited for
                session.journal.append(run_finished(run, int(ends), []))

    async def until_stopped() -> None:
        with anyio.CancelScope() as stop.scope, stop.listening(), view:
            await work()

    try:
        anyio.run(until_stopped)
    finally:
        lease.end()
    return stop.outcome.exit if stop.outcome else Exit.INTERRUPTED


def remote_access(session: Session) -> Access | None:
    """The remote cache to share with, if the project has one. Raises ConfigError."""
    if not session.project.settings.remote_cache:
        return None
    from pipeline.remote.access import access

    return access(session.project.settings, os.environ)


@contextlib.asynccontextmanager
async def shared(access: Access | None, session: Session, plan: Plan, run: str) -> AsyncIterator[Sharing | None]:
    """What a run shares, for as long as it lasts; None without a remote cache, which costs nothing then."""
    if access is None:
        yield None
        return
    from pipeline.remote.sharing import Sharing

    async with Sharing.open(access, plan, run, store=session.store, journal=session.journal) as sharing:
        yield sharing


def carried(address: str, access: Access | None) -> Access | None:
    """The remote cache by which content gets to workers; None where none are asked for. Raises ConfigError."""
    if not address:
        return None
    from pipeline.workers.workers import check_usable

    return check_usable(address, access)


@contextlib.asynccontextmanager
async def placed(
    address: str, access: Access | None, session: Session, run: str, own: Engine, cpu: int
) -> AsyncIterator[Workers | None]:
    """The cluster that executes actions for as long as the run lasts; None without one, which costs nothing then."""
    if access is None:
        yield None
        return
    from pipeline import __version__
    from pipeline.engines.choose import default_image
    from pipeline.workers.terms import Terms
    from pipeline.workers.workers import Workers

    image = default_image(session.project)
    terms = Terms(version=__version__, engine=own.name, image=image, platform=own.platform, cache=access.address)
    async with Workers.open(
        address, access, terms, run, own=own, store=session.store, journal=session.journal, cpu=cpu
    ) as workers:
        yield workers


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

        A receiver of asyncio's would leave SIGINT as a KeyboardInterrupt, in the middle of whatever ends the process. One that
        takes its time would be called within itself as long as signals come, until that is too deep.
        """
        import asyncio

        loop = asyncio.get_running_loop()
        received: list[int] = []
        told = False

        def receive(number: int, _: object) -> None:
            nonlocal told
            received.append(number)
            if not told:
                told = True
                loop.call_soon_threadsafe(heed)

        def heed() -> None:
            nonlocal told
            told = False
            while received:
                received.pop()
                self()

        hung_up = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)  # nohup asks to go on
        before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM, *hung_up)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
