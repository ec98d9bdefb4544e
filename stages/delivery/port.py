"""The port users come to: whether a router has it, or could."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable

from pipeline import StageFailed, WiringError
from stages.delivery import process
from stages.delivery.model import Address


def check_port(whose: str, port: int) -> None:
    """Raises WiringError for what is no port."""
    if not (isinstance(port, int) and not isinstance(port, bool) and 1 <= port <= 65_535):
        raise WiringError(f"{whose}: the port is {port!r}", right="a port, from 1 to 65535")


def free(address: Address) -> None:
    """Listen for a moment, as a router would. Raises OSError."""
    family, kind, protocol, _, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that are ending are no listener
        listener.bind(place)
        listener.listen()


def checked(address: Address, router: str, name: str, running: Iterable[process.Process]) -> str:
    """That the router listens there, or could. Raises StageFailed."""
    running = list(running)
    try:
        free(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE and any(process.listens(one, address.port) for one in running):
            return f"{router} listens on {address.summary()}"
        raise StageFailed(
            f"{router} could not listen on {address.summary()}: {error.strerror or error}",
            where=f"{router}(name={name!r}).port",
            right="an address of this machine, and a port that nobody else listens on",
            next=f"ss -atnp 'sport = :{address.port}', which tells who does, or has just done",
        ) from error
    if running:
        return f"{router} runs, and not on {address.summary()}: the next deployment moves it there"
    return f"{address.summary()} is free for {router}"
