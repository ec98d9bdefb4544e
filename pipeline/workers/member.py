"""A worker as the coordinator knows it, and the choice among workers. Pure: it asks nobody."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from pipeline.data import Blob, Tree


@dataclass(kw_only=True)
class Member:
    """One worker. Times are of this machine's monotonic clock."""

    address: str
    threads: int
    heard: float
    """When a sign of life of it was last seen."""
    beat: float = 0.0
    """The sign of life: its own clock's time, which is only compared."""
    unfit: str | None = None
    """Why it is not asked; None: it has not been met yet; empty: it is asked."""
    busy: int = 0
    """Actions of this run that it was given and has not answered."""
    others: int = 0
    """What else it has to do, of other runs, when the cluster was last looked at."""
    order: float = 0.0
    """Among equals the lowest is taken; by chance, so that runs that begin together do not all take the same one."""
    holds: set[str] = field(default_factory=set)
    """Digests of trees and blobs that it is known to have."""

    @property
    def load(self) -> float:
        """What it has to do, as a part of what it can do at once."""
        return (self.busy + self.others) / self.threads

    def bytes_of(self, contents: Iterable[Blob | Tree]) -> int:
        """How much of it this worker need not bring."""
        return sum(one.size for one in contents if one.digest in self.holds)


def best(members: Iterable[Member], contents: Collection[Blob | Tree]) -> Member | None:
    """Who is to be given an action that needs `contents`, among workers that can be: whoever has a thread to spare and the
    most bytes of it, then whoever has least to do. None where there is no worker.
    """

    def rank(one: Member) -> tuple[bool, int, float, float]:
        return one.load >= 1, -one.bytes_of(contents), one.load, one.order

    return min(members, key=rank, default=None)


def lost(member: Member | None, now: float, silent: float) -> str:
    """Why no answer is to be expected of a worker that was given an action; empty: one is."""
    if member is None:
        return "it left the cluster"
    if now - member.heard > silent:
        return f"nothing was heard of it for {silent:g} s"
    return member.unfit or ""
