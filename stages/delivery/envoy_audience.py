"""Audiences as Envoy sees them: what its routes match, and by what they pick a side. Pure.

Format: Envoy's API v3, `RouteMatch` (headers, cookies, filter state) and `WeightedCluster.use_hash_policy`.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any

from stages.delivery.audience import BUCKETS, Audience, Chosen, Cohort, Cookie, Device, HasCookie, HasHeader, Header, Key, Region

CLIENT = "lockgate.client"
"""The name under which a connection remembers from where it comes."""


@dataclass(frozen=True)
class Rule:
    """Which requests are an audience's, and of a cohort by what it is hashed, and how many of its buckets are in."""

    match: dict[str, Any]
    key: dict[str, Any] | None = None
    share: int = BUCKETS


def rule(chosen: Chosen, weights: dict[str, int]) -> Rule:
    """What routes match by, where everybody else is served as `weights` say."""
    audience = chosen.audience
    if isinstance(audience, Cohort):
        share = sum(chosen.picked(weights).values()) * BUCKETS // 100
        return Rule(_keyed(audience.key), hashed(audience.key), share)
    return Rule(_match(audience))


def _keyed(key: Key) -> dict[str, Any]:
    """That there is a key."""
    some = {"string_match": {"safe_regex": {"regex": ".+"}}}
    match key:
        case Cookie():
            return {"cookies": [{"name": key.name, **some}]}
        case Header():
            return {"headers": [{"name": key.name, **some}]}
        case _:
            return {}


def hashed(key: Key) -> dict[str, Any]:
    match key:
        case Cookie():
            return {"cookie": {"name": key.name}}
        case Header():
            return {"header": {"header_name": key.name}}
        case _:
            return {"connection_properties": {"source_ip": True}}


def _match(audience: Audience) -> dict[str, Any]:
    match audience:
        case HasHeader(name=name, value=value, prefix=prefix):
            return {"headers": [{"name": name, **(_like(value, prefix) or {"present_match": True})}]}
        case HasCookie(name=name, value=value, prefix=prefix):
            some = {"string_match": {"safe_regex": {"regex": ".*"}}}
            return {"cookies": [{"name": name, **(_like(value, prefix) or some)}]}
        case Region():
            found = [ipaddress.ip_network(network) for network in audience.networks]
            ranges = [{"address_prefix": str(one.network_address), "prefix_len": one.prefixlen} for one in found]
            return {"filter_state": [{"key": CLIENT, "address_match": {"ranges": ranges}}]}
        case Device():
            regex = f"(?i).*(?:{audience.pattern}).*"
            return {"headers": [{"name": "user-agent", "string_match": {"safe_regex": {"regex": regex}}}]}
        case Cohort():
            return _keyed(audience.key)


def _like(value: str, prefix: str) -> dict[str, Any] | None:
    return {"string_match": {"exact": value} if value else {"prefix": prefix}} if value or prefix else None
