"""Several services in lockstep: they change the traffic together, and where one fails all go back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import anyio

from pipeline import BrokenOff, Effect, LockgateError, NotNow, Resources, Result, Stage, StageFailed, Stays, WiringError, Work
from stages.delivery.certificate import show
from stages.delivery.control import Control
from stages.delivery.course import Course, NothingLeft
from stages.delivery.deploy import Releases
from stages.delivery.deployment import deployment, going_on, needing_people, standing, started_again, told, way_back
from stages.delivery.freeze import check_not_frozen
from stages.delivery.lock import alone
from stages.delivery.lockstep import Lockstep, rounds
from stages.delivery.metrics import OpensMetrics, need_sources
from stages.delivery.model import Deployment, Release, State
from stages.delivery.rollout import Rollout, state
from stages.delivery.shadow import Shadow
from stages.delivery.strategy import BlueGreen, Strategy, judge_of, without

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
        shared: dict[str, list[object]] = {
            "name": [one.name for one in self.services],
            "target": [getattr(one.target, "name", one.target) for one in self.services],
            "router": [getattr(one.router, "name", one.router) for one in self.services],
            "port": [getattr(one.router, "port", one.name) for one in self.services],
        }
        for what, each in shared.items():
            if "" in each or any(each.count(one) > 1 for one in each):
                raise WiringError(f"DeployTogether: two services have the same {what}, or one none", right=f"a {what} for each")
        if isinstance(self.strategy, Shadow):
            raise WiringError("DeployTogether: a Shadow is of one router", right="Deploy(strategy=Shadow(...)) for each, before")
        for service in self.services:
            need_sources(f"Service {service.name}", judge_of(self.strategy), service.metrics)

    @property
    def _strategy(self) -> Strategy:
        """For each service: the chance that any is aborted in vain is at most the sum of the chances of all (Bonferroni)."""
        if (judge := judge_of(self.strategy)) is None:
            return self.strategy
        part = replace(judge, alpha=judge.alpha / len(self.services))
        shared: Strategy = replace(self.strategy, judge=part)  # type: ignore[type-var]  # strategies are dataclasses
        return shared

    async def run(self, work: Work) -> Deployments:
        async with alone(work.state("deploy"), work.say):
            with going_on(work):
                await self._settle(work, Attempt.last(work.events))
            check_not_frozen(work)
            rollouts = self._rollouts(work, [one.name for one in self.services])
            for rollout in rollouts.values():
                await rollout.router.check()  # before anything is started
            for rollout in rollouts.values():
                await show(rollout.router, work)
            return await self._forward(work, rollouts)

    async def _forward(self, work: Work, rollouts: Mapping[str, Rollout]) -> Deployments:
        lockstep, groups = Lockstep(tuple(rollouts)), {name: one.release.group for name, one in rollouts.items()}
        together = {name: replace(one, member=lockstep.member(name)) for name, one in rollouts.items()}

        async def forward(name: str) -> State:
            try:
                return await together[name].forward(self._strategy)
            except BaseException:
                lockstep.fail(name)  # also where it had not begun: the others would wait for it
                raise

        before, failed = await _each({name: partial(forward, name) for name in together})
        if failed:
            done = {name: partial(rollouts[name].back, self._strategy, one, groups[name]) for name, one in before.items()}
            _, stuck = await _each(done)
            raise _broken(failed, lockstep.failed, stuck)
        begun: dict[str, Begun] = {name: (groups[name], one.groups, one.weights) for name, one in before.items()}
        return await self._deployments(work, rollouts, begun)

    async def undo(self, work: Work, result: Any) -> str | None:
        """All go back whose release is another one since this deployment; all of them, where none is."""
        async with alone(work.state("deploy"), work.say):
            said = await self._go_back(work, Attempt.last(work.events), result, interrupted=work.interrupted)
        text = "; ".join(f"{name}: {one}" for name, one in said.items())
        return Stays(text) if said and all(isinstance(one, Stays) for one in said.values()) else text or None

    async def _go_back(self, work: Work, attempt: Attempt, result: Deployments, *, interrupted: bool) -> dict[str, str]:
        """Take deployments back, or go on where that was begun; what is told of services with nothing to do.

        Before any goes back it is known of all whereto.
        """
        found = result.services
        gone = {name for name, course in attempt.courses.items() if attempt.is_half_undone and course.is_taken_back}
        changed = [name for name, one in found.items() if one.before.get(one.group) != 100] or list(found)
        changed = [name for name in changed if name not in gone]
        rollouts = self._rollouts(work, changed)

        def way(name: str) -> Callable[[], Awaitable[State | str]]:
            course = Course.of(work.events, name)
            return partial(way_back, work, rollouts[name], course, found[name], interrupted=interrupted)

        groups = {name: found[name].group for name in changed}
        ways = await self._all_back(rollouts, {name: way(name) for name in changed}, groups)
        return {name: told(groups[name], to) for name, to in ways.items()}

    async def _all_back(
        self,
        rollouts: Mapping[str, Rollout],
        ways: Mapping[str, Callable[[], Awaitable[State | str]]],
        groups: Mapping[str, str],
    ) -> dict[str, State | str]:
        """Once it is known of all whereto, each goes back from its group, but who is only told of. Raises what keeps one back."""
        found, failed = await _each(ways)
        if failed:
            raise _broken(failed, next(iter(failed)), {})
        goals = {name: to for name, to in found.items() if isinstance(to, State)}
        gone, failed = await _each(
            {name: partial(rollouts[name].back, self._strategy, to, groups[name]) for name, to in goals.items()}
        )
        if failed:  # where others have gone, it is half way
            raise _broken(failed, next(iter(failed)), failed if gone else {})
        return found

    async def recover(self, work: Work) -> Deployments | None:
        """The deployments, when the rollouts of all were complete; else all are taken back here."""
        async with alone(work.state("deploy"), work.say):
            attempt = Attempt.last(work.attempted)
            if attempt.is_complete and attempt.courses.keys() == {one.name for one in self.services}:
                return await self._came_of(work, attempt)
            with needing_people(work):
                if attempt.is_complete:  # of other services than those of now: nobody could verify it
                    await self._take_up(work, attempt)
                else:
                    await self._settle(work, Attempt.last(work.events))  # what the attempt itself was to settle first, too
            return None

    async def _settle(self, work: Work, attempt: Attempt) -> None:
        """Take back what an attempt has begun and not ended, and go a way back to its end that all had begun, or only some."""
        if attempt.is_half_undone:
            await self._go_back(work, attempt, await self._came_of(work, attempt), interrupted=False)
        elif not attempt.has_ended:
            await self._take_up(work, attempt)

    async def _came_of(self, work: Work, attempt: Attempt) -> Deployments:
        """What an attempt led to that was complete, perhaps of other releases than those of now."""
        begun = {name: course.started[-1].data for name, course in attempt.courses.items()}
        from_where = {name: (data["group"], data["groups"], data["weights"]) for name, data in begun.items()}
        return await self._deployments(work, self._rollouts(work, begun), from_where)

    async def _deployments(self, work: Work, rollouts: Mapping[str, Rollout], begun: Mapping[str, Begun]) -> Deployments:
        """What each began from, and to which group it led."""
        images = {name: Release.read(work[self._service(name)].release).image for name in rollouts}
        found = {name: await deployment(one, images[name], *begun[name]) for name, one in rollouts.items()}
        return Deployments(services=found)

    async def _take_up(self, work: Work, attempt: Attempt) -> None:
        """Take back what an attempt has begun, and nothing of those before it. Where one cannot go back, none does."""
        courses = {name: course for name, course in attempt.courses.items() if not course.is_taken_back}
        rollouts = self._rollouts(work, courses)

        # what went forward goes back with the others
        begun = {name: course.cut_off or course.started[-1] for name, course in courses.items()}
        groups = {name: event.data["group"] for name, event in begun.items()}
        await self._all_back(rollouts, {name: partial(rollouts[name].whereto, begun[name]) for name in courses}, groups)

    async def steps(self, work: Work) -> Sequence[str]:
        """Round after round, from what runs now to other releases. Raises StageFailed where none may begin now."""
        check_not_frozen(work)
        planned = {}
        for service in self.services:
            await service.router.open(work, service.ready).check()
            now = await state(service.target.open(work), service.router.open(work, service.ready))
            planned[service.name] = self.strategy.forward(replace(now, wanted=service.instances), "green")
        return [f"{name}: {step}" for name, step in rounds(planned)]

    async def standing(self, work: Work) -> Mapping[str, Sequence[str]]:
        found = {}
        for one in self.services:
            found[one.name] = await standing(one.target.open(work), one.router.open(work, one.ready), one.ready)
        return found

    async def mend(self, work: Work) -> str:
        came = []
        async with alone(work.state("deploy"), work.say):
            for one in self.services:
                said = await started_again(one.target.open(work), one.router.open(work, one.ready))
                came += [f"{one.name}: {said}"] if said else []
        return "; ".join(came)

    async def obey(self, work: Work, order: Order) -> str:
        """Drain a group of one service: it gets no new request, and its share goes to the others that serve."""
        if order.verb != "drain":
            return await super().obey(work, order)
        async with alone(work.state("deploy"), work.say):
            rollouts = self._rollouts(work, [one.name for one in self.services])
            having = {name: now for name, one in rollouts.items() if order.of in (now := await one.state()).groups}
            for name, now in having.items():
                await rollouts[name].quiet.run(without(now, order.of))
        if not having:
            raise StageFailed(f"no service has a group {order.of!r}", next="python -m pipeline deployments")
        return f"{order.of} of {', '.join(having)} gets no new request"

    def _rollouts(self, work: Work, names: Iterable[str]) -> dict[str, Rollout]:
        """Of these services, as each `Service` prepared its release."""
        return {name: self._rollout(work, self._service(name)) for name in names}

    def _service(self, name: str) -> Service:
        for one in self.services:
            if one.name == name:
                return one
        raise StageFailed(
            f"{name} was deployed with these services and is none of them any more: nobody can take it back",
            right="the services of that run, until they are taken back",
        )

    def _rollout(self, work: Work, service: Service) -> Rollout:
        def note(kind: str, **data: object) -> None:
            work.record(kind, service=service.name, **data)

        control = Control(orders=work.orders, say=lambda text: work.say(f"{service.name}: {text}"), longest=self.paused)
        rollout = service.rollout_of(work, Release.read(work[service].release))
        return replace(rollout, note=note, control=control, metrics=tuple(one.open(work) for one in service.metrics))


Begun = tuple[str, Iterable[str], Mapping[str, int]]
"""The group of a rollout, the groups before it, and their shares."""


@dataclass(frozen=True)
class Attempt:
    """The rollouts of one run, by the names of their services."""

    courses: Mapping[str, Course]

    @staticmethod
    def last(events: Callable[[str], list[Event]]) -> Attempt:
        """That of the last run of which there are any, by the events of each kind."""
        started = events("rollout.started")
        of_run = [event for event in started if event.run == started[-1].run]
        since = min((event.seq for event in of_run), default=0)
        names = dict.fromkeys(event.data["service"] for event in of_run)
        return Attempt({name: Course.of(events, name, since=since) for name in names})

    @property
    def has_ended(self) -> bool:
        """Whether each came to an end, all of them forward or all of them back."""
        courses = self.courses.values()
        ended = all(course.cut_off is None for course in courses)
        return ended and (all(one.went_forward for one in courses) or all(one.is_taken_back for one in courses))

    @property
    def is_complete(self) -> bool:
        """Whether each came to its end, and no way back from any has begun."""
        return bool(self.courses) and all(course.is_complete for course in self.courses.values())

    @property
    def is_half_undone(self) -> bool:
        """Whether all came to their end, and after that not all went back that were to."""
        courses = self.courses.values()
        to_go = [course for course in courses if course.is_change] or courses
        return (
            all(course.went_forward for course in courses)
            and any(course.goes_back for course in courses)
            and not all(course.is_taken_back for course in to_go)
        )


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


def _broken(failed: Mapping[str, Exception], first: str, stuck: Mapping[str, Exception]) -> Exception:
    """What is told when one failed first, and others perhaps on their way back, as those that are stuck in any case."""
    others = {name: one for name, one in failed.items() if not isinstance(one, NothingLeft)}
    first = first if first in (others or failed) else next(iter(others or failed))
    error = failed[first]
    halfway = {**{name: one for name, one in failed.items() if isinstance(one, BrokenOff)}, **stuck}
    if halfway:
        all_of_them = {first: error, **halfway}.items()
        what = "; ".join(f"{name}: {one.what if isinstance(one, LockgateError) else one}" for name, one in all_of_them)
        said = {(one.right, one.next) for one in halfway.values() if isinstance(one, LockgateError) and one.next}
        right, then = said.pop() if len(said) == 1 else ("what stands in their way out of it", "python -m pipeline recover")
        return BrokenOff(what, right=right, next=then)
    if not isinstance(error, StageFailed):
        return error
    kind = type(error) if isinstance(error, NothingLeft | NotNow) else StageFailed
    return kind(f"{first}: {error.what}", where=error.where, right=error.right, next=error.next)
