"""What Envoy is told of an entrance, as pieces of its files. Pure.

API: Envoy's v3, JSON mapping.
"""

from __future__ import annotations

from typing import Any

from stages.delivery.balance import Balance, Hashing, LeastConnections, RoundRobin, Sticky
from stages.delivery.envoy_audience import hashed

Message = dict[str, Any]


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
