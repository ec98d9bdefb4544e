"""What HAProxy is told of an entrance: lines of its configuration. Pure.

Format: HAProxy Configuration Manual 2.8, sections 5.1 (`bind`) and 4.2.
"""

from __future__ import annotations

from stages.delivery.certificate import FILE
from stages.delivery.entrance import Entrance


def entered(entrance: Entrance) -> str:
    """Where the frontend listens, and what instances hear of how users came. The certificate lies beside this file."""
    lines = [f"bind {entrance.host}:{entrance.port}"]
    if tls := entrance.tls:
        lines += [
            f"bind {tls.host}:{tls.port} ssl crt {FILE} alpn http/1.1 ssl-min-ver TLSv1.2",
            "http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]",
        ]
    return indented(lines)


def indented(lines: list[str]) -> str:
    return "".join(f"    {line}\n" for line in lines)
