"""What targets have in common whose instances somebody else keeps going: a daemon, or the systemd of another machine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from pipeline import StageFailed, Store
from pipeline.masking import Masker
from stages.delivery import process
from stages.delivery.acts import Acts
from stages.delivery.kept import Kept
from stages.delivery.model import Address, Group, Release
from stages.delivery.probe import Ready
from stages.delivery.wanted import Wanted

RECORDS = {"Docker": "docker.json", "systemd": "systemd.json"}
"""The files in which targets write down who has their instances."""


PLAIN = "processes"
"""What has instances that are plain processes of this machine, which nobody writes down: the system tells them."""


def need_free(state: Path, kind: str, elsewhere: str = "") -> None:
    """Raises StageFailed where instances of this name are with somebody else than `kind`, whom nobody would ask any more."""
    others = [f"with {name}" for name, file in RECORDS.items() if name != kind and (state / file).exists()]
    if kind != PLAIN and any(process.running(f"{state}:")):
        others.append("processes of this machine")
    if others or elsewhere:
        raise StageFailed(
            f"instances of {state.name} are {elsewhere or others[0]} by now, and would be left there",
            where=str(state),
            right="another name for another place, or none there",
            next="python -m stages.delivery.down DIRECTORY, which ends what runs there, and run again",
        )


class Zoned(Protocol):
    """The settings of a target."""

    @property
    def zones(self) -> tuple[str, ...]: ...


C = TypeVar("C", bound=Zoned)


@dataclass(frozen=True, kw_only=True)
class HostedTarget(ABC, Generic[C]):
    """Below `state`: a directory for each group with its release. The rest is somebody else's to tell."""

    state: Path
    store: Store
    secret: Callable[[str], str]
    config: C

    @property
    def zones(self) -> tuple[str, ...]:
        return self.config.zones

    @property
    def _kept(self) -> Kept:
        return Kept(self.state)

    @abstractmethod
    async def start(self, release: Release) -> Group:
        """As `Target.start`."""
        ...

    @abstractmethod
    async def groups(self) -> dict[str, Group]:
        """As `Target.groups`."""
        ...

    @abstractmethod
    async def _end(self, group: str, ports: Collection[int] | None = None) -> None:
        """End these instances of a group, or all, and remove them."""
        ...

    async def readiness(self, group: str) -> Ready | None:
        return self._kept.readiness(group)

    async def retire(self, group: str, instances: Collection[Address]) -> None:
        await self._forgotten(group, {one.port for one in instances})
        self._kept.announce(await self.groups())

    async def rest(self, group: str) -> None:
        if not self._kept.file(group).exists():
            raise StageFailed(f"nothing is known by which {group} could be started again", where=str(self._kept.file(group)))
        self._kept.let_rest(group)  # first: what has ended otherwise is removed
        await self._forgotten(group)
        self._kept.announce(await self.groups())

    async def retain(self, group: str) -> None:
        if self._kept.file(group).exists():
            self._kept.let_rest(group)

    async def resting(self) -> frozenset[str]:
        return self._kept.resting(await self.groups())

    async def again(self, group: str) -> Group:
        return await self.start(self._kept.startable(group))

    def acts(self, group: str) -> Acts:
        return self._kept.acts(group)

    def wanted(self, group: str) -> Wanted:
        """The instances that a supervisor looks after."""
        return self._kept.wanted(group)

    @abstractmethod
    async def _up(self, group: str) -> dict[int, str]:
        """Port and zone of each instance of a group that runs, or is about to."""
        ...

    async def _started(self, release: Release) -> Group:
        """The group, once its instances were started. Where it is to be asked whether they live, somebody does by then."""
        if release.liveness is not None or release.startup is not None:
            await self._kept.tend(release, await self._up(release.group), self.store, self.secret)
        groups = await self.groups()
        self._kept.announce(groups)
        return groups.get(release.group) or Group(release.group, ())

    async def _forgotten(self, group: str, ports: Collection[int] | None = None) -> None:
        """End instances that nobody is to start again."""
        await self._kept.forget(group, ports)
        await self._end(group, ports)

    def _masked(self, release: Release, said: bytes) -> str:
        """What an instance said, without its secrets."""
        return Masker([self.secret(name) for name in release.secrets]).mask(said).decode(errors="replace")
