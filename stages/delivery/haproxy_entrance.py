"""What HAProxy is told of an entrance: lines of its configuration. Pure.

Format: HAProxy Configuration Manual 2.8, sections 5.1 (`bind`) and 4.2.
"""

from __future__ import annotations

from stages.delivery.balance import Balance, Hashing, LeastConnections, RoundRobin, Sticky
from stages.delivery.certificate import FILE
from stages.delivery.entrance import Entrance
from stages.delivery.haproxy_audience import fetched

USER, NEW = "txn.user", "txn.new"
"""Variables: who asks, and that it is somebody who was given a name only now."""


def entered(entrance: Entrance) -> str:
    """Where the frontend listens, and what instances hear of how users came. The certificate lies beside this file."""
    lines = [f"bind {entrance.host}:{entrance.port}"]
    if tls := entrance.tls:
        lines += [
            f"bind {tls.host}:{tls.port} ssl crt {FILE} alpn http/1.1 ssl-min-ver TLSv1.2",
            "http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]",
        ]
    return indented(lines)


def balanced(balance: Balance) -> str:
    """How a backend finds a server."""
    match balance:
        case RoundRobin():
            return indented(["balance roundrobin"])
        case LeastConnections():
            return indented(["balance random(2)"])
        case Hashing(key=key):
            found = fetched(key)
        case Sticky():
            found = f"var({USER})"
    return indented([f"balance hash {found}", "hash-type consistent sdbm avalanche"])


def recognised(balance: Balance) -> list[str]:
    """How the frontend tells users from each other, where they are to stay on an instance."""
    if not isinstance(balance, Sticky):
        return []
    lasts = f"; Max-Age={balance.lasts}" if balance.lasts else ""
    given = f"{balance.cookie}=%[var({NEW})]; Path=/; HttpOnly; SameSite=Lax{lasts}"
    without = f"if !{{ req.cook({balance.cookie}),length gt 0 }}"
    return [
        f"http-request set-var({USER}) req.cook({balance.cookie})",
        f"http-request set-var({NEW}) uuid {without}",
        f"http-request set-var({USER}) var({NEW}) {without}",
        f'http-response add-header Set-Cookie "{given}" if {{ var({NEW}) -m found }}',
    ]


def indented(lines: list[str]) -> str:
    return "".join(f"    {line}\n" for line in lines)
