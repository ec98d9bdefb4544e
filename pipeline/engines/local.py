"""What running programs on this machine needs: an interpreter of one's own, open files and free ports."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import sys
from pathlib import Path

from pipeline.errors import EngineError
from pipeline.store import unwritable

LOWEST_PORT = 10240
"""Below it are the ports that services are known by."""

LEAST_FILES = 64
"""File descriptors that a run needs for itself and a few actions at once."""


def isolated_python(directory: Path) -> Path:
    """A directory with a `python` that runs this interpreter without anybody's site-packages."""
    base = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    place = directory / f"{base.parent.parent.name}-{'.'.join(map(str, sys.version_info[:3]))}"
    programs = place / "bin"
    if not (programs / "python3").exists():
        try:
            programs.mkdir(parents=True, exist_ok=True)
            (place / "pyvenv.cfg").write_text(f"home = {base.parent}\ninclude-system-site-packages = false\n")
            for name in ("python", "python3"):
                link = programs / name
                fresh = programs / f".{name}-{os.getpid()}"
                fresh.unlink(missing_ok=True)  # of a process with the same number, which a broken disk stopped in between
                fresh.symlink_to(base)
                fresh.replace(link)
        except OSError as error:
            raise unwritable(directory, error) from error
    return programs


def check_open_files() -> None:
    """Raises EngineError where a run could open so few files that whatever comes first would break."""
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= limit < LEAST_FILES:
        raise EngineError(
            f"the limit of file descriptors is {limit}",
            right=f"at least {LEAST_FILES}; 1024 is usual",
            next="ulimit -n 1024, then the same command again",
        )


def search_path(python: Path) -> str:
    """PATH of what runs on this machine: the isolated interpreter in `python`, then the system's programs."""
    return f"{python}:/usr/local/bin:/usr/bin:/bin"


def free_port() -> int:
    """A port that nobody listened on a moment ago; where it can be, one that no connection gets by chance meanwhile."""
    apart = range(LOWEST_PORT, _first_of_connections())
    for port in random.sample(apart, min(32, len(apart))):
        with socket.socket() as handle, contextlib.suppress(OSError):
            handle.bind(("127.0.0.1", port))
            return port
    with socket.socket() as handle:
        handle.bind(("127.0.0.1", 0))
        any_port: int = handle.getsockname()[1]
        return any_port


def _first_of_connections() -> int:
    """The lowest port that the system gives to connections on its own."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 32768
