"""The steps a rollout is made of."""

from __future__ import annotations

from dataclasses import dataclass

from gates.judge import Judge
from stages.delivery.audience import Chosen
from stages.delivery.visitors import Visitors


@dataclass(frozen=True)
class Start:
    """Start the instances of a group, so many in each zone or all; those that run already are left alone."""

    group: str
    counts: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        return f"start {self.group}{f', up to {said(self.counts)}' if self.counts else ''}"


@dataclass(frozen=True)
class WaitReady:
    """Wait until every instance of a group answers its readiness check."""

    group: str
    within: float
    counts: tuple[tuple[str, int], ...] = ()
    pauses: bool = False
    """Whether the rollout stays where it is when the group is not ready in time, for people to decide."""
    some: bool = False
    """Whether it goes on without those that are not ready in time, where others are."""

    def __str__(self) -> str:
        return f"wait until {self.group} is ready, at most {self.within:g} s"


@dataclass(frozen=True)
class Split:
    """Give each group its share of the traffic, in percent; groups that are not named get none.

    With an audience, `chosen` has the shares of it, and `weights` those of everybody else.
    """

    weights: tuple[tuple[str, int], ...]
    chosen: Chosen | None = None

    @property
    def judged(self) -> dict[str, int]:
        """The shares of those whose requests are compared."""
        return dict(self.chosen.weights if self.chosen else self.weights)

    def __str__(self) -> str:
        shares = ", ".join(f"{share} % to {group}" for group, share in self.weights) or "none to anybody"
        return f"send {self.chosen}; of everybody else {shares}" if self.chosen else f"send {shares}"


@dataclass(frozen=True)
class Drain:
    """Wait until a group that gets no new requests has answered the ones it has."""

    group: str
    within: float

    def __str__(self) -> str:
        return f"drain {self.group}, at most {self.within:g} s"


@dataclass(frozen=True)
class Stop:
    """Stop the instances of a group and remove what they leave."""

    group: str

    def __str__(self) -> str:
        return f"stop {self.group}"


@dataclass(frozen=True)
class Retire:
    """Take some instances of a group out of the traffic, so many in each zone, drain and end them; the rest has its share."""

    group: str
    counts: tuple[tuple[str, int], ...]
    weights: tuple[tuple[str, int], ...]
    within: float

    def __str__(self) -> str:
        return f"retire {said(self.counts)} of {self.group}, drained for at most {self.within:g} s, and {Split(self.weights)}"


@dataclass(frozen=True)
class Rest:
    """End the instances of a group, and keep what is needed to start them again."""

    group: str

    def __str__(self) -> str:
        return f"let {self.group} rest"


@dataclass(frozen=True)
class Again:
    """Start the instances of a group that rests; those that run already are left alone."""

    group: str

    def __str__(self) -> str:
        return f"start {self.group} again"


@dataclass(frozen=True)
class Weigh:
    """Compare what a group does with what others do beside it, each `tick` of seconds, until the judge decides."""

    group: str
    against: tuple[str, ...]
    judge: Judge
    tick: float = 1.0
    visitors: Visitors | None = None

    def __str__(self) -> str:
        return f"weigh {self.group} against {', '.join(self.against)}, at most {self.judge.at_most:g} s"


def said(counts: tuple[tuple[str, int], ...]) -> str:
    """So many instances, in each zone that has a name."""
    return ", ".join(f"{count}{f' in {zone}' if zone else ''}" for zone, count in counts if count)


@dataclass(frozen=True)
class Compare:
    """Send a group copies of requests, and compare its answers until the judge decides.

    `share` is percent of the requests that change nothing, `ignored` are places of answers that may differ.
    """

    group: str
    against: tuple[str, ...]
    share: int
    judge: Judge
    ignored: tuple[str, ...] = ()
    tick: float = 1.0
    visitors: Visitors | None = None

    def __str__(self) -> str:
        return (
            f"compare {self.group} with {', '.join(self.against)} by copies of {self.share} % of the requests, "
            f"at most {self.judge.at_most:g} s"
        )


Step = Start | WaitReady | Split | Drain | Stop | Retire | Rest | Again | Weigh | Compare
