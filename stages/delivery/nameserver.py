"""The servers of a zone, asked by their users' protocol whether they answer with what the zone says."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from pipeline import BrokenOff
from stages.delivery.records import Records, normal

if TYPE_CHECKING:
    import dns.message
    import dns.rdata

EVERY = 0.5
"""Seconds from one question to the next."""

TIMEOUT = 3.0
"""Seconds after which no answer of a server is waited for."""

NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""What the system says of an address to which this machine has no way, as those of IPv6 often are."""


@dataclass(frozen=True)
class Nameserver:
    """One of the servers that a zone names (NS), with all addresses of it."""

    name: str
    addresses: tuple[str, ...]
    port: int = 53


class NoRoute(Exception):
    """This machine has no way to an address: others may have one, and nobody here can ask."""


def host_names(servers: Iterable[dns.rdata.Rdata]) -> list[str]:
    """The names in NS records as names are compared, in order. Pure."""
    return sorted(one.to_text().removesuffix(".").lower() for one in servers)


async def addresses(host: str) -> tuple[str, ...]:
    """The addresses of a host of another zone, as this machine resolves it; none where it cannot."""
    try:
        found = await anyio.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except OSError:
        return ()
    return tuple(dict.fromkeys(str(one[4][0]) for one in found))


async def until_seen(servers: tuple[Nameserver, ...], wanted: Records, within: float, seen: Callable[[str, float], None]) -> None:
    """Return once every server answers with the records at each of its addresses; `seen` is told of each, and the seconds.

    An address to which this machine has no way is left out as long as the server has another. Raises BrokenOff when the time is
    over, with what the others still say.
    """
    began = anyio.current_time()
    left: dict[str, str] = {server.name: f"{' and '.join(server.addresses)} gave no answer" for server in servers}

    async def one(server: Nameserver) -> None:
        while (reason := await behind(server, wanted)) is not None:
            left[server.name] = reason
            await anyio.sleep(EVERY)
        del left[server.name]
        seen(server.name, round(anyio.current_time() - began, 3))

    with anyio.move_on_after(within):
        async with anyio.create_task_group() as tasks:
            for server in servers:
                tasks.start_soon(one, server)
    if left or not servers:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in sorted(left.items())) or "the zone names no server"
        raise BrokenOff(
            f"not every server of the zone answers with {wanted.said} after {within:g} s: {reasons}",
            right="servers of the zone that take over what its primary says (NOTIFY, zone transfer, a reload)",
            next=f"dig @SERVER {wanted.name} {wanted.type}, and SOA of the zone: whose serial is behind",
        )


async def behind(server: Nameserver, wanted: Records) -> str | None:
    """Why the server does not answer with the records yet, or None."""
    asked = 0
    unrouted = []
    for address in server.addresses:
        try:
            reason = await differs(address, server.port, wanted)
        except NoRoute as error:
            unrouted.append(str(error))
            continue
        if reason is not None:
            return f"{address} {reason}"
        asked += 1
    return None if asked else ", ".join(unrouted) or "nobody knows its address"


async def differs(address: str, port: int, wanted: Records) -> str | None:
    """What a server says at an address instead of the records, or None. Raises NoRoute where it cannot be asked from here."""
    import dns.asyncquery
    import dns.exception
    import dns.flags
    import dns.message
    import dns.rcode

    question = dns.message.make_query(wanted.name, wanted.type)
    question.flags &= ~dns.flags.RD
    try:
        answer, _ = await dns.asyncquery.udp_with_fallback(question, address, TIMEOUT, port)
    except dns.exception.Timeout:
        return f"does not answer within {TIMEOUT:g} s"
    except OSError as error:
        if error.errno in NO_ROUTE:
            raise NoRoute(f"this machine has no way to {address}") from error
        return f"does not answer: {error.strerror or error}"
    except (dns.exception.DNSException, EOFError) as error:
        return f"gives no answer of the DNS: {type(error).__name__}: {error}"
    rcode = answer.rcode()
    if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return f"answers {dns.rcode.to_text(rcode)}"
    if not answer.flags & dns.flags.AA:
        return "answers, and says that it is no server of the zone (no AA)"
    found = told(answer, wanted)
    return None if found.same(wanted) else f"says {found.said}" + (f" (ttl {found.ttl})" if found.values else "")


def told(answer: dns.message.Message, asked: Records) -> Records:
    """The records of the name that was asked for, as an answer has them; of none the TTL is not known from here. Pure."""
    import dns.name
    import dns.rdataclass
    import dns.rdatatype

    kind = dns.rdatatype.from_text(asked.type)
    found = answer.get_rrset(answer.answer, dns.name.from_text(asked.name), dns.rdataclass.IN, kind)
    if found is None:
        return asked.model_copy(update={"values": (), "ttl": 0})
    values = tuple(sorted(normal(asked.type, one.to_text()) for one in found))
    return asked.model_copy(update={"values": values, "ttl": int(found.ttl)})
