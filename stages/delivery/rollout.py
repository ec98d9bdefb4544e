"""A rollout: the executor that runs any list of steps, journals each, and goes back when one fails."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import anyio

from gates.judge import Trial
from gates.window import Window
from pipeline import BrokenOff, LockgateError, NotNow, StageFailed
from pipeline.errors import JournalError, StoreError
from stages.delivery.acts import Act
from stages.delivery.compare import compare
from stages.delivery.control import LOOKS, Control, heeding
from stages.delivery.course import NobodyWell, NothingLeft, recovered
from stages.delivery.evidence import looked
from stages.delivery.geo import resolved
from stages.delivery.hearing import Hearing, Note, Pause, because
from stages.delivery.lockstep import Member, Round, is_change
from stages.delivery.metrics import Metrics, measured
from stages.delivery.model import Address, Release, State, Variant
from stages.delivery.probe import Ready, is_asked_alike, patient, probe, written
from stages.delivery.router import Mirrors, Placed, Router, asking, in_place
from stages.delivery.step import Again, Compare, Drain, Rest, Retire, Split, Start, Step, Stop, WaitReady, Weigh
from stages.delivery.strategy import Strategy
from stages.delivery.target import Autoscaled, Supervised, Target
from stages.delivery.visitors import visiting

if TYPE_CHECKING:
    from pipeline.journal import Event

BACKOFF = 60.0
"""Seconds, at most, between two tries to get a group ready while its rollout is paused."""

DEAD = 5.0
"""Seconds without any instance of the release, after which it is not weighed any more."""

ROUTER_DEAD = 1.0
"""Seconds without a router, after which nothing is compared any more."""

STARTS = 3
"""How often a rollout starts instances that end before they are ready: one may lose its port to somebody else."""


@dataclass(frozen=True)
class Rollout:
    """Target, router, journal and further sources of metrics of one rollout of `release`."""

    target: Target
    router: Router
    release: Release | Variant
    note: Note
    control: Control = field(default_factory=Control)
    metrics: tuple[Metrics, ...] = ()
    """What is asked besides the router while the release is weighed."""
    member: Member = field(default_factory=Member)
    """What it waits for before it changes the traffic, if it is one of several."""

    async def state(self) -> State:
        """What target and router say is true; the share of a group that does not run is nobody's."""
        return await state(self.target, self.router)

    async def forward(self, strategy: Strategy) -> State:
        """Run the strategy; the state before it. On any failure, and when cancelled, the way back is run first.

        Raises BrokenOff when that fails too.
        """
        before = replace(await self.state(), wanted=self.release.instances)
        return await (await self.asking(before)).forward_from(before, strategy)

    async def forward_from(self, before: State, strategy: Strategy) -> State:
        """Run the strategy from this state on, and on any failure the way back to it."""
        group = self.release.group
        unlimited = dict(await self.target.unlimited(self.release)) if isinstance(self.release, Release) else {}
        self.control.begin()  # whoever sees that it has begun may give orders
        self.note("rollout.started", group=group, groups=sorted(before.groups), weights=dict(before.weights))
        if unlimited:
            self.note("rollout.unlimited", group=group, limits=unlimited)
            self.control.say(f"not enforced: {'; '.join(f'{name}: {why}' for name, why in unlimited.items())}")
        try:
            for name in before.serving:
                if name != group:
                    await self.target.retain(name)  # what dies meanwhile is started again on the way back
            await self.hold({**_sizes(before), group: self.release.instances})
            await self._run_heeding(strategy.forward(before, group))
            await self.hold({name: size for name, size in _sizes(before).items() if name != group})  # for the way back
            self.control.look()  # an order of the last moment is followed, or nobody was told that it would be
            self._check_aborted()
        except BaseException as error:
            self.member.fail()  # before the way back, which may take its time
            await self.return_after(error, partial(self.back, strategy, before, self.release.group))
            if (why := innermost(error)) is not error:
                raise why from error
            raise
        self.note("rollout.finished", group=group)
        return before

    async def asking(self, before: State) -> Rollout:
        """The same with a router that has as much patience with all groups as the one has that needs most.

        It asks all in one way, and one that is asked for something else than it tells would be taken for dead, on the way back
        too. Raises StageFailed where one serves that tells something else than this release.
        """
        ready: Ready | None = None
        for group in (*before.groups, *before.resting):
            known = await self.target.readiness(group)
            if known is None:
                continue
            own = ready or self._started.ready
            if is_asked_alike(known, own):
                ready = patient(own, known)
            elif group in before.serving:
                raise StageFailed(
                    f"{group} serves and says that it can by {probe(known)}, and this release by {probe(self._started.ready)}",
                    right=f"a release that answers both, deployed with ready={written(known)!r} first; then one with the other",
                )
        return replace(self, router=asking(self.router, ready)) if ready is not None else self

    async def back(self, strategy: Strategy, before: State, group: str) -> None:
        """Run the strategy's way back from `group` to `before`; where nothing runs then, the router ends too.

        Raises BrokenOff where that fails; before anything is changed NotNow where it cannot be found out what runs, and
        NothingLeft where users would be worse off.
        """
        with unchanged():
            quiet = self.quiet
            now = await self.state()
            runs = {name: one for name, one in before.groups.items() if name in now.groups or name == group}
            left = replace(before, groups=runs)
            await self.check_way_back(now, left, group)
        with self.half_way(f"the way back from {group}"):
            quiet.note("rollout.back", group=group, groups=sorted(before.groups), weights=dict(before.weights))
            await quiet.run(strategy.back(left, group))
            if not await self.target.groups():
                await self.router.stop()
            await quiet.hold({})
        quiet.note("rollout.finished", group=group, back=True)

    @contextlib.contextmanager
    def half_way(self, what: str) -> Iterator[None]:
        """Should it fail in here, all is left half way: that is noted, and BrokenOff raised."""
        try:
            yield
        except Exception as error:
            _if_it_can(self.note, "rollout.stuck", error=f"{what} failed: {error}")
            raise BrokenOff(
                f"{what} failed: {_told(error)}", right="what stands in its way out of it", next="python -m pipeline recover"
            ) from error

    @property
    def quiet(self) -> Rollout:
        """The same for a way back, which must not depend on a full disk, which nobody may pause, and which moves no user."""
        say = partial(_said_if_it_can, self.control.say)
        note = partial(_if_it_can, self.note)
        return replace(self, router=in_place(self.router), note=note, control=Control(say=say), member=Member())

    async def return_after(self, error: BaseException, back: Callable[[], Awaitable[None]]) -> None:
        """The way back, to its end. Raises BrokenOff with both reasons should it fail too, or lead nowhere."""
        try:
            with anyio.CancelScope(shield=True):
                await back()
        except (BrokenOff, NothingLeft, NotNow) as second:
            _said_if_it_can(self.control.say, second.what)
            if not isinstance(second, BrokenOff):  # else it is noted where it is stuck
                _if_it_can(self.note, "rollout.stays", why=second.what)
            if isinstance(error, Exception):
                told = f"{_told(innermost(error))}; then {second.what}"
                raise BrokenOff(told, right=second.right, next=second.next) from error

    async def hold(self, least: Mapping[str, int]) -> None:
        """Keep a target's autoscaler from taking instances away from who has a small share, or none, only for a time."""
        if isinstance(self.target, Autoscaled):
            await self.target.hold(least)
            self.note("rollout.held", least=dict(least))

    async def take_up(self, strategy: Strategy, begun: Event) -> None:
        """Take back the rollout that `begun` tells of, or go that way back to its end.

        Raises NothingLeft where there is nobody to go back to who can serve, and else as `back` does.
        """
        await self.back(strategy, await self.whereto(begun), begun.data["group"])

    async def whereto(self, begun: Event) -> State:
        """Where it leads to take back the rollout that `begun` tells of. Raises NothingLeft and NotNow; nothing is changed."""
        with unchanged():
            now = await self.state()
            to = recovered(now, begun)
            await self.check_way_back(now, to, begun.data["group"])
        return to

    async def check_way_back(self, now: State, to: State, group: str) -> None:
        """Raise NothingLeft where users would be worse off: the group serves them and can, and of those it gives way to none can.

        Whoever rests is started again, and asked then.
        """
        asks = to.serving and all(name in to.groups for name in to.serving) and group not in to.serving
        if isinstance(self.release, Variant) or not asks or not now.weights.get(group):
            return
        ill: dict[str, str | None] = {}
        failed: list[StageFailed] = []

        async def ask(name: str) -> None:
            try:
                ill[name] = await self._unable(name)
            except StageFailed as error:
                failed.append(error)
                return
            if (ill[name] is None) is not (name == group):
                asked.cancel_scope.cancel()  # one of those can serve, or the group cannot: nobody is worse off

        async with anyio.create_task_group() as asked:
            for name in (*to.serving, group):
                asked.start_soon(ask, name)
        if asked.cancel_scope.cancel_called:
            return
        if failed:
            raise failed[0]
        who, why = " and ".join(to.serving), ill[to.serving[0]]
        raise NobodyWell(
            f"{group} goes on serving: {who} cannot: {why}",
            right="a release to go back to that is well",
            next="python -m pipeline recover, once it is",
        )

    async def _unable(self, group: str) -> str | None:
        """Why none of a group's instances can serve, when none can for a while: one that is busy may miss an answer."""
        ready = await self._ready(group)
        within = max(DEAD, probe(ready).within)
        why: str | None = f"it does not answer within {within:g} s"
        with anyio.move_on_after(within):
            while (why := await self.target.unable(group, ready)) is not None:
                await anyio.sleep(0.1)
        return why

    async def _ready(self, group: str) -> Ready:
        """How the group says that it can serve; of a group that nobody knows, as the release does."""
        return await self.target.readiness(group) or self._started.ready

    async def _run_heeding(self, steps: tuple[Step, ...]) -> None:
        """Run steps, and do what operators say meanwhile. Raises StageFailed when they end it."""

        async def work() -> None:
            await self.run(steps)
            await self.member.round(0).turn()

        if await heeding(work, self.control.watch, self.member.watch):
            return
        self._check_aborted()
        raise StageFailed(f"{self.release.group} goes back with {self.member.taken_back_by}")

    def _check_aborted(self) -> None:
        """Raise StageFailed where an operator ended it."""
        if (order := self.control.aborted) is not None:
            self.note("rollout.aborted", group=self.release.group, by=order.by, why=order.why)
            raise StageFailed(f"{order.by} aborted the rollout of {self.release.group}{because(order.why)}")

    async def run(self, steps: tuple[Step, ...]) -> None:
        """Run steps in order, the intent and the outcome of each in the journal."""
        trial: Trial | None = None
        since: float | None = None
        last = Split(())
        looked_after = LookedAfter(self)
        changes = sum(is_change(step) for step in steps)
        for number, step in enumerate(steps, 1):
            turn = self.member.round(changes)
            # Those wait themselves, with an eye on what happens meanwhile; and what all have agreed to, all do.
            if not (isinstance(step, Weigh | Compare) or (is_change(step) and turn.is_open)):
                await self._while_paused()
            self.note("rollout.intended", number=number, of=len(steps), left=changes, step=str(step))
            self.control.say(f"step {number} of {len(steps)}: {step}")
            if is_change(step):
                await turn.turn()
                changes -= 1
            started = time.monotonic()
            try:
                if isinstance(step, Compare):
                    await self._compare(step, self._hearing(step, turn))
                elif isinstance(step, Weigh):
                    trial = trial.next_step() if trial else step.judge.begin()
                    trial = await self._weigh_alive(step, self._hearing(step, turn), last, trial)
                else:
                    await self._step(step)
            finally:
                looked_after.tell()
            now = time.monotonic()
            more: dict[str, object] = {}
            if isinstance(step, Split | Retire):
                last = step if isinstance(step, Split) else Split(step.weights)
                more = {"weights": last.judged}
                if last.chosen is not None:
                    more["audience"] = str(last.chosen.audience)
            self.note("rollout.done", number=number, step=str(step), seconds=round(now - started, 3), **more)
            if isinstance(step, Split) and not step.weights:
                since = started
            elif isinstance(step, Split) and since is not None:
                self.note("rollout.down", seconds=round(now - since, 3))
                since = None

    async def _step(self, step: Step) -> None:
        match step:
            case Start():
                await self.target.start(self._own(step.group) or self._started, dict(step.counts) or None)
            case Retire():
                await self._retire(step)
            case WaitReady():
                await self._wait_ready(step)
            case Split():
                chosen = await anyio.to_thread.run_sync(resolved, step.chosen)
                await self.router.split(dict(step.weights), await self.target.groups(), chosen)
            case Drain():
                await self._drain(step)
            case Rest():
                await self.target.rest(step.group)
            case Again():
                await self.target.again(step.group)
            case Stop():
                await self.router.forget(step.group)
                await self.target.stop(step.group)

    def _hearing(self, step: Weigh | Compare, turn: Round) -> Hearing:
        return Hearing(step.group, turn, step.tick, self.control, self.note)

    async def _compare(self, step: Compare, hearing: Hearing) -> None:
        """Compare as long as the router runs. Raises StageFailed where it does not: users are to be served again, at once."""
        router, groups = self.router, await self.target.groups()
        if not isinstance(router, Mirrors):
            raise StageFailed(f"{type(router).__name__} cannot send copies of requests", right="a router that can: Envoy")
        if not await heeding(lambda: compare(step, router, groups, hearing), Alive(router.runs, ROUTER_DEAD).watch):
            raise StageFailed("the router has ended while it sent copies of requests", right="a router that goes on")

    async def _while_paused(self) -> None:
        """Wait until nobody wants the rollout to stay where it is."""
        pause = Pause(self.release.group, self.control, self.note)
        while self.control.paused is not None:
            pause.holds(self.control.paused.by, self.control.paused.why)
            if pause.too_long:
                raise StageFailed(f"the rollout was paused by {self.control.paused.by}, and nobody let it go on in time")
            await anyio.sleep(LOOKS)
        pause.ends()

    async def _weigh_alive(self, step: Weigh, hearing: Hearing, split: Split, trial: Trial) -> Trial:
        """Weigh as long as instances run. Raises StageFailed where none does: nobody is sent there, and nothing is learned."""
        found: list[Trial] = []

        async def weigh() -> None:
            found.append(await self._weigh(step, hearing, split, trial))

        async def runs() -> bool:
            return step.group in await self.target.groups()

        if not await heeding(weigh, Alive(runs, DEAD).watch):
            raise StageFailed(
                f"no instance of {step.group} has run for {DEAD:g} s",
                right="instances that go on, or are started again (restart=...)",
            )
        return found[0]

    async def _weigh(self, step: Weigh, hearing: Hearing, split: Split, trial: Trial) -> Trial:
        """Look each tick until the judge or an operator decides. Raises StageFailed with the evidence unless the group may go on.

        A router that died meanwhile is started again with the shares it had.
        """
        share = split.judged.get(step.group, 0)
        async with (
            measured(self.router.watch(), self.metrics, step.against, (step.group,)) as watch,
            visiting(step.visitors, self.router.address.url),
        ):

            async def look() -> tuple[Window | None, Window | None]:
                old, new = watch.windows(step.against, (step.group,))
                if old is None or new is None:
                    await self._revive(split)
                return old, new

            def noted(now: Trial) -> None:
                self.note("rollout.looked", group=step.group, share=share, **looked(now))

            trial, promoted, pause = await hearing.hold(trial, look, noted)
        said = trial.said()
        self.note("rollout.judged", group=step.group, advice=trial.advice.value, said=said, seconds=round(trial.seconds, 3))
        hearing.decide(trial, promoted, pause, said, str(step))
        return trial

    async def _revive(self, split: Split) -> None:
        """A router that may have died has its shares again, and it is told where it had."""
        with contextlib.suppress(StageFailed):  # then nothing is known, which the judge takes into account
            died = await self._router_died()
            with contextlib.suppress(StageFailed):
                await self._step(split)
            if died and not await self._router_died():
                self.note("router.restarted", weights=dict(split.weights))
                self.control.say("the router had died, and was started again")

    async def _router_died(self) -> bool:
        return isinstance(self.router, Placed) and await self.router.died()

    async def _wait_ready(self, step: WaitReady) -> None:
        """Wait until ready; what is not ready in time fails the rollout with its reason, or lets it pause until people decide."""
        pause, tries = Pause(self.release.group, self.control, self.note), 0
        own = self._own(step.group)
        ready = self._started.ready if own is not None else await self._ready(step.group)
        while (reason := await self._not_ready(step, own, ready)) is not None:
            if step.some and await self.target.unable(step.group, ready) is None:
                self.control.say(f"{step.group} {reason}; the others serve")
                return
            error = StageFailed(f"{step.group} {reason}", right=f"every instance answers {probe(ready)}")
            if not step.pauses:
                raise error
            pause.holds("the rollout", error.what, until=f"{step.group} is ready")
            if pause.too_long:
                raise error
            tries += 1
            await anyio.sleep(min(2**tries, BACKOFF))  # what ends at once is not to be started all the time
        pause.ends()

    async def _not_ready(self, step: WaitReady, own: Release | None, ready: Ready) -> str | None:
        """Poll until ready, or until it is to be told that it was not: the time is over, or instances end again and again."""
        reason: str | None = "it gave no answer"
        starts = 1
        with anyio.move_on_after(step.within):
            while (reason := await self._unready(step, own, ready)) is not None:
                ended = await self._ended(step, own)
                if own is not None and ended is not None:
                    if starts == STARTS:
                        return f"does not get ready: {ended}"
                    starts += 1
                    await self.target.start(own, dict(step.counts) or None)
                await anyio.sleep(0.1)
        return None if reason is None else f"was not ready within {step.within:g} s: {reason}"

    @property
    def _started(self) -> Release:
        """The release, for steps that are about its instances. Raises StageFailed for a variant, which has none."""
        if isinstance(self.release, Variant):
            raise StageFailed(f"{self.release.group} has no instances", right="steps that are about shares")
        return self.release

    def _own(self, group: str) -> Release | None:
        """What the group runs, where that is this release, in shadow or not."""
        return next((one for one in (self._started, self._started.shadowed()) if one.group == group), None)

    async def _unready(self, step: WaitReady, own: Release | None, ready: Ready) -> str | None:
        """Why the group cannot serve, or None; of the release's own groups no instance may be missing."""
        reason = await self.target.unready(step.group, ready)
        return await self._ended(step, own) or reason

    async def _ended(self, step: WaitReady, own: Release | None) -> str | None:
        """The last words of instances of the release that ended; of other groups nobody knows how many there should be."""
        if own is None:
            return None
        return await self.target.ended(own, sum(dict(step.counts).values()) or own.instances)

    async def _drain(self, step: Drain, at: Collection[Address] = ()) -> None:
        """Poll until nothing is in flight; requests that take longer are left to the router's own limit."""
        left = -1
        with anyio.move_on_after(step.within):
            while (left := await self.router.in_flight(step.group, at)) > 0:
                await anyio.sleep(0.05)
        if left > 0:
            self.note("rollout.undrained", group=step.group, requests=left)

    async def _retire(self, step: Retire) -> None:
        """No new request to some instances of a group, then their end, then the rest without them."""
        groups = await self.target.groups()
        leaving = chosen(groups[step.group].instances, dict(step.counts))
        marked = {**groups, step.group: replace(groups[step.group], leaving=leaving)}
        await self.router.split(dict(step.weights), marked)
        await self._drain(Drain(step.group, step.within), leaving)
        await self.target.retire(step.group, leaving)
        await self.router.split(dict(step.weights), await self.target.groups())


@contextlib.contextmanager
def unchanged() -> Iterator[None]:
    """In here it is only asked. What fails of it has changed nothing, and may be tried again: NotNow is raised for it."""
    try:
        yield
    except (NothingLeft, NotNow):
        raise
    except Exception as error:
        why = innermost(error)
        where, right, further = (why.where, why.right, why.next) if isinstance(why, LockgateError) else ("", "", "")
        raise NotNow(_told(why), where=where, right=right, next=further) from error


def innermost(error: BaseException) -> BaseException:
    """What was raised, where it is the only one of a group."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


@dataclass(frozen=True)
class Alive:
    """Whether something runs; what died may be started again by others, which takes a moment."""

    runs: Callable[[], Awaitable[bool]]
    within: float
    """Seconds that it may take."""

    async def watch(self, working: anyio.CancelScope) -> None:
        """Look again and again; end the work when it has not run for too long. Who cannot be asked has not said that it died."""
        since = anyio.current_time()
        while anyio.current_time() - since < self.within:
            await anyio.sleep(self.within / 5)
            try:
                runs = await self.runs()
            except StageFailed:
                runs = True
            since = anyio.current_time() if runs else since
        working.cancel()


def _sizes(before: State) -> dict[str, int]:
    """How many instances each group has that serves."""
    return {name: len(before.groups[name].instances) for name in before.serving if name in before.groups}


class LookedAfter:
    """Tells what was done to instances of the release while it is rolled out, where the target has them looked after."""

    def __init__(self, rollout: Rollout) -> None:
        self._rollout = rollout
        self._known = len(self._acts())

    def _acts(self) -> list[Act]:
        target = self._rollout.target
        return list(target.acts(self._rollout.release.group).all()) if isinstance(target, Supervised) else []

    def tell(self) -> None:
        """What was not told yet."""
        acts = self._acts()
        for act in acts[self._known :]:
            if act.did == "ended":
                group = self._rollout.release.group
                self._rollout.note("rollout.ended", group=group, port=act.port, why=act.why)
        self._known = len(acts)


def chosen(instances: Iterable[Address], counts: Mapping[str, int]) -> frozenset[Address]:
    """So many instances of each zone, the last ones. Pure."""
    zones: dict[str, list[Address]] = {}
    for one in instances:
        zones.setdefault(one.zone, []).append(one)
    return frozenset(one for zone, count in counts.items() if count for one in zones.get(zone, [])[-count:])


async def state(target: Target, router: Router) -> State:
    """What target and router say is true; the share of a group that does not run is nobody's."""
    groups, weights = await target.groups(), await router.current()
    served = {name: share for name, share in weights.items() if name in groups}
    return State(groups=groups, weights=served, resting=await target.resting(), zones=target.zones)


def _told(error: BaseException) -> str:
    return error.what if isinstance(error, LockgateError) else f"{type(error).__name__}: {error}"


def _if_it_can(note: Note, kind: str, **data: object) -> None:
    """Write to the journal unless that cannot be written."""
    with contextlib.suppress(JournalError):
        note(kind, **data)


def _said_if_it_can(say: Callable[[str], None], text: str) -> None:
    """Write to the log unless that cannot be written."""
    with contextlib.suppress(StoreError):
        say(text)
