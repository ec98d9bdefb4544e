"""The seam to who keeps the records of a zone."""

from __future__ import annotations

from typing import Protocol

from pipeline import StageFailed, WiringError, Work
from stages.delivery.nameserver import Nameserver
from stages.delivery.records import Records, Type, host_name


class Dns(Protocol):
    """A zone whose records can be looked at where they are kept, and changed there. Every method may be repeated without harm."""

    async def look(self, name: str, type: Type) -> Records:  # noqa: A002 - the word of the DNS
        """What the zone says now. Raises StageFailed where that cannot be known, or a CNAME stands in their place."""
        ...

    async def change(self, old: Records, new: Records) -> None:
        """`new` in the place of `old`, all at once. Nothing is changed where something else than `old` is there by then.

        Raises StageFailed where it surely did not take place, and BrokenOff where nobody knows.
        """
        ...

    async def nameservers(self) -> tuple[Nameserver, ...]:
        """The servers that the zone itself names: they answer everybody who asks for its records."""
        ...


class OpensDns(Protocol):
    """Configuration of a zone, opened when a stage runs."""

    @property
    def zone(self) -> str:
        """Its name."""
        ...

    def open(self, work: Work) -> Dns: ...


def changed(found: Records, old: Records) -> StageFailed:
    """Somebody else was there in between."""
    return StageFailed(
        f"{old.name} is {found.said} by now, where it was {old.said}: somebody else changed it meanwhile, and it was left alone",
        right="one at a time who changes a name",
        next="python -m pipeline run, which begins with what is there now",
    )


def alias_in_the_way(name: str, target: str, type: Type) -> StageFailed:  # noqa: A002 - the word of the DNS
    """Nothing may stand beside a CNAME (RFC 1034 section 3.6.2)."""
    return StageFailed(
        f"{name} is an alias of {target} (CNAME), beside which it may have no {type} record",
        right=f"type='CNAME' with another value, or no CNAME of {name}",
    )


def check_zone(where: str, zone: str, port: int) -> None:
    """Raise WiringError for a zone that has no name, or a port that there is not."""
    try:
        named = host_name(zone) == zone
    except ValueError:
        named = False
    if not named:
        raise WiringError(f"{where}: zone is {zone!r}", right="the name of a zone, in lower case and without a dot at its end")
    if not 0 < port < 65_536:
        raise WiringError(f"{where}: port is {port}", right="from 1 to 65535")


def need_dnspython() -> None:
    """Raises StageFailed where it is not installed."""
    try:
        import dns.message  # noqa: F401 - whether it is there
    except ImportError as error:
        raise StageFailed("dnspython is not installed", next="pip install 'lockgate[dns]'") from error
