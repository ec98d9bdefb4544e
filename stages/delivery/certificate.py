"""The certificate that a router shows: kept beside it, and the one before it for the way back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol, runtime_checkable

from pipeline import Result, Work
from stages.delivery import durable
from stages.delivery.router import Router
from stages.delivery.tls import Pair, told

FILE = "certificate.pem"
"""Certificate, those that vouch for it, and key: for the router to read, and nobody else."""
BEFORE = "certificate-before.pem"


class Shown(Result):
    """The certificate that a router shows, and the one before it (SHA-256 fingerprints; none where there was none)."""

    fingerprint: str
    before: str
    until: datetime

    def summary(self) -> str:
        return f"certificate {self.fingerprint[:12]} is shown, good until {self.until:%Y-%m-%d}"


@runtime_checkable
class Certified(Router, Protocol):
    """A router that can show users a certificate, and another one without ending a connection."""

    async def certify(self, about: Callable[[Shown], None] = ...) -> Shown | None:
        """Show the certificate that is wanted; None where none is. Raises StageFailed for one that is no good.

        `about` is told what is going to be shown, before it is.
        """
        ...

    @property
    def certified(self) -> str:
        """The fingerprint of the certificate that is kept to be shown; nothing where none is."""
        ...

    async def certify_back(self, shown: Shown) -> str | None:
        """Show the one before again; why not, where it stays. Raises StageFailed where that is not good any more."""
        ...


@dataclass(frozen=True)
class Certificates:
    """The certificates below a router's state. Each file is for its owner alone."""

    state: Path

    @property
    def now(self) -> Pair | None:
        return self._read(FILE)

    @property
    def before(self) -> Pair | None:
        return self._read(BEFORE)

    def keep(self, pair: Pair) -> None:
        """It is the one to show; what was is the one before it."""
        if (now := self.now) == pair:
            return
        if now is not None:
            durable.write(self.state / BEFORE, now.pem, mode=0o600)
        durable.write(self.state / FILE, pair.pem, mode=0o600)

    def put_back(self, now: Pair | None, before: Pair | None) -> None:
        """What could not be shown is not the one any more, and both are as they were."""
        for name, pair in ((FILE, now), (BEFORE, before)):
            if pair is None:
                (self.state / name).unlink(missing_ok=True)
            else:
                durable.write(self.state / name, pair.pem, mode=0o600)

    def _read(self, name: str) -> Pair | None:
        path = self.state / name
        if not path.exists():
            return None
        return durable.read(path, Pair.of, "the certificate of the router", next="rm {place}, and run again")


async def show(router: Router, work: Work) -> Shown | None:
    """Have the router show the certificate that is wanted, where it has any; a switch is noted before it is done."""

    def note(shown: Shown) -> None:
        if shown.before != shown.fingerprint:
            work.record("router.certified", fingerprint=shown.fingerprint, before=shown.before, until=shown.until.isoformat())

    return await router.certify(note) if isinstance(router, Certified) else None


def said(now: Pair, before: Pair | None) -> Shown:
    """What there is to say of the one that is shown now, after `before`."""
    found = told(now)
    return Shown(fingerprint=found.fingerprint, before=told(before).fingerprint if before else "", until=found.until)
