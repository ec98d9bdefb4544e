"""What Envoy is told of an entrance, as pieces of its files. Pure.

API: Envoy's v3, JSON mapping.
"""

from __future__ import annotations

from typing import Any

from stages.delivery.audience import Header
from stages.delivery.balance import Balance, Hashing, LeastConnections, RoundRobin, Sticky
from stages.delivery.entrance import Entrance
from stages.delivery.envoy_audience import hashed
from stages.delivery.rate import RateLimit
from stages.delivery.request_limits import RequestLimits

Message = dict[str, Any]

TYPE = "type.googleapis.com/envoy."
CLIENTS = 100_000
"""Clients that are told apart at once where they may ask so often only; whoever asked longest ago is forgotten."""


def balanced(balance: Balance) -> Message:
    """How a cluster finds an instance within what has a share."""
    match balance:
        case RoundRobin():
            return {}
        case LeastConnections():
            return {"lb_policy": "LEAST_REQUEST"}
        case Hashing() | Sticky():
            return {"lb_policy": "MAGLEV"}  # of a ring, more keys would move than have to when an instance leaves


def keyed(balance: Balance) -> Message:
    """What a route hashes."""
    match balance:
        case Hashing(key=key):
            return {"hash_policy": [hashed(key)]}
        case Sticky(cookie=cookie, lasts=lasts):
            how = [{"name": "SameSite", "value": "Lax"}]
            return {"hash_policy": [{"cookie": {"name": cookie, "ttl": f"{lasts}s", "path": "/", "attributes": how}}]}
        case _:
            return {}


def connected(limits: RequestLimits) -> list[Message]:
    """Filters of a connection."""
    if limits.connections is None:
        return []
    config = {
        "@type": f"{TYPE}extensions.filters.network.connection_limit.v3.ConnectionLimit",
        "stat_prefix": "public",
        "max_connections": limits.connections,
    }
    return [{"name": "envoy.filters.network.connection_limit", "typed_config": config}]


def managed(limits: RequestLimits) -> Message:
    """Settings of the connection manager."""
    found: Message = {}
    if limits.headers is not None:
        found["max_request_headers_kb"] = limits.headers
    if limits.sending is not None:
        found["request_headers_timeout"] = f"{limits.sending:g}s"
    return found


def filters(entrance: Entrance, *, upgraded: bool = False) -> list[Message]:
    """Filters of a request, before it is sent to anybody. One that becomes a WebSocket has no body to wait for."""
    rate, body = entrance.rate, entrance.limits.body
    return [*([limited(rate)] if rate else []), *([whole(body)] if body is not None and not upgraded else [])]


def limited(rate: RateLimit) -> Message:
    """A bucket of tokens for each client. What is refused takes none."""
    bucket = {"max_tokens": rate.requests, "tokens_per_fill": rate.requests, "fill_interval": f"{rate.seconds:g}s"}
    all_of_them = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    address: list[Message] = [{"remote_address": {}}]
    by: list[Message] = [{"actions": address}]
    keys: list[list[Message]] = [[{"key": "remote_address"}]]
    if isinstance(rate.by, Header):
        some = {"name": rate.by.name, "string_match": {"safe_regex": {"regex": ".+"}}}
        none = {"descriptor_key": "without", "descriptor_value": "it", "expect_match": False, "headers": [some]}
        has = {"descriptor_key": "with", "descriptor_value": "it", "headers": [some]}
        value = {"header_name": rate.by.name, "descriptor_key": "client"}
        by = [
            {"actions": [{"header_value_match": has}, {"request_headers": value}]},
            {"actions": [{"header_value_match": none}, *address]},
        ]
        keys = [
            [{"key": "with", "value": "it"}, {"key": "client"}],
            [{"key": "without", "value": "it"}, {"key": "remote_address"}],
        ]
    config = {
        "@type": f"{TYPE}extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        "stat_prefix": "public",
        "filter_enabled": all_of_them,
        "filter_enforced": all_of_them,
        "token_bucket": {"max_tokens": 1 << 30, "tokens_per_fill": 1 << 30, "fill_interval": "1s"},  # of who is in no bucket
        "rate_limits": by,
        "descriptors": [{"entries": entries, "token_bucket": bucket} for entries in keys],
        "max_dynamic_descriptors": CLIENTS,
        "response_headers_to_add": [
            {"header": {"key": "retry-after", "value": str(rate.after)}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
        ],
    }
    return {"name": "envoy.filters.http.local_ratelimit", "typed_config": config}


def whole(most: int) -> Message:
    """Wait for all of a body of which nobody said how large it is; who says it is told at once (`too_large`)."""
    said = {
        "name": "request-headers",
        "typed_config": {"@type": f"{TYPE}type.matcher.v3.HttpRequestHeaderMatchInput", "header_name": "content-length"},
    }
    skip = {"@type": f"{TYPE}extensions.filters.common.matcher.action.v3.SkipFilter"}
    matcher = {
        "predicate": {"single_predicate": {"input": said, "value_match": {"safe_regex": {"google_re2": {}, "regex": ".+"}}}},
        "on_match": {"action": {"name": "skip", "typed_config": skip}},
    }
    buffer = {"@type": f"{TYPE}extensions.filters.http.buffer.v3.Buffer", "max_request_bytes": most}
    config = {
        "@type": f"{TYPE}extensions.common.matching.v3.ExtensionWithMatcher",
        "xds_matcher": {"matcher_list": {"matchers": [matcher]}},
        "extension_config": {"name": "envoy.filters.http.buffer", "typed_config": buffer},
    }
    return {"name": "envoy.filters.http.match_delegate", "typed_config": config}


def too_large(limits: RequestLimits) -> list[Message]:
    """The route of requests that say that they are larger than they may be."""
    if limits.body is None:
        return []
    fits = {"range_match": {"start": 0, "end": limits.body + 1}, "invert_match": True}
    said = [{"name": "content-length", "present_match": True}, {"name": "content-length", **fits}]
    answer = {"status": 413, "body": {"inline_string": "Too large"}}
    return [{"match": {"prefix": "/", "headers": said}, "direct_response": answer}]
