"""Several services in lockstep: they change the traffic together, and where one fails all go back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import anyio

from gates.judge import Judge
from pipeline import BrokenOff, Effect, LockgateError, Resources, Result, Stage, StageFailed, WiringError, Work
from stages.delivery.control import Control
from stages.delivery.deploy import Releases
from stages.delivery.deployment import deployment, take_back
from stages.delivery.freeze import check_not_frozen
from stages.delivery.lock import alone
from stages.delivery.lockstep import Lockstep, rounds
from stages.delivery.metrics import OpensMetrics, need_sources
from stages.delivery.model import Deployment, Release
from stages.delivery.rollout import Rollout, state, unfinished
from stages.delivery.shadow import Shadow
from stages.delivery.strategy import BlueGreen, Strategy, without

if TYPE_CHECKING:
    from pipeline.journal import Event
    from pipeline.order import Order

T = TypeVar("T")


class Prepared(Result):
    """The release of one service, as `Release.written` gives it."""

    service: str
    release: str

    def summary(self) -> str:
        return f"{self.service} is to be {Release.read(self.release).group}"


class Service(Releases[Prepared]):
    """One of the services that `DeployTogether` rolls out, by a name that is the journal's too; it changes nothing itself."""

    effect: ClassVar[Effect] = Effect.RETRYABLE

    name: str
    metrics: tuple[OpensMetrics, ...] = ()
    """What a canary's judge is told of this service besides what its router counts."""

    async def run(self, work: Work) -> Prepared:
        return Prepared(service=self.name, release=self.release_of(work).written())


class Deployments(Result):
    """What came of each service, by its name."""

    services: dict[str, Deployment]

    def summary(self) -> str:
        return "; ".join(f"{name}: {one.summary()}" for name, one in self.services.items())


class OneService(Stage[Deployment]):
    """The deployment of one service out of several, for checks to ask."""

    deployments: Stage[Deployments]
    service: str

    async def run(self, work: Work) -> Deployment:
        found = work[self.deployments].services
        if self.service not in found:
            raise StageFailed(f"there is no service {self.service!r}", right=f"one of: {', '.join(found)}")
        return found[self.service]


class DeployTogether(Stage[Deployments]):
    """Rolls out the releases of several services by one strategy, none ahead of another.

    Nothing is switched before the new instances of all are ready. Each change of traffic is made for all at once, as soon as
    each of them may; a judge goes on watching those that wait for others. When one fails, or a stage below this one does, all of
    them go back at once. The judge's `alpha` holds for all of them together.

    Between two routers no change is made in the same instant, and while a canary goes on each draws its own lots: a new
    release of one service is called by the old one of another, and the other way round. Each has to get on with both.
    """

    effect: ClassVar[Effect] = Effect.ONCE
    resources: Resources = Resources(locks=("deploy",))
    timeout: float = 7 * 86_400.0
    """Seconds; each step of a rollout has limits of its own."""

    services: tuple[Service, ...]
    strategy: Strategy = BlueGreen()
    paused: float = 14_400.0
    """How many seconds a pause may last."""

    def __post_init__(self) -> None:
        if len(self.services) < 2:
            raise WiringError("DeployTogether is for services, and has fewer than two", right="Deploy(...), or another Service")
        for what in ("name", "target", "router"):
            each = [getattr(one, what) for one in self.services]
            if any(each.count(one) > 1 for one in each):
                raise WiringError(f"DeployTogether: two services have the same {what}", right=f"a {what} for each")
        if isinstance(self.strategy, Shadow):
            raise WiringError("DeployTogether: a Shadow is of one router", right="Deploy(strategy=Shadow(...)) for each, before")
        for service in self.services:
            need_sources(f"Service {service.name}", self._judge, service.metrics)

    @property
    def _judge(self) -> Judge | None:
        found = getattr(self.strategy, "judge", None)
        return found if isinstance(found, Judge) else None

    @property
    def _strategy(self) -> Strategy:
        """For each service: the chance that any is aborted in vain is at most the sum of the chances of all (Bonferroni)."""
        if self._judge is None:
            return self.strategy
        judge = replace(self._judge, alpha=self._judge.alpha / len(self.services))
        shared: Strategy = replace(self.strategy, judge=judge)  # type: ignore[type-var]  # strategies are dataclasses
        return shared

    async def run(self, work: Work) -> Deployments:
        check_not_frozen(work)
        async with alone(work.state("deploy"), work.say):
            rollouts = self._rollouts(work)
            started, finished = work.events("rollout.started"), work.events("rollout.finished")
            if any(unfinished(*_of(name, started, finished)) for name in rollouts):
                await self._take_up(rollouts, started, finished)  # people said to go on
            return await self._forward(work, rollouts)

    async def _forward(self, work: Work, rollouts: Mapping[str, Rollout]) -> Deployments:
        lockstep = Lockstep(tuple(rollouts))
        together = {name: replace(one, member=lockstep.member(name)) for name, one in rollouts.items()}
        before, failed = await _each({name: partial(one.forward, self._strategy) for name, one in together.items()})
        if failed:
            raise _broken(failed, lockstep.failed)
        found = {
            name: await deployment(rollouts[name], release.image, release.group, before[name].groups, before[name].weights)
            for name, release in self._releases(work).items()
        }
        return Deployments(services=found)

    async def undo(self, work: Work, result: Any) -> str | None:
        """All go back whose release is another one since this deployment; all of them, where none is."""
        found: Mapping[str, Deployment] = result.services
        changed = [name for name, one in found.items() if not one.before.get(one.group)] or list(found)
        async with alone(work.state("deploy"), work.say):
            rollouts = {name: one for name, one in self._rollouts(work).items() if name in changed}

            def back(one: Service) -> Callable[[], Awaitable[str | None]]:
                rollout, result = rollouts[one.name], found[one.name]
                return partial(take_back, rollout, self._strategy, result, one.ready, interrupted=work.interrupted)

            said, failed = await _each({one.name: back(one) for one in self.services if one.name in rollouts})
        if failed:
            raise _broken(failed, next(iter(failed)))
        return "; ".join(f"{name}: {text}" for name, text in said.items() if text) or None

    async def recover(self, work: Work) -> Deployments | None:
        """The deployments, when the rollouts of all were complete; else all are taken back here."""
        async with alone(work.state("deploy"), work.say):
            rollouts = self._rollouts(work)
            intended = max((event.seq for event in work.events("effect.intended")), default=0)
            started = [event for event in work.events("rollout.started") if event.seq > intended]
            finished = [event for event in work.events("rollout.finished") if event.seq > intended]
            if all(_complete(*_of(name, started, finished)) for name in rollouts):
                last = {name: _of(name, started, finished)[0][-1].data for name in rollouts}  # of other releases, perhaps
                found = {
                    name: await deployment(
                        rollouts[name], release.image, last[name]["group"], last[name]["groups"], last[name]["weights"]
                    )
                    for name, release in self._releases(work).items()
                }
                return Deployments(services=found)
            await self._take_up(rollouts, started, finished)
            return None

    async def _take_up(self, rollouts: Mapping[str, Rollout], started: list[Event], finished: list[Event]) -> None:
        def one(name: str) -> Callable[[], Awaitable[None]]:
            return partial(rollouts[name].take_up, self._strategy, *_of(name, started, finished))

        _, failed = await _each({name: one(name) for name in rollouts})
        if failed:
            raise _broken(failed, next(iter(failed)))

    async def steps(self, work: Work) -> Sequence[str]:
        """Round after round, from what runs now to other releases."""
        planned = {}
        for service in self.services:
            now = await state(service.target.open(work), service.router.open(work, service.ready))
            planned[service.name] = self.strategy.forward(replace(now, wanted=service.instances), "green")
        return [f"{name}: {step}" for name, step in rounds(planned)]

    async def obey(self, work: Work, order: Order) -> str:
        """Drain a group of one service: it gets no new request, and its share goes to the others that serve."""
        if order.verb != "drain":
            return await super().obey(work, order)
        async with alone(work.state("deploy"), work.say):
            for name, rollout in self._rollouts(work).items():
                now = await rollout.state()
                if order.of in now.groups:
                    await rollout.run(without(now, order.of))
                    return f"{order.of} of {name} gets no new request"
        raise StageFailed(f"no service has a group {order.of!r}", next="python -m pipeline deployments")

    def _rollouts(self, work: Work) -> dict[str, Rollout]:
        """Each service's, as its `Service` prepared it."""
        releases = self._releases(work)
        return {one.name: self._rollout(work, one, releases[one.name]) for one in self.services}

    def _releases(self, work: Work) -> dict[str, Release]:
        return {one.name: Release.read(work[one].release) for one in self.services}

    def _rollout(self, work: Work, service: Service, release: Release) -> Rollout:
        def note(kind: str, **data: object) -> None:
            work.record(kind, service=service.name, **data)

        control = Control(orders=work.orders, say=lambda text: work.say(f"{service.name}: {text}"), longest=self.paused)
        rollout = service.rollout_of(work, release)
        return replace(rollout, note=note, control=control, metrics=tuple(one.open(work) for one in service.metrics))


def _of(name: str, started: Sequence[Event], finished: Sequence[Event]) -> tuple[list[Event], list[Event]]:
    """Those of one service."""
    first, second = ([event for event in events if event.data.get("service") == name] for events in (started, finished))
    return first, second


def _complete(started: list[Event], finished: list[Event]) -> bool:
    return bool(started) and not unfinished(started, finished) and not finished[-1].data.get("back")


async def _each(calls: Mapping[str, Callable[[], Awaitable[T]]]) -> tuple[dict[str, T], dict[str, Exception]]:
    """Call all at once, to the end of each; what each returned, and what each raised."""
    found: dict[str, T] = {}
    failed: dict[str, Exception] = {}

    async def call(name: str) -> None:
        try:
            found[name] = await calls[name]()
        except Exception as error:
            failed[name] = error

    async with anyio.create_task_group() as tasks:
        for name in calls:
            tasks.start_soon(call, name)
    return {name: found[name] for name in calls if name in found}, failed


def _broken(failed: Mapping[str, Exception], first: str) -> Exception:
    """What is told when one failed first, and perhaps others on their way back."""
    stuck = {name: error for name, error in failed.items() if isinstance(error, BrokenOff)}
    error = failed[first]
    if not isinstance(error, LockgateError):
        return error
    if stuck:
        return BrokenOff("; ".join(f"{name}: {one.what}" for name, one in {first: error, **stuck}.items()))
    return StageFailed(f"{first}: {error.what}", where=error.where, right=error.right, next=error.next)
