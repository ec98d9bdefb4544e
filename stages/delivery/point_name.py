"""Point: a name in the DNS is pointed at other addresses, seen at all servers of its zone, and pointed back if it must."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, ClassVar

from gates.words import counted
from pipeline import Effect, Result, Stage, StageFailed, Stays, WiringError, Work
from pipeline.errors import LockgateError
from stages.delivery.dns import Dns, OpensDns
from stages.delivery.freeze import check_not_frozen
from stages.delivery.lock import alone
from stages.delivery.model import Address, Binding, Served
from stages.delivery.nameserver import until_seen
from stages.delivery.records import Records, Type, check, records


class Pointed(Result):
    """A name that points where it should, at every server of its zone."""

    before: Records
    now: Records
    servers: tuple[str, ...] = ()
    """Those that answered with it; none where that was not asked, as after a run that was cut off."""

    def summary(self) -> str:
        if self.before.same(self.now):
            return f"{self.now.summary()}, as before"
        return f"{self.now.summary()} at {counted(len(self.servers), 'server')}, before {self.before.said}"


class PointName(Stage[Pointed]):
    """Points `name`, in the zone of `dns`, at `values`, and at what stages found: addresses for A and AAAA, one host for CNAME.

    `ttl` is how many seconds resolvers may remember it. What is there already is not changed; what somebody else changes
    meanwhile is not overwritten. Passes once every server of the zone answers with it, within `within` seconds; else the
    records are as they were before, and so they are when anything below this fails. Only records of the one type are touched.
    """

    effect: ClassVar[Effect] = Effect.ONCE

    dns: OpensDns
    name: str
    type: Type = "A"
    ttl: int = 60
    values: tuple[str, ...] = ()
    found: tuple[Stage[Address | Served | Binding], ...] = ()
    """Stages whose results are values too: the host of an address, the value of a binding."""
    within: float = 300.0

    def __post_init__(self) -> None:
        check("PointName", self.name, self.type, self.ttl, self.dns.zone)
        if not (self.values or self.found):
            raise WiringError(f"PointName: {self.name} would point nowhere", right="values, or stages that find some")
        try:
            records(self.name, self.type, self.ttl, self.values)
        except ValueError as error:
            raise WiringError(f"PointName: {error}", right=RIGHT[self.type]) from error
        if not self.within > 0:
            raise WiringError(f"PointName: within is {self.within:g}", right="seconds above 0")

    async def run(self, work: Work) -> Pointed:
        wanted = self._wanted(work)
        async with alone(work.state("dns"), work.say):
            check_not_frozen(work)
            zone = self.dns.open(work)
            before = await zone.look(wanted.name, wanted.type)
            work.record("dns.intended", before=before.model_dump(mode="json"), wanted=wanted.model_dump(mode="json"))
            if before.same(wanted):
                work.say(f"{wanted.summary()} already")
            else:
                await zone.change(before, wanted)
                work.record("dns.changed", before=before.model_dump(mode="json"), now=wanted.model_dump(mode="json"))
            servers = await self._seen(work, zone, wanted)
        if not before.same(wanted):
            work.say(remembered(before, time.time()))
        return Pointed(before=before, now=wanted, servers=servers)

    async def undo(self, work: Work, result: Any) -> str | None:
        """The records of before, unless somebody else has changed them since."""
        before, now = result.before, result.now
        if before.same(now):
            return Stays(f"{now.summary()}, as before: there is nothing to take back")
        async with alone(work.state("dns"), work.say):
            zone = self.dns.open(work)
            found = await zone.look(now.name, now.type)
            if found.same(before):
                return f"{before.summary()} again already"
            if found.values != now.values:
                return f"{now.name} is {found.said} by now, which somebody else has changed: it stays"
            await zone.change(now, before)
            work.record("dns.changed", before=now.model_dump(mode="json"), now=before.model_dump(mode="json"), back=True)
            work.say(remembered(now, time.time()))
            try:
                await self._seen(work, zone, before)
            except LockgateError as error:
                return f"{before.summary()} again, and not everywhere yet: {error.what}"
        return None

    async def recover(self, work: Work) -> Pointed | None:
        """By what the zone says: the update is all there or not at all."""
        intended = work.attempted("dns.intended")
        if not intended:
            return None
        before, wanted = (Records.model_validate(intended[-1].data[key]) for key in ("before", "wanted"))
        async with alone(work.state("dns"), work.say):
            found = await self.dns.open(work).look(wanted.name, wanted.type)
        if found.same(wanted):
            return Pointed(before=before, now=wanted)
        if not found.same(before):
            work.say(f"{wanted.name} is {found.said} by now, which somebody else has changed: it stays")
        return None

    async def steps(self, work: Work) -> Sequence[str]:
        check_not_frozen(work)
        found = await self.dns.open(work).look(self._base.name, self.type)
        if self.found:
            return [f"point {self._base.name}, which is {found.said} (ttl {found.ttl}), at what is found (ttl {self.ttl})"]
        if found.same(self._base):
            return [f"leave {found.summary()}"]
        return [f"point {found.name} from {found.said} (ttl {found.ttl}) to {self._base.said} (ttl {self.ttl})"]

    @property
    def _base(self) -> Records:
        """What is known before anything runs."""
        return records(self.name, self.type, self.ttl, self.values)

    def _wanted(self, work: Work) -> Records:
        """Raises StageFailed where a stage found what the records may not hold."""
        found = [_value(work[stage]) for stage in self.found]
        try:
            return records(self.name, self.type, self.ttl, (*self.values, *found))
        except ValueError as error:
            raise StageFailed(f"{self.name} cannot point at what was found: {error}", right=RIGHT[self.type]) from error

    async def _seen(self, work: Work, zone: Dns, wanted: Records) -> tuple[str, ...]:
        """The servers of the zone, all of which answer with it."""
        servers = await zone.nameservers()

        def seen(server: str, seconds: float) -> None:
            work.record("dns.seen", name=wanted.name, server=server, seconds=seconds)

        await until_seen(servers, wanted, self.within, seen)
        return tuple(server.name for server in servers)


RIGHT: dict[Type, str] = {
    "A": "addresses of IPv4, as 192.0.2.1",
    "AAAA": "addresses of IPv6, as 2001:db8::1",
    "CNAME": "one other host name, as edge.example.net",
}
"""What records of a type hold."""


def _value(found: Address | Served | Binding) -> str:
    match found:
        case Address():
            return found.host
        case Served():
            return found.address.host
        case Binding():
            return found.value


def remembered(before: Records, now: float) -> str:
    """For how long some users may still be sent where the name pointed before. Pure."""
    until = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now + before.ttl))
    return f"resolvers may go on with {before.said} for {before.ttl} s, until {until}: what is there has to serve until then"
