"""What results of host actions depend on besides the action."""

from __future__ import annotations

import os
import sys


def host_platform() -> str:
    """Operating system, processor, C library and interpreter, as in `linux-x86_64-glibc-cpython-3.11`."""
    machine = os.uname()
    version = ".".join(map(str, sys.version_info[:2]))
    return f"{machine.sysname.lower()}-{machine.machine}-{_libc()}-{sys.implementation.name}-{version}"


def _libc() -> str:
    try:
        return "glibc" if os.confstr("CS_GNU_LIBC_VERSION") else "libc"
    except (ValueError, OSError):
        return "libc"  # musl and others do not know the name
