"""Deploy: a release that passed its gate is rolled out by a strategy, and goes back when anything below it fails."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Protocol

from gates import Passed
from pipeline import CommandFailed, Effect, Resources, Result, Stage, StageFailed, WiringError, Work
from stages.delivery.lock import alone
from stages.delivery.model import Binding, Deployment, Release, State
from stages.delivery.rollout import Rollout, unfinished
from stages.delivery.router import Router
from stages.delivery.seal import seal
from stages.delivery.shadow import Shadow
from stages.delivery.strategy import BlueGreen, Strategy
from stages.delivery.target import Target
from stages.gated import need_gate
from stages.image import Image


class Opens(Protocol):
    """Configuration of a target, opened when a stage runs."""

    def open(self, work: Work) -> Target: ...


class OpensRouter(Protocol):
    """Configuration of a router, opened when a stage runs; `ready` is the path by which it sees who can serve."""

    def open(self, work: Work, ready: str) -> Router: ...


class Deploy(Stage[Deployment]):
    """Rolls `release` out onto `target` behind `router`, by `strategy`.

    `env` and the `bindings` are the release's configuration; both are part of its name, so that code never
    goes back without its configuration. `secrets` are environment variables of the run handed to the
    instances; another value of one makes another release. When a stage below this one fails, the rollout goes
    back; an image that passed no gate does not type-check. Fails when the new instances do not become ready;
    then nothing was switched.
    """

    effect: ClassVar[Effect] = Effect.ONCE
    resources: Resources = Resources(locks=("deploy",))

    release: Stage[Passed[Image]]
    target: Opens
    router: OpensRouter
    strategy: Strategy = BlueGreen()
    env: tuple[tuple[str, str], ...] = ()
    bindings: tuple[Stage[Binding], ...] = ()
    secrets: tuple[str, ...] = ()
    instances: int = 1
    ready: str = "/readyz"

    def __post_init__(self) -> None:
        need_gate(self, "release", self.release)
        if isinstance(self.strategy, Shadow) and self.strategy.router != self.router:
            raise WiringError(
                "Deploy: the strategy sends copies of requests by another router than the one that users come to",
                right="Deploy(router=router, strategy=Shadow(router=router))",
            )

    async def run(self, work: Work) -> Deployment:
        async with alone(work.state("deploy"), work.say):
            if unfinished(started := work.events("rollout.started"), finished := work.events("rollout.finished")):
                await self._rollout(work).take_up(self.strategy, started, finished)  # people said to go on
            values = {name: work.project.secret(name) for name in self.secrets}
            rollout = self._rollout(work, seal(values, work.state("deploy") / ".key"))
            before = await rollout.forward(self.strategy)
            return await _deployment(rollout, rollout.release.group, before.groups, before.weights)

    async def undo(self, work: Work, result: Any) -> str | None:
        """Back to what served before, kept warm for this; nothing when another rollout has replaced it meanwhile."""
        async with alone(work.state("deploy"), work.say):
            rollout = self._rollout(work)
            if not (await rollout.router.current()).get(result.group):
                return f"{result.group} does not serve any more: there is nothing to go back from"
            now = await rollout.state()
            groups = {name: group for name, group in now.groups.items() if name != result.group or not result.started}
            weights = result.before
            if weights.get(result.group):  # it served before this rollout too
                if work.interrupted:
                    return f"{result.group} served before this run too, and nothing was found wrong with it: it stays"
                weights = await self._warm(rollout, result)
            await rollout.back(self.strategy, State(groups=groups, weights=weights), result.group)
        return None

    async def recover(self, work: Work) -> Deployment | None:
        """The deployment, when its rollout was complete; one that was cut off in the middle is taken back here."""
        async with alone(work.state("deploy"), work.say):
            rollout = self._rollout(work)
            intended = max((event.seq for event in work.events("effect.intended")), default=0)
            started = [event for event in work.events("rollout.started") if event.seq > intended]
            finished = [event for event in work.events("rollout.finished") if event.seq > intended]
            if started and not unfinished(started, finished) and not finished[-1].data.get("back"):
                data = started[-1].data  # this stage may be configured for another release by now
                return await _deployment(rollout, data["group"], data["groups"], data["weights"])
            await rollout.take_up(self.strategy, started, finished)
            return None

    async def _warm(self, rollout: Rollout, result: Deployment) -> dict[str, int]:
        """All traffic to the group kept warm. Raises StageFailed when there is none that can serve."""
        reason = await rollout.target.unready(result.previous, self.ready) if result.previous else "there is none"
        if reason is not None:
            raise StageFailed(
                f"{result.group} goes on serving, as before this run; it has no release to go back to: {reason}",
                right="a release kept warm from an earlier deployment",
            )
        return {result.previous: 100}

    def _rollout(self, work: Work, seal: str = "") -> Rollout:
        """Only the way forward has a seal: the way back knows its groups by name, and must not need a secret."""
        return Rollout(self.target.open(work), self.router.open(work, self.ready), self._release(work, seal), work.record)

    def _release(self, work: Work, seal: str) -> Release:
        bound = {work[binding].variable: work[binding].value for binding in self.bindings}
        return Release(
            image=work[self.release].artifact,
            env={**dict(self.env), **bound},
            secrets=self.secrets,
            seal=seal,
            instances=self.instances,
            ready=self.ready,
        )


async def _deployment(rollout: Rollout, group: str, groups: Iterable[str], weights: Mapping[str, int]) -> Deployment:
    """A complete rollout of `group`; `groups` ran before it, and traffic went by `weights`."""
    warm = [name for name in (*State(weights=weights).serving, *(await rollout.state()).groups) if name != group]
    return Deployment(
        address=rollout.router.address,
        image=rollout.release.image.digest,
        group=group,
        previous=warm[0] if warm else "",
        before=dict(weights),
        started=group not in groups,
    )


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

    async def run(self, work: Work) -> Ran:
        bound = {work[binding].variable: work[binding].value for binding in self.bindings}
        release = Release(image=work[self.release].artifact, env={**dict(self.env), **bound}, secrets=self.secrets)
        async with alone(work.state("deploy"), work.say):
            code, output = await self.target.open(work).run_once(release, self.command)
        work.say(output)
        if code != 0:
            raise CommandFailed(self.command, code, output)
        return Ran(command=self.command, output=output[-4000:])
