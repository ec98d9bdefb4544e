"""What a worker has to agree to before it executes actions of a run."""

from __future__ import annotations

from pipeline import digest
from pipeline.frozen import Frozen


class Terms(Frozen):
    """The same for all actions of a run. Credentials are no part of it: each machine has its own."""

    version: str
    """Lockgate's."""
    engine: str
    image: str
    """Of actions that name none, for engines that have containers."""
    platform: str
    """What keys of results hold: a worker on which an action could end otherwise is not asked."""
    cache: str
    """The address of the remote cache."""

    def name(self) -> str:
        """By which a worker knows what it has opened for them."""
        return "lockgate-" + digest.of_json([self.version, self.engine, self.image, self.platform, self.cache])[:16]
