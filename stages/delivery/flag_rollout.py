"""A flag rolled out by itself: the release stays, and a growing share of users gets another variant of one of its flags."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from gates.judge import ErrorRate, Judge, SlowAnswers
from gates.window import Share, Window
from pipeline import Effect, Resources, Result, Stage, StageFailed, Stays, WiringError, Work
from stages.delivery.audience import Chosen
from stages.delivery.control import Control
from stages.delivery.course import Course, recovered
from stages.delivery.deployment import ended, settle
from stages.delivery.freeze import check_not_frozen
from stages.delivery.live_flags import LiveFile, LiveFlags
from stages.delivery.lock import alone
from stages.delivery.metrics import Counted, Metrics, OpensMetrics, need_sources
from stages.delivery.model import Address, Group, Release, Served, State, Variant
from stages.delivery.probe import Ready
from stages.delivery.rollout import Rollout, unchanged
from stages.delivery.router import Watch
from stages.delivery.step import Split, Step, Weigh
from stages.delivery.strategy import Canary


class FlagRolledOut(Result):
    """One finished rollout of a variant, which all users get whom no other rule of the flag concerns."""

    flag: str
    variant: str
    before: dict[str, int]
    """Each variant's share in percent before it."""

    def summary(self) -> str:
        return f"{self.flag} is {self.variant} for everybody, before {self.before.get(self.variant, 0)} %"


class RolloutFlag(Stage[FlagRolledOut]):
    """Gives `variant` of `flag` to a growing share of the users of `deployment`, by the steps and the judge of `strategy`.

    Nothing is deployed. `flags` is the file that the service reads; the flag has shares of two variants there, and who has the
    new one keeps it as its share grows. Users with it are compared with those without: `requests` counts what was asked with
    each, and how much of that failed (`ErrorRate`), `metrics` what else is weighed; `{group}` stands for the variant there.
    When the judge or an operator says no, or a stage below fails, the shares are at once what they were. `paused` is how many
    seconds a pause may last.
    """

    effect: ClassVar[Effect] = Effect.ONCE

    flags: LiveFlags
    deployment: Stage[Served]
    flag: str
    variant: str
    requests: OpensMetrics
    metrics: tuple[OpensMetrics, ...] = ()
    strategy: Canary = field(default_factory=lambda: Canary(judge=Judge(measures=(ErrorRate(),))))
    paused: float = 14_400.0
    resources: Resources = Resources(locks=("deploy",))
    timeout: float = 7 * 86_400.0
    """Seconds; each step of a rollout has limits of its own."""

    def __post_init__(self) -> None:
        need_sources("RolloutFlag", self.strategy.judge, (self.requests, *self.metrics))
        if self.strategy.audience is not None:
            raise WiringError("RolloutFlag: the strategy has an audience", right="a rule for it in the targeting of the flag")
        for measure in self.strategy.judge.measures:
            if isinstance(measure, SlowAnswers):
                raise WiringError(
                    "RolloutFlag: the judge weighs slow answers, and nobody knows how long answers take with a variant",
                    right="Business(of=...) and a source that counts what took too long",
                )

    async def run(self, work: Work) -> FlagRolledOut:
        async with alone(work.state("deploy"), work.say):
            rollout = self._rollout(work)
            await settle(work, rollout, self._steps)
            check_not_frozen(work)
            before = await rollout.forward(self._steps)
        return self._result(before.weights)

    async def undo(self, work: Work, result: Any) -> str | None:
        """The shares of before; nothing when the variant has none any more."""
        async with alone(work.state("deploy"), work.say):
            with unchanged():
                rollout = self._rollout(work)
                now = await rollout.state()
            begun = Course.of(work.events).way_back(result.variant)  # which is gone to its end
            if begun is None and result.before.get(result.variant) == 100:
                return Stays(
                    f"{result.flag} was {result.variant} for everybody before this run too: there is nothing to take back"
                )
            if begun is None and not now.weights.get(result.variant):
                return f"nobody gets {result.variant} of {result.flag} any more: there is nothing to go back from"
            to = recovered(now, begun) if begun is not None else State(groups=now.groups, weights=result.before)
            await rollout.back(self._steps, to, result.variant)
        return None

    async def recover(self, work: Work) -> FlagRolledOut | None:
        """The rollout when it was complete; one that was cut off in the middle is taken back here."""
        async with alone(work.state("deploy"), work.say):
            started = await ended(work, self._rollout(work), self._steps)
        return self._result(started.data["weights"]) if started is not None else None

    async def steps(self, work: Work) -> Sequence[str]:
        check_not_frozen(work)
        live = self.flags.file(work)
        if not live.path.exists():
            return [f"give {self.variant} of {self.flag} to more and more users, once {live.path} is there"]
        variants = Variants(live, self.flag)
        now = State(groups=await variants.groups(), weights=live.shares(self.flag))
        return [str(step) for step in self._steps.forward(now, self.variant)]

    async def standing(self, work: Work) -> Mapping[str, Sequence[str]]:
        live = self.flags.file(work)
        if not live.path.exists():
            return {"": [f"there is no {live.path}"]}
        return {"": [f"{name}: {share} % of the users" for name, share in live.shares(self.flag).items()]}

    @property
    def _steps(self) -> Shares:
        return Shares(self.strategy)

    def _result(self, before: Mapping[str, int]) -> FlagRolledOut:
        return FlagRolledOut(flag=self.flag, variant=self.variant, before=dict(before))

    def _rollout(self, work: Work) -> Rollout:
        live = self.flags.file(work)
        if self.variant not in (known := live.shares(self.flag)):
            raise StageFailed(f"{self.flag} has no share of {self.variant}", right=f"one of: {', '.join(known)}")
        return Rollout(
            Variants(live, self.flag),
            FlagFile(live, self.flag, work[self.deployment].address, self.requests.open(work)),
            Variant(group=self.variant),
            work.record,
            Control(orders=work.orders, say=work.say, longest=self.paused),
            tuple(one.open(work) for one in self.metrics),
        )


@dataclass(frozen=True)
class Shares:
    """The steps of a canary that are about shares: a variant is started, drained and ended nowhere.

    Shares that the variant has already are left out, so that nobody who has it loses it on the way forward.
    """

    canary: Canary

    def forward(self, now: State, green: str) -> tuple[Step, ...]:
        further = tuple(share for share in self.canary.shares if share > now.weights.get(green, 0))
        return _of_shares(replace(self.canary, shares=further or (100,)).forward(now, green))

    def back(self, before: State, green: str) -> tuple[Step, ...]:
        return _of_shares(self.canary.back(before, green))


def _of_shares(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    return tuple(step for step in steps if isinstance(step, Split | Weigh))


@dataclass(frozen=True)
class FlagFile:
    """The router of a flag's variants: who gets which is said by the file that the service reads."""

    live: LiveFile
    flag: str
    address: Address
    """Where users find the service."""
    requests: Metrics
    """What was asked with each variant, and how much of it failed."""

    async def check(self) -> str:
        shares = ", ".join(f"{share} % {name}" for name, share in self.live.shares(self.flag).items())
        return f"{self.flag} is {shares}, by {self.live.path}"

    async def split(self, weights: Mapping[str, int], groups: Mapping[str, Group], chosen: Chosen | None = None) -> None:
        if chosen is not None:
            raise StageFailed(f"{self.flag} has no shares of {chosen.audience}", right="a rule in the targeting of the flag")
        if self.live.shares(self.flag) != {name: weights.get(name, 0) for name in groups}:
            await self.live.give(self.flag, weights)

    async def current(self) -> dict[str, int]:
        return self.live.shares(self.flag)

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[Watch]:
        variants = tuple(self.live.shares(self.flag))
        async with self.requests.watch(*((name,) for name in variants)) as counted:
            yield CountedVariants(variants, counted)

    async def in_flight(self, group: str, at: Collection[Address] = ()) -> int:
        return 0

    async def forget(self, group: str) -> None:
        """Nobody keeps anything of a variant."""

    async def stop(self) -> None:
        """A file does not run."""


@dataclass(frozen=True)
class CountedVariants:
    """What a source says of each variant, as a router says it of groups."""

    variants: tuple[str, ...]
    counted: Counted

    def windows(self, *sides: Collection[str]) -> list[Window | None]:
        shares = dict(zip(self.variants, self.counted.shares(), strict=True))
        return [added([shares[name] for name in side]) for side in sides]


def added(shares: Sequence[Share | None]) -> Window | None:
    """What several variants did together; None where it is not known of one of them. Pure."""
    known = [one for one in shares if one is not None]
    if len(known) < len(shares):
        return None
    return Window(requests=sum(one.of for one in known), errors=sum(one.part for one in known))


@dataclass(frozen=True)
class Variants:
    """The target of a flag's variants, which are there as long as the flag is: none is started for a rollout, and none ends."""

    live: LiveFile
    flag: str
    zones: tuple[str, ...] = ()

    async def groups(self) -> dict[str, Group]:
        return {name: Group(name, ()) for name in self.live.shares(self.flag)}

    async def retain(self, group: str) -> None:
        """Nothing ends."""

    async def resting(self) -> frozenset[str]:
        return frozenset()

    async def readiness(self, group: str) -> Ready | None:
        return None

    async def unlimited(self, release: Release) -> Mapping[str, str]:
        return {}

    async def unready(self, group: str, ready: Ready) -> str | None:
        return None

    async def unable(self, group: str, ready: Ready) -> str | None:
        return None

    async def ended(self, release: Release, wanted: int | None = None) -> str | None:
        return None

    async def start(self, release: Release, counts: Mapping[str, int] | None = None) -> Group:
        raise self._no_instances()

    async def again(self, group: str) -> Group:
        raise self._no_instances()

    async def rest(self, group: str) -> None:
        raise self._no_instances()

    async def retire(self, group: str, instances: Collection[Address]) -> None:
        raise self._no_instances()

    async def stop(self, group: str) -> None:
        raise self._no_instances()

    async def run_once(self, release: Release, command: tuple[str, ...]) -> tuple[int, str]:
        raise self._no_instances()

    def _no_instances(self) -> StageFailed:
        return StageFailed(f"variants of {self.flag} have no instances", right="steps that are about shares")
