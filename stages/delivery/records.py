"""Records of a name in the DNS, and what may stand in them. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Literal

from pipeline import Result, WiringError

Type = Literal["A", "AAAA", "CNAME"]
"""The types of records by which users find a service."""

TYPES: tuple[Type, ...] = ("A", "AAAA", "CNAME")

LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
"""Of a host name (RFC 1123 section 2.1), and underscores, which others put there (RFC 8552)."""

LONGEST = 253
"""Characters of a name as text: 255 octets on the wire (RFC 1035 section 2.3.4)."""

MOST = 2**31 - 1
"""Seconds of a TTL (RFC 2181 section 8)."""


class Records(Result):
    """All records of one type that a name has; none where there are no `values`.

    `name` is absolute, in lower case and without a dot at its end; `values` are in order. `ttl` is how many seconds resolvers may
    remember this; of no records, that there are none (RFC 2308).
    """

    name: str
    type: Type
    ttl: int
    values: tuple[str, ...]

    @property
    def said(self) -> str:
        """What the name points at."""
        return f"{self.type} {', '.join(self.values)}" if self.values else f"no {self.type}"

    def summary(self) -> str:
        return f"{self.name} is {self.said} (ttl {self.ttl})"

    def same(self, other: Records) -> bool:
        """Whether they say the same, and for as long: of no records it is the zone that says how long."""
        return self.values == other.values and (not self.values or self.ttl == other.ttl)


def records(name: str, type: Type, ttl: int, values: Iterable[str]) -> Records:  # noqa: A002 - the word of the DNS
    """The records as they are compared. Raises ValueError for what no zone may hold."""
    host = host_name(name)
    found = sorted({normal(type, value) for value in values})
    if type == "CNAME" and len(found) > 1:
        raise ValueError(f"a CNAME has one value, and here are {', '.join(found)}")
    if type == "CNAME" and found == [host]:
        raise ValueError(f"{host} would be an alias of itself")
    return Records(name=host, type=type, ttl=ttl, values=tuple(found))


def normal(type: Type, value: str) -> str:  # noqa: A002 - the word of the DNS
    """One value in the one way in which it is compared. Raises ValueError where no record of the type may hold it.

    >>> normal("AAAA", "2001:DB8:0::1"), normal("CNAME", "Edge.Example.net.")
    ('2001:db8::1', 'edge.example.net')
    """
    match type:
        case "A":
            return str(ipaddress.IPv4Address(value))
        case "AAAA":
            return str(ipaddress.IPv6Address(value))
        case "CNAME":
            return host_name(value)


def written(type: Type, value: str) -> str:  # noqa: A002 - the word of the DNS
    """A value as a zone has it: the name in an alias is absolute."""
    return f"{value}." if type == "CNAME" else value


def host_name(text: str) -> str:
    """A name in lower case, without a dot at its end. Raises ValueError for anything else than a host name in ASCII."""
    name = text.removesuffix(".").lower()
    if not (0 < len(name) <= LONGEST and all(LABEL.fullmatch(label) for label in name.split("."))):
        raise ValueError(f"{text!r} is no host name")
    return name


def within(name: str, zone: str) -> bool:
    """Whether a name is the zone's own or below it; both as `host_name` gives them."""
    return name == zone or name.endswith(f".{zone}")


def check(where: str, name: str, type: Type, ttl: int, zone: str) -> None:  # noqa: A002 - the word of the DNS
    """Raise WiringError for a name that the zone cannot have, or not with records of this type."""
    try:
        host = host_name(name)
    except ValueError as error:
        raise WiringError(
            f"{where}: {error}", right="a host name, as app.example.org; others in their ASCII form (xn--)"
        ) from error
    if type not in TYPES:
        raise WiringError(f"{where}: type is {type!r}", right=f"one of: {', '.join(TYPES)}")
    if not within(host, zone):
        raise WiringError(f"{where}: {host} is not in the zone {zone}", right=f"a name that ends with .{zone}, with all of it")
    if type == "CNAME" and host == zone:
        raise WiringError(
            f"{where}: {host} is the zone itself, and a CNAME may stand beside nothing else (RFC 1034 section 3.6.2)",
            right="A and AAAA records there, or a CNAME of a name below it",
        )
    if isinstance(ttl, bool) or not isinstance(ttl, int) or not 0 <= ttl <= MOST:
        raise WiringError(f"{where}: ttl is {ttl!r}", right=f"whole seconds, from 0 to {MOST}")
