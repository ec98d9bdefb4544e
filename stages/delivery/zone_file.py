"""A zone in a master file (RFC 1035 section 5), which a server reads: written whole, in one step, with a higher serial."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from pipeline import BrokenOff, CommandFailed, StageFailed, WiringError, Work
from stages.delivery import durable
from stages.delivery.dns import alias_in_the_way, changed, check_zone, need_dnspython
from stages.delivery.lock import held
from stages.delivery.nameserver import Nameserver, addresses, host_names
from stages.delivery.records import Records, Type, normal, within, written

if TYPE_CHECKING:
    import dns.name
    import dns.zone

RELOADING = 60.0
"""Seconds that the command may take by which a server is told to read the file."""


@dataclass(frozen=True, kw_only=True)
class ZoneFile:
    """The zone `zone` in the master file `path`, below the project unless it is absolute; `reload` has its server read it.

    Servers that read it by themselves need no `reload`. Comments of the file are lost when it is written, and one that includes
    others ($INCLUDE) is refused. The servers of the zone are asked on `port`.
    """

    path: str
    zone: str
    reload: tuple[str, ...] = ()
    port: int = 53

    def __post_init__(self) -> None:
        check_zone("ZoneFile", self.zone, self.port)
        if not Path(self.path).name:
            raise WiringError(f"ZoneFile: path is {self.path!r}", right="the path of a file")

    def open(self, work: Work) -> FiledZone:
        return FiledZone(self, work.project.root / self.path, work.say)


@dataclass(frozen=True)
class FiledZone:
    """A zone that is looked at and changed in its file."""

    config: ZoneFile
    file: Path
    say: Callable[[str], None]

    async def look(self, name: str, type: Type) -> Records:  # noqa: A002 - the word of the DNS
        return look(self._parsed(self._read()), name, type)

    async def change(self, old: Records, new: Records) -> None:
        async with self._alone():
            content = self._read()
            zone = self._parsed(content)
            found = look(zone, new.name, new.type)
            if not found.same(new):
                if found.values != old.values:
                    raise changed(found, old)
                fresh = with_records(zone, new)
                if self._read() != content:
                    raise changed(look(self._parsed(self._read()), new.name, new.type), old)
                durable.rewrite(self.file, fresh.encode())
        await self._reload()

    async def nameservers(self) -> tuple[Nameserver, ...]:
        zone = self._parsed(self._read())
        found = [Nameserver(host, await self._addresses(zone, host), self.config.port) for host in servers(zone)]
        return tuple(found)

    async def _addresses(self, zone: dns.zone.Zone, host: str) -> tuple[str, ...]:
        if not within(host, self.config.zone):
            return await addresses(host)
        return (*look(zone, host, "A").values, *look(zone, host, "AAAA").values)

    def _alone(self) -> AbstractAsyncContextManager[None]:
        """No other run of this machine changes the file meanwhile, of whatever project."""
        return held(
            self.file.with_name(f"{self.file.name}.lock"), lambda: self.say(f"somebody else changes {self.file}; waiting")
        )

    def _read(self) -> bytes:
        try:
            return self.file.read_bytes()
        except OSError as error:
            raise StageFailed(
                f"the zone cannot be read: {error.strerror}", where=str(self.file), right="a master file of the zone"
            ) from error

    def _parsed(self, content: bytes) -> dns.zone.Zone:
        need_dnspython()
        import dns.exception
        import dns.zone

        try:
            return dns.zone.from_text(content.decode(), self.config.zone, relativize=False)
        except (dns.exception.DNSException, UnicodeDecodeError) as error:
            raise StageFailed(
                f"it is no master file of {self.config.zone}: {error}",
                where=str(self.file),
                right="a zone with its SOA, in one file",
                next=f"named-checkzone {self.config.zone} {self.file}",
            ) from error

    async def _reload(self) -> None:
        """Have the server read the file. Raises CommandFailed and BrokenOff: it is written by then."""
        argv = self.config.reload
        if not argv:
            return
        try:
            with anyio.fail_after(RELOADING):
                done = await anyio.run_process(argv, check=False, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        except TimeoutError as error:
            raise BrokenOff(f"`{' '.join(argv)}` did not end within {RELOADING:g} s; the zone is written") from error
        except OSError as error:
            raise BrokenOff(f"{argv[0]} cannot be started: {error.strerror}; the zone is written") from error
        output = done.stdout.decode(errors="replace")
        self.say(output.strip() or f"`{' '.join(argv)}` ended well")
        if done.returncode:
            raise CommandFailed(argv, done.returncode, output)


def look(zone: dns.zone.Zone, name: str, type: Type) -> Records:  # noqa: A002 - the word of the DNS
    """The records of a name in a zone. Raises StageFailed where it has a CNAME instead. Pure."""
    import dns.name

    host = dns.name.from_text(name)
    found = zone.get_rdataset(host, type)
    if found is not None:
        values = tuple(sorted(normal(type, one.to_text()) for one in found))
        return Records(name=name, type=type, ttl=found.ttl, values=values)
    if (alias := zone.get_rdataset(host, "CNAME")) is not None:
        raise alias_in_the_way(name, ", ".join(one.to_text().removesuffix(".") for one in alias), type)
    soa = zone.find_rdataset(apex(zone), "SOA")
    return Records(name=name, type=type, ttl=min(soa.ttl, zone.get_soa().minimum), values=())


def apex(zone: dns.zone.Zone) -> dns.name.Name:
    """The zone's own name. Pure."""
    if zone.origin is None:
        raise StageFailed("the zone has no name", right="a file that was read as one of a zone")
    return zone.origin


def servers(zone: dns.zone.Zone) -> list[str]:
    """The names of the zone's servers. Pure."""
    found = zone.get_rdataset(apex(zone), "NS")
    return host_names(found or ())


def with_records(zone: dns.zone.Zone, new: Records) -> str:
    """The zone with these records in the place of those of their name and type, and a higher serial (RFC 1982).

    Raises StageFailed where a CNAME would stand beside others.
    """
    import dns.name
    import dns.rdataclass
    import dns.rdataset
    import dns.rdatatype

    name, kind = dns.name.from_text(new.name), dns.rdatatype.from_text(new.type)
    node = zone.get_node(name)
    others = sorted(dns.rdatatype.to_text(one.rdtype) for one in node or () if one.rdtype != kind)
    if new.type == "CNAME" and new.values and others:
        raise StageFailed(
            f"{new.name} has {', '.join(others)} records, and a CNAME may stand beside nothing else",
            right="a name that has no other records",
        )
    with zone.writer() as writer:
        writer.delete(name, kind)
        if new.values:
            texts = [written(new.type, value) for value in new.values]
            writer.add(name, dns.rdataset.from_text(dns.rdataclass.IN, kind, new.ttl, *texts))
        writer.update_serial(name=apex(zone))
    return zone.to_text(relativize=False, want_origin=True)
