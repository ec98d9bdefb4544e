"""The files an Envoy is told by, and whether it has them: nothing counts before Envoy says that it uses it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from pipeline import StageFailed
from stages.delivery import durable, envoy_xds
from stages.delivery.envoy_admin import Admin
from stages.delivery.envoy_xds import File

AFTER = 0.005
"""Seconds after which Envoy is asked whether it uses what it was told: who asks all the time keeps it from that."""

WARMING = ("cluster_manager.warming_clusters", "listener_manager.total_listeners_warming")
"""Gauges of what Envoy has taken but does not use yet."""

MEMBERS, WELL, EJECTED = "membership_total", "health_check.healthy", "outlier_detection.ejections_active"
"""Gauges of a cluster: its instances, those of them that said that they are well, and those that are left out nevertheless."""

TAKEN = f"version_text$|update_rejected$|^({'|'.join(WARMING)})$|^cluster\\.[^.]+\\.({MEMBERS}|{WELL}|{EJECTED})$"
"""The figures that tell which files Envoy has taken, and whether all instances in them are well."""


@dataclass
class Files:
    """The files in `place`, in the hands of one who changes them."""

    place: Path
    log: Path
    """Where Envoy says why it does not take one."""
    runs: Callable[[], bool]
    patience: float
    """Seconds in which Envoy has to take what it is told."""
    _told: dict[str, Any] = field(default_factory=dict)
    """What it said last, of those that it has."""

    def has(self, file: File) -> bool:
        return (self.place / file.name).exists()

    def read(self, file: File) -> bytes:
        return (self.place / file.name).read_bytes()

    async def look(self, envoy: Admin) -> None:
        """Ask Envoy what it has. Raises StageFailed."""
        self._told = await envoy.figures(TAKEN)

    def holds(self, file: File) -> bool:
        """Whether Envoy has what is in the file, by what it said last."""
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):  # one that cannot be read is none that it has
            return bool(self._told.get(file.taken) == envoy_xds.version(self.read(file)))
        return False

    def all_well(self, clusters: Iterable[str]) -> bool:
        """Whether every instance of the clusters is well, by what Envoy said last."""
        said = self._told
        return all(
            said.get(f"cluster.{one}.{MEMBERS}", -1) == said.get(f"cluster.{one}.{WELL}")
            and not said.get(f"cluster.{one}.{EJECTED}")
            for one in clusters
        )

    def write(self, files: Mapping[File, bytes]) -> None:
        """Write them, each in one step, for an Envoy that does not run."""
        self.place.mkdir(exist_ok=True)
        for file, content in files.items():
            durable.write(self.place / file.name, content, mode=file.mode)

    async def take(self, envoy: Admin, files: Mapping[File, bytes]) -> bool:
        """Have Envoy use them; whether it did not yet. What it refuses is put back as it was, and StageFailed is raised.

        They survive a crash of the machine once they are kept.
        """
        if not self._told:
            await self.look(envoy)
        told = self._told
        fresh = {file: content for file, content in files.items() if told.get(file.taken) != envoy_xds.version(content)}
        if not fresh:
            return False
        if not self.place.is_dir():
            raise StageFailed(
                "the directory of the files that Envoy is told by was removed, and the Envoy that runs would not see another",
                where=str(self.place),
                next="python -m stages.delivery.down . ends it; then python -m pipeline run",
            )
        before = {file: self.read(file) for file in fresh}
        said = self.log.stat().st_size
        for file, content in fresh.items():
            durable.show(self.place / file.name, content, mode=file.mode)  # no switch waits for a disk
        try:
            await self.taken(envoy, fresh, said, told)
        except StageFailed:
            self._told = {}
            self.write(before)
            raise
        return True

    async def keep(self) -> None:
        """Have all that Envoy was told survive a crash of the machine, also what a run that was killed could not see to.

        Raises StoreError where that cannot be.
        """
        for file in sorted(self.place.iterdir()):
            await anyio.to_thread.run_sync(durable.sync, file)

    async def taken(self, envoy: Admin, files: Mapping[File, bytes], said: int, before: Mapping[str, Any]) -> None:
        """Return once Envoy uses these versions. `before` are its figures then, and `said` the length of its log.

        Raises StageFailed when it refuses one, does not take it in time, or ends.
        """
        late = "it does not answer"
        with anyio.move_on_after(self.patience):
            await anyio.sleep(AFTER)
            while (late := await self._late(envoy, files, said, before)) != "":
                await anyio.sleep(AFTER)
            return
        raise StageFailed(f"Envoy does not take what it is told: {late}", where=str(self.log))

    async def _late(self, envoy: Admin, files: Mapping[File, bytes], said: int, before: Mapping[str, Any]) -> str:
        """What Envoy does not use yet; nothing when it uses all."""
        try:
            await self.look(envoy)
        except StageFailed as error:
            if not self.runs():
                raise StageFailed(f"Envoy does not start: {self._reason(said)}", where=str(self.log)) from error
            return error.what
        refused = [file for file in files if int(self._told.get(file.refused, 0)) > int(before.get(file.refused, 0))]
        if refused:
            raise StageFailed(f"Envoy refuses {refused[0].name}: {self._reason(said)}", where=str(self.place))
        late = [file.name for file in files if self._told.get(file.taken) != envoy_xds.version(files[file])]
        return ", ".join([*late, *(name for name in WARMING if self._told.get(name))])

    def _reason(self, said: int) -> str:
        return refusal(self.log.read_bytes()[said:].decode(errors="replace"))


def refusal(log: str) -> str:
    """Why Envoy did not take a file, in its log: the last reason it gave, else its last words."""
    reasons = re.findall(r"rejected: (.*)", log)
    lines = log.strip().splitlines()
    return reasons[-1] if reasons else lines[-1] if lines else "it said nothing"
