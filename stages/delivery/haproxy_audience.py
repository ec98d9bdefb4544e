"""Audiences as HAProxy sees them: lines of the frontend that tell who is in one. Pure.

They are part of the settings. How large the share of a cohort is, and whether an audience is on at all, is a number in a map
that changes while HAProxy runs. Format: HAProxy Configuration Manual 2.8, sections 4.2 (`use_backend`) and 7 (ACLs and fetches).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from stages.delivery.audience import BUCKETS, Audience, Chosen, Cohort, Cookie, Device, HasCookie, HasHeader, Header, Key, Region

CHOSEN = "chosen"
"""The backend of those who are in an audience; of a cohort, of those whose bucket is within its share."""
CONTROL = "control"
"""The backend of those of a cohort whose bucket is beyond its share."""
MAP = "audience.map"
NETWORKS = "networks.lst"
"""Files beside the configuration, from where HAProxy is started."""


@dataclass(frozen=True)
class Rule:
    """How an audience is told: lines of the frontend, and the networks they look into."""

    lines: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()


def rule(audience: Audience) -> Rule:
    """How HAProxy tells who is in an audience."""
    on = f"http-request set-var(txn.share) str(share),map_str_int({MAP},0)"
    there = f"{{ var(txn.share) -m int gt 0 }} {{ nbsrv({CHOSEN}) gt 0 }}"
    if isinstance(audience, Cohort):
        found = _found(audience.key)
        lines = (
            on,
            f"http-request set-var(txn.bucket) {fetched(audience.key)},xxh32(0),mod({BUCKETS}){f' if {found}' if found else ''}",
            f"use_backend {CHOSEN} if {there} {{ var(txn.bucket),sub(txn.share) -m int lt 0 }}",
            f"use_backend {CONTROL} if {{ var(txn.share) -m int gt 0 }} {{ var(txn.bucket) -m found }}",
        )
        return Rule(lines)
    networks = audience.networks if isinstance(audience, Region) else ()
    return Rule((on, f"use_backend {CHOSEN} if {there} {{ {_member(audience)} }}"), networks)


def share(chosen: Chosen | None, weights: dict[str, int]) -> int:
    """The number in the map: how many buckets of a cohort are in, and of another audience whether it is on."""
    if chosen is None:
        return 0
    return sum(chosen.picked(weights).values()) * BUCKETS // 100


def fetched(key: Key) -> str:
    match key:
        case Cookie():
            return f"req.cook({key.name})"
        case Header():
            return f"req.fhdr({key.name})"
        case _:
            return "src"


def _found(key: Key) -> str:
    """That there is a key."""
    return f"{{ {fetched(key)},length gt 0 }}" if isinstance(key, Cookie | Header) else ""


def _member(audience: HasHeader | HasCookie | Region | Device) -> str:
    match audience:
        case HasHeader():
            return f"req.fhdr({audience.name}) {_like(audience.value, audience.prefix)}"
        case HasCookie():
            return f"req.cook({audience.name}) {_like(audience.value, audience.prefix)}"
        case Region():
            return f"src -f {NETWORKS}"
        case Device():
            return f"req.fhdr(user-agent) -m reg -i -- {quoted(audience.pattern)}"


def _like(value: str, prefix: str) -> str:
    return f"-m str -- {quoted(value)}" if value else f"-m beg -- {quoted(prefix)}" if prefix else "-m found"


def quoted(text: str) -> str:
    """A word of the configuration in which nothing has a meaning (section 2.2, weak quotes).

    >>> print(quoted('a "b" $c'))
    "a \\"b\\" \\$c"
    """
    escaped = re.sub(r'(["\\$])', r"\\\1", text)
    return f'"{escaped}"'
