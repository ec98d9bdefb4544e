"""Deploy: a release that passed its gate is rolled out by a strategy, and goes back when anything below it fails."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from gates import Passed
from pipeline import Effect, Resources, Result, Stage, StageFailed, Work
from stages.delivery.model import Binding, Deployment, Release, State
from stages.delivery.rollout import Rollout
from stages.delivery.router import Router
from stages.delivery.strategy import BlueGreen, Strategy
from stages.delivery.target import Target
from stages.image import Image


class Opens(Protocol):
    """Configuration of a target, opened when a stage runs."""

    def open(self, work: Work) -> Target: ...


class OpensRouter(Protocol):
    """Configuration of a router, opened when a stage runs."""

    def open(self, work: Work) -> Router: ...


class Deploy(Stage[Deployment]):
    """Rolls `release` out onto `target` behind `router`, by `strategy`.

    `env` and the `bindings` are the release's configuration; both are part of its name, so that code never
    goes back without its configuration. `secrets` are environment variables of the run handed to the
    instances. When a stage below this one fails, the rollout goes back; an image that passed no gate does
    not type-check. Fails when the new instances do not become ready; then nothing was switched.
    """

    effect: ClassVar[Effect] = Effect.ONCE
    resources: Resources = Resources(locks=("deploy",))

    release: Stage[Passed[Image]]
    target: Opens
    router: OpensRouter
    strategy: Strategy = BlueGreen()
    env: tuple[tuple[str, str], ...] = ()
    bindings: tuple[Stage[Binding], ...] = ()
    after: tuple[Stage[Any], ...] = ()
    """Stages that must have passed first, as a database migration."""
    secrets: tuple[str, ...] = ()
    instances: int = 1
    ready: str = "/readyz"

    async def run(self, work: Work) -> Deployment:
        release = self._release(work)
        rollout = Rollout(self.target.open(work), self.router.open(work), release, work.record)
        before = await rollout.forward(self.strategy)
        warm = [group for group in (await rollout.state()).groups if group != release.group]
        return Deployment(
            address=rollout.router.address,
            image=release.image.digest,
            group=release.group,
            previous=warm[0] if warm else "",
            before=dict(before.weights),
            started=release.group not in before.groups,
        )

    async def undo(self, work: Work, result: Any) -> None:
        """Back to what served before, kept warm for this."""
        rollout = Rollout(self.target.open(work), self.router.open(work), self._release(work), work.record)
        now = await rollout.state()
        groups = {name: group for name, group in now.groups.items() if name != result.group or not result.started}
        await rollout.back(self.strategy, State(groups=groups, weights=result.before))

    def _release(self, work: Work) -> Release:
        bound = {work[binding].variable: work[binding].value for binding in self.bindings}
        return Release(
            image=work[self.release].artifact,
            env={**dict(self.env), **bound},
            secrets=self.secrets,
            instances=self.instances,
            ready=self.ready,
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

    async def run(self, work: Work) -> Ran:
        bound = {work[binding].variable: work[binding].value for binding in self.bindings}
        release = Release(image=work[self.release].artifact, env={**dict(self.env), **bound}, secrets=self.secrets)
        code, output = await self.target.open(work).run_once(release, self.command)
        work.say(output)
        if code != 0:
            last = output.strip().splitlines()[-1] if output.strip() else "it printed nothing"
            raise StageFailed(f"`{' '.join(self.command)}` ended with exit code {code}: {last}", right="exit code 0")
        return Ran(command=self.command, output=output[-4000:])
