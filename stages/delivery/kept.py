"""What a target keeps of its groups below its state directory: their releases, which of them rest, and who looks after them."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import StageFailed, Store
from pipeline.errors import StoreError
from pipeline.store import unwritable
from stages.delivery import durable, process
from stages.delivery.acts import Acts
from stages.delivery.files import ReleaseFile
from stages.delivery.model import Group, Release
from stages.delivery.probe import Ready
from stages.delivery.wanted import Wanted

RESTS = "rests"
"""The file in the directory of a group that says that it may be started again."""

SUPERVISOR = "supervisor"
"""How the marks of the processes end that look after instances."""

SIGNS_IN = ("HOME", "USER", "SSH_AUTH_SOCK")
"""By what `ssh` finds the keys of whoever began the deployment."""

TARGETS = "prometheus.json"
"""The file in which Prometheus is told where instances are."""


@dataclass(frozen=True)
class Kept:
    """Below `state`, a directory for each group."""

    state: Path

    def file(self, group: str) -> Path:
        """What is needed to start the group again, besides its files and the values of its secrets."""
        return self.state / group / "release.json"

    def keep(self, release: Release) -> None:
        """The release's instances are about to run: by this they can be started again. Its group's directory is there."""
        durable.write(self.file(release.group), release.written().encode(), mode=0o600)

    def release(self, group: str) -> Release:
        """Raises FileNotFoundError where nothing is known of it, and StageFailed where that cannot be read."""
        return durable.read(self.file(group), lambda content: Release.read(content.decode()), f"the release of {group}")

    def startable(self, group: str) -> Release:
        """The release of a group that is to be started again. Raises StageFailed where nothing is known of it."""
        try:
            return self.release(group)
        except (OSError, StageFailed) as error:
            raise StageFailed(
                f"{group} cannot be started again: {error}",
                where=str(self.file(group)),
                right="a release that ran here and rests",
            ) from error

    def readiness(self, group: str) -> Ready | None:
        """How the group says that it can serve; None where that is not known."""
        try:
            return self.release(group).ready
        except (OSError, StageFailed):
            return None

    def let_rest(self, group: str) -> None:
        """It may be started again when its instances have ended, and is not removed with what has ended otherwise."""
        mark = self.state / group / RESTS
        try:
            mark.touch()
        except OSError as error:
            raise unwritable(mark, error) from error

    def rests(self, group: str) -> bool:
        """Whether it may be started again."""
        return (self.state / group / RESTS).exists()

    def resting(self, running: Collection[str] = ()) -> frozenset[str]:
        """The groups that may be started again, but for those that run."""
        return frozenset(place.parent.name for place in self.state.glob(f"*/{RESTS}") if place.parent.name not in running)

    def files(self, release: Release, store: Store) -> list[tuple[ReleaseFile, Path]]:
        """The files of a release and where they lie: in the directory of its group, for everybody to read."""
        found = []
        for one in release.files:
            place = self.state / release.group / "files" / one.variable / one.name
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                durable.write(place, store.read(one.content), mode=0o644)
            found.append((one, place))
        return found

    def announce(self, groups: Mapping[str, Group]) -> None:
        """Tell Prometheus where instances are. Where that cannot be written it goes on with what it knew, and so does this."""
        with contextlib.suppress(StoreError):
            if groups:
                durable.write(self.state / TARGETS, announced(groups).encode())
            else:
                (self.state / TARGETS).unlink(missing_ok=True)

    def wanted(self, group: str) -> Wanted:
        """The instances that a supervisor looks after."""
        return Wanted(self.state / group)

    def acts(self, group: str) -> Acts:
        """What the group's supervisor did."""
        return Acts(self.state / group / "acts.jsonl")

    def supervisors(self, group: str) -> list[process.Process]:
        """The process that looks after the group's instances, where there is one."""
        return list(process.running(self._mark(group)))

    def supervisor_log(self, group: str) -> Path:
        return self.state / group / "supervisor.txt"

    async def supervise(self, group: str, module: str, told: Mapping[str, Any], secrets: Mapping[str, str]) -> None:
        """Have a process look after the group's instances that outlives the run; nothing where one does already.

        `told` is what it needs to make its target again; the values of secrets it has in its environment, as instances do.
        """
        if self.supervisors(group):
            return
        argv = (sys.executable, "-m", module, json.dumps({"state": str(self.state), "group": group, **told}))
        own = {"PATH": os.defpath, "LANG": "C.UTF-8", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        own |= {name: os.environ[name] for name in SIGNS_IN if name in os.environ}
        await process.start(self._mark(group), argv, {**secrets, **own}, cwd=self.state, log=self.supervisor_log(group))

    async def tend(self, release: Release, instances: Mapping[int, str], store: Store, secret: Callable[[str], str]) -> None:
        """Have a process ask whether these instances live, by port and zone, where somebody else starts those that end."""
        async with self.wanted(release.group).held():
            self.wanted(release.group).write(instances)
        secrets = {name: secret(name) for name in release.secrets}  # it masks them in what instances say
        await self.supervise(release.group, "stages.delivery.elsewhere_supervisor", {"store": str(store.root)}, secrets)

    def tended(self, group: str) -> Collection[int]:
        """The ports of instances that a supervisor keeps going, also while it is starting them again."""
        wanted = self.wanted(group)
        return wanted.read() if wanted.known and self.supervisors(group) else ()

    async def forget(self, group: str, ports: Collection[int] | None = None) -> None:
        """Nobody starts these instances again, or any of the group; what is about to be ended is off the list first.

        The supervisor is ended while it cannot be starting any.
        """
        wanted = self.wanted(group)
        if not wanted.known:
            return
        async with wanted.held():
            left = {port: zone for port, zone in wanted.read().items() if ports is not None and port not in ports}
            with contextlib.suppress(StoreError):  # on a full disk it is enough that nobody is left who would start any
                wanted.write(left)
            if not left:
                for one in self.supervisors(group):
                    await process.stop(one)

    def _mark(self, group: str) -> str:
        return f"{self.state}/{group}:{SUPERVISOR}"


def announced(groups: Mapping[str, Group]) -> str:
    """Instances as Prometheus discovers them from a file (`file_sd_configs`); their series get the label `release_group`."""
    found = [
        {"targets": [one.summary() for one in groups[name].instances], "labels": {"release_group": name}}
        for name in sorted(groups)
    ]
    return json.dumps(found, indent=1)
