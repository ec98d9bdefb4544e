"""Wait until services are ready: python ready.py SECONDS URL... Standard library only; run in a container.

A URL of HTTP must answer 200; `postgresql://HOST:PORT` must let a session in.
"""

import http.client
import socket
import struct
import sys
import time
import urllib.request


def main(seconds: float, urls: list[str]) -> int:
    """0 once every service was ready; 1, with the last answer, when one was not in time."""
    until = time.monotonic() + seconds
    for url in urls:
        pause = 0.05
        while said := asked(url):
            if time.monotonic() > until:
                print(f"{url} was not ready within {seconds:g} s: {said}")
                return 1
            time.sleep(pause)
            pause = min(pause * 1.5, 0.5)
    return 0


def asked(url: str) -> str:
    """Why the service is not ready; empty when it is."""
    try:
        return of_postgresql(url) if url.startswith("postgresql:") else of_http(url)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__


def of_http(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=2) as answer:
        return "" if answer.status == 200 else f"status {answer.status}"


def of_postgresql(url: str) -> str:
    host, _, port = url.removeprefix("postgresql://").partition(":")
    hello = b"\0\x03\0\0user\0postgres\0\0"  # protocol 3.0
    with socket.create_connection((host, int(port)), timeout=2) as session:
        session.sendall(struct.pack("!i", len(hello) + 4) + hello)
        answer = session.recv(200)
        session.sendall(b"X\0\0\0\x04")
    return "" if answer[:1] == b"R" else repr(answer)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
