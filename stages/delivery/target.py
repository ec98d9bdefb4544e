"""The seam to where releases run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from stages.delivery.acts import Acts
from stages.delivery.model import Address, Group, Release
from stages.delivery.probe import Ready


class Target(Protocol):
    """Runs groups of instances. Every method may be repeated without harm."""

    @property
    def zones(self) -> tuple[str, ...]:
        """Its parts, where it has any: another one is not struck by what strikes one."""
        ...

    async def start(self, release: Release, counts: Mapping[str, int] | None = None) -> Group:
        """Run the release's instances, or so many of them in each zone; returns once they are started, which is not yet ready."""
        ...

    async def retire(self, group: str, instances: Collection[Address]) -> None:
        """End some instances of a group."""
        ...

    async def unready(self, group: str, ready: Ready) -> str | None:
        """Why the group cannot serve yet, or None when every instance is well by `ready`."""
        ...

    async def unable(self, group: str, ready: Ready) -> str | None:
        """Why no instance of the group can serve, or None where one is well by `ready`."""
        ...

    async def readiness(self, group: str) -> Ready | None:
        """How the group says that it can serve; None where that is not known."""
        ...

    async def ended(self, release: Release, wanted: int | None = None) -> str | None:
        """The last words of instances of the release that ended on their own, or None when all run, or as many as wanted."""
        ...

    async def rest(self, group: str) -> None:
        """End the group's instances and keep what is needed to start them again, until it is stopped."""
        ...

    async def retain(self, group: str) -> None:
        """Keep what is needed to start a group again that runs: it rests when its instances have ended by themselves."""
        ...

    async def resting(self) -> frozenset[str]:
        """The groups that do not run and can be started again."""
        ...

    async def again(self, group: str) -> Group:
        """Start the instances of a group that rests, as they were. Raises StageFailed when nothing is known of it."""
        ...

    async def stop(self, group: str) -> None:
        """End the group's instances and remove what they leave; nothing when there is no such group."""
        ...

    async def groups(self) -> dict[str, Group]:
        """The groups that run now, as the system tells, not as anybody remembers."""
        ...

    async def unlimited(self, release: Release) -> Mapping[str, str]:
        """Which of the release's limits nobody here holds its instances to, or not as they are meant, and why."""
        ...

    async def run_once(self, release: Release, command: tuple[str, ...]) -> tuple[int, str]:
        """Run one command of the release's image to its end; exit code and output."""
        ...


@runtime_checkable
class Supervised(Protocol):
    """A target where somebody looks after instances, and writes down what was done."""

    def acts(self, group: str) -> Acts:
        """What was done to the instances of a group since it was first started."""
        ...


@runtime_checkable
class Autoscaled(Protocol):
    """A target where somebody else changes how many instances a group has, by what they have to do."""

    async def hold(self, least: Mapping[str, int]) -> None:
        """From now on no group is scaled below so many instances, whatever its share of the traffic; groups not named are free.

        What was held before is not any more, so that it may be said again after a crash.
        """
        ...


class Logs(Protocol):
    """A target that keeps what instances say in files."""

    def logs(self, group: str) -> Collection[Path]:
        """The files of a group, one for each instance that ever began; none where there is no such group."""
        ...
