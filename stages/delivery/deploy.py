"""Deploy: a release that passed its gate is rolled out by a strategy, and goes back when anything below it fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

import anyio

from gates import Passed
from pipeline import CommandFailed, Effect, Resources, Result, Stage, StageFailed, WiringError, Work
from stages.delivery.certificate import show
from stages.delivery.control import Control
from stages.delivery.course import Course
from stages.delivery.deployment import deployment, ended, settle, standing, started_again, told, way_back
from stages.delivery.files import ReleaseFile
from stages.delivery.freeze import check_not_frozen
from stages.delivery.limits import UNLIMITED, Limits
from stages.delivery.lock import alone
from stages.delivery.metrics import OpensMetrics, need_sources
from stages.delivery.model import Binding, Deployment, Previewed, Release, Restart, State
from stages.delivery.probe import Probe, Ready, probe
from stages.delivery.rollout import Rollout, state, unchanged
from stages.delivery.router import Router
from stages.delivery.seal import seal
from stages.delivery.shadow import Shadow
from stages.delivery.step import Start, Stop, WaitReady
from stages.delivery.strategy import BlueGreen, Strategy, judge_of, without
from stages.delivery.target import Target
from stages.gated import need_gate
from stages.image import Image

if TYPE_CHECKING:
    from pipeline.order import Order


D_co = TypeVar("D_co", bound=Result, covariant=True)


class Opens(Protocol):
    """Configuration of a target, opened when a stage runs."""

    def open(self, work: Work) -> Target: ...


class OpensRouter(Protocol):
    """Configuration of a router, opened when a stage runs; `ready` is how instances say that they can serve."""

    def open(self, work: Work, ready: Ready) -> Router: ...


class Releases(Stage[D_co], Generic[D_co]):
    """What brings instances of `release` onto `target`, behind `router`.

    `env`, the `bindings` and the `files` are the release's configuration; all are part of its name, so that code never
    goes back without its configuration. `secrets` are environment variables of the run handed to the
    instances; another value of one makes another release. An image that passed no gate does not type-check.
    """

    effect: ClassVar[Effect] = Effect.ONCE

    release: Stage[Passed[Image]]
    target: Opens
    router: OpensRouter
    env: tuple[tuple[str, str], ...] = ()
    bindings: tuple[Stage[Binding], ...] = ()
    secrets: tuple[str, ...] = ()
    files: tuple[Stage[ReleaseFile], ...] = ()
    instances: int = 1
    ready: Ready = "/readyz"
    """How an instance says that it can serve: a path that answers 200, or a probe."""
    startup: Probe | None = None
    """Until it is well by this one, `liveness` does not count."""
    liveness: Probe | None = None
    """By what an instance is started again that runs and does nothing any more."""
    restart: Restart = "no"
    """When an instance that ended is started again, after the rollout too."""
    limits: Limits = UNLIMITED
    """What each instance may use; what the target cannot hold it to is noted (`rollout.unlimited`)."""

    def __post_init__(self) -> None:
        need_gate(self, "release", self.release)
        probe(self.ready)  # a text is a path
        if self.restart == "no" and (self.startup or self.liveness):
            raise WiringError(
                f"{type(self).__name__}: startup and liveness are asked so that an instance is started again, and restart='no'",
                right="restart='always' or restart='on-failure' with them",
            )

    def release_of(self, work: Work) -> Release:
        """The release, with the seal of its secrets."""
        values = {name: work.project.secret(name) for name in self.secrets}
        return self.release_sealed(work, seal(values, work.state("deploy") / ".key"))

    def release_sealed(self, work: Work, seal: str) -> Release:
        """The release as a seal names it; without one, as for a way back, which knows its groups by name and needs no secret."""
        bound = {work[binding].variable: work[binding].value for binding in self.bindings}
        return Release(
            image=work[self.release].artifact,
            env={**dict(self.env), **bound},
            secrets=self.secrets,
            seal=seal,
            instances=self.instances,
            files=tuple(work[one] for one in self.files),
            ready=self.ready,
            startup=self.startup,
            liveness=self.liveness,
            restart=self.restart,
            limits=self.limits,
        )

    def rollout_of(self, work: Work, release: Release | None = None) -> Rollout:
        """Only the way forward needs the release with its secrets."""
        target, router = self.target.open(work), self.router.open(work, self.ready)
        return Rollout(target, router, release or self.release_sealed(work, ""), work.record, Control(say=work.say))


class Preview(Releases[Previewed]):
    """Starts the release beside what serves, and gives it no user: checks may ask it by the result's address.

    What they find is for a `QualityGate(artifact=preview, ...)`, which `Deploy(preview=...)` takes. It is ended again when the
    deployment below does not stand. Fails when an instance is not ready within `within` seconds.
    """

    within: float = 60.0

    async def run(self, work: Work) -> Previewed:
        release = self.release_of(work)
        async with alone(work.state("deploy"), work.say):
            check_not_frozen(work)
            rollout = self.rollout_of(work, release)
            started = release.group not in (await rollout.state()).groups
            work.record("preview.started", group=release.group, started=started)
            try:
                await rollout.run((Start(release.group), WaitReady(release.group, self.within)))
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await self._end(rollout, release.group, started=started)
                raise
            first = (await rollout.target.groups())[release.group].instances[0]
        return Previewed(address=first, group=release.group, started=started)

    async def undo(self, work: Work, result: Any) -> str | None:
        async with alone(work.state("deploy"), work.say):
            return await self._end(self.rollout_of(work), result.group, started=result.started)

    async def recover(self, work: Work) -> Previewed | None:
        """None once it is ended: who previews a release does it anew."""
        begun = work.attempted("preview.started")
        if begun:
            async with alone(work.state("deploy"), work.say):
                await self._end(self.rollout_of(work), begun[-1].data["group"], started=begun[-1].data["started"])
        return None

    async def _end(self, rollout: Rollout, group: str, *, started: bool) -> str | None:
        """End what this started, unless users have come to it meanwhile; what is told of it."""
        if not started:
            return f"{group} ran before, and stays"
        with unchanged():
            quiet, shares = rollout.quiet, await rollout.router.current()
        if shares.get(group):
            return f"{group} serves users by now, and stays"
        await quiet.run((Stop(group),))
        return None


class Deploy(Releases[Deployment]):
    """Rolls `release` out onto `target` behind `router`, by `strategy`.

    When a stage below this one fails, the rollout goes back. `preview` is the same release, checked without users. `paused` is
    how many seconds a pause may last. Fails when the new instances do not become ready; then nothing was switched.
    """

    resources: Resources = Resources(locks=("deploy",))
    timeout: float = 7 * 86_400.0
    """Seconds; each step of a rollout has limits of its own."""

    strategy: Strategy = BlueGreen()
    preview: Stage[Passed[Previewed]] | None = None
    paused: float = 14_400.0
    metrics: tuple[OpensMetrics, ...] = ()
    """What a canary's judge is told besides what the router counts: `Business(of=...)` weighs a source by its name."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.preview is not None:
            need_gate(self, "preview", self.preview)
        follows = self.strategy.then if isinstance(self.strategy, Shadow) else self.strategy
        need_sources("Deploy", judge_of(follows), self.metrics)
        if isinstance(self.strategy, Shadow) and self.strategy.router != self.router:
            raise WiringError(
                "Deploy: the strategy sends copies of requests by another router than the one that users come to",
                right="Deploy(router=router, strategy=Shadow(router=router))",
            )

    async def run(self, work: Work) -> Deployment:
        async with alone(work.state("deploy"), work.say):
            await settle(work, self.rollout_of(work), self.strategy)
            check_not_frozen(work)
            release = self.release_of(work)
            self._check_preview(work, release)
            rollout = self.rollout_of(work, release)
            await rollout.router.check()  # before anything is started
            await show(rollout.router, work)
            before = await rollout.forward(self.strategy)
            return await deployment(rollout, release.image, release.group, before.groups, before.weights)

    async def undo(self, work: Work, result: Any) -> str | None:
        """Back to what served before, kept warm for this; nothing when another rollout has replaced it meanwhile."""
        async with alone(work.state("deploy"), work.say):
            rollout, course = self.rollout_of(work), Course.of(work.events)
            to = await way_back(work, rollout, course, result, interrupted=work.interrupted)
            if isinstance(to, State):
                await rollout.back(self.strategy, to, result.group)
        return told(result.group, to)

    async def recover(self, work: Work) -> Deployment | None:
        """The deployment, when its rollout was complete; one that was cut off in the middle is taken back here."""
        async with alone(work.state("deploy"), work.say):
            rollout = self.rollout_of(work)
            if (begun := await ended(work, rollout, self.strategy)) is None:
                return None
            data = begun.data  # this stage may be configured for another release by now
            return await deployment(rollout, work[self.release].artifact, data["group"], data["groups"], data["weights"])

    async def steps(self, work: Work) -> Sequence[str]:
        """From what runs now to another release, whatever it is called. Raises StageFailed where none may begin now."""
        check_not_frozen(work)
        await self.router.open(work, self.ready).check()
        now = replace(await state(self.target.open(work), self.router.open(work, self.ready)), wanted=self.instances)
        return [str(step) for step in self.strategy.forward(now, "green")]

    async def standing(self, work: Work) -> Mapping[str, Sequence[str]]:
        return {"": await standing(self.target.open(work), self.router.open(work, self.ready), self.ready)}

    async def mend(self, work: Work) -> str:
        async with alone(work.state("deploy"), work.say):
            return await started_again(self.target.open(work), self.router.open(work, self.ready))

    async def obey(self, work: Work, order: Order) -> str:
        """Drain a group: it gets no new request, and its share goes to the others that serve."""
        if order.verb != "drain":
            return await super().obey(work, order)
        async with alone(work.state("deploy"), work.say):
            rollout = self.rollout_of(work).quiet
            now = await rollout.state()
            await rollout.run(without(now, order.of))
            left = await rollout.router.in_flight(order.of)
        return f"{order.of} gets no new request" + (f"; {left} are still in flight" if left else ", and has none in flight")

    def _check_preview(self, work: Work, release: Release) -> None:
        """Raise StageFailed where something else was looked at than what is about to serve."""
        if self.preview is not None and (seen := work[self.preview].artifact.group) != release.group:
            raise StageFailed(
                f"{seen} was previewed, and {release.group} is about to be deployed",
                right="a Preview with the same env, bindings, secrets, files, instances and ready as its Deploy",
            )

    def rollout_of(self, work: Work, release: Release | None = None) -> Rollout:
        """With the orders of operators, and what the judge is told."""
        control = Control(orders=work.orders, say=work.say, longest=self.paused)
        metrics = tuple(one.open(work) for one in self.metrics)
        return replace(super().rollout_of(work, release), control=control, metrics=metrics)


class Ran(Result):
    """A command of a release that ran to its end."""

    command: tuple[str, ...]
    output: str

    def summary(self) -> str:
        lines = self.output.strip().splitlines()
        return lines[-1][:120] if lines else "it printed nothing"


class RunOnce(Stage[Ran]):
    """Runs one command of the release's image where the release will run: a migration, a warm-up.

    The command must be safe to repeat. Fails when it ends with anything but 0.
    """

    effect: ClassVar[Effect] = Effect.RETRYABLE

    release: Stage[Passed[Image]]
    target: Opens
    command: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    bindings: tuple[Stage[Binding], ...] = ()
    secrets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        need_gate(self, "release", self.release)

    async def check(self, work: Work, target: Target) -> None:
        """Raise StageFailed where the command must not run now; no rollout begins meanwhile."""

    def environment(self, work: Work) -> dict[str, str]:
        """What the command finds, besides secrets."""
        return {**dict(self.env), **{work[binding].variable: work[binding].value for binding in self.bindings}}

    async def run(self, work: Work) -> Ran:
        release = Release(image=work[self.release].artifact, env=self.environment(work), secrets=self.secrets)
        async with alone(work.state("deploy"), work.say):
            check_not_frozen(work)
            target = self.target.open(work)
            await self.check(work, target)
            code, output = await target.run_once(release, self.command)
        work.say(output)
        if code != 0:
            raise CommandFailed(self.command, code, output)
        return Ran(command=self.command, output=output[-4000:])
