"""Targets whose instances are at a daemon or on another machine, by what they wrote down when they began the first."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from pipeline import Store
from stages.delivery import docker, systemd
from stages.delivery.model import Group
from stages.delivery.tending import Tended


class Elsewhere(Tended[Any], Protocol):
    """A target that outlives whoever opened it."""

    async def groups(self) -> dict[str, Group]: ...

    async def down(self) -> list[str]:
        """End every instance and remove all that is there; the names of instances."""
        ...


def known(state: Path, store: Store) -> Elsewhere | None:
    """The target that has its state there; None where all its instances are processes of this machine."""
    if (state / docker.DAEMON).exists():
        return docker.known(state, store)
    if (state / systemd.MACHINE).exists():
        return systemd.known(state, store)
    return None
