"""The instances of a group that a supervisor looks after: what tells it from which ones to keep its hands."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from stages.delivery import durable
from stages.delivery.lock import held


@dataclass(frozen=True)
class Wanted:
    """Below `place`, the directory of the group: port and zone of each instance that shall run.

    Who starts one, and who takes one off before it is ended, does so while it holds the list: what is not on it any more is
    started by nobody.
    """

    place: Path

    def held(self) -> AbstractAsyncContextManager[None]:
        """Meanwhile nobody else of this machine starts any, nor changes the list."""
        return held(self.place / ".wanted.lock")

    @property
    def known(self) -> bool:
        """Whether there ever was a list."""
        return self._file.exists()

    def read(self) -> dict[int, str]:
        """Port and zone of each; none where there is no list."""
        try:
            return durable.read(self._file, _ports, "the list of instances that shall run")
        except FileNotFoundError:
            return {}

    def write(self, instances: Mapping[int, str]) -> None:
        durable.write(self._file, json.dumps(instances).encode())

    @property
    def _file(self) -> Path:
        return self.place / "wanted.json"


def _ports(content: bytes) -> dict[int, str]:
    return {int(port): str(zone) for port, zone in json.loads(content).items()}
