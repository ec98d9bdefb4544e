"""The process that surrounds one action on the host, run as `main` of this module. Standard library only.

It leaves the namespaces it can (network, mounts, processes), lays tools in place read-only, starts the
services, waits until they are ready, runs the command, and ends everything it started. Its exit code is
that of the command (128 + n for signal n); 125 means that the sandbox itself failed and says why.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # what only some actions need is imported by them: this starts before every one
    import types
    from typing import Any

FAILED = 125
NEWNS, NEWUSER, NEWPID, NEWNET = 0x00020000, 0x10000000, 0x20000000, 0x40000000  # linux/sched.h
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = (
    1, 2, 4, 8, 32, 4096, 16384, 1 << 18,  # linux/mount.h
)  # fmt: skip
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h

libc = ctypes.CDLL(None, use_errno=True)


class Unready(Exception):
    """A service did not become ready."""


def check(code: int, doing: str) -> None:
    if code != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{doing}: {os.strerror(number)}")


def die_with_parent(parent: int) -> None:
    """Be killed when the parent ends, however it ends."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent != os.getppid():
        sys.exit(FAILED)


def leave(spec: dict[str, Any]) -> None:
    """Leave the namespaces that `spec` names; as an ordinary user by way of a user namespace."""
    flags = (NEWNET if "net" in spec["leave"] else 0) | (NEWNS if "mount" in spec["leave"] else 0)
    flags |= NEWPID if "pid" in spec["leave"] else 0
    if not flags:
        return
    user, group = os.getuid(), os.getgid()
    if user != 0:
        flags |= NEWUSER
    check(libc.unshare(flags), "unshare")
    if user != 0:
        for file, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{file}", "w") as handle:
                handle.write(text)
    if "net" in spec["leave"]:
        loopback_up()
    if "mount" in spec["leave"]:
        check(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "mount / private")
        for source, place in spec["binds"]:
            bind(source.encode(), place.encode())


def loopback_up() -> None:
    """Bring up `lo`, the only interface of a new network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        request = struct.pack("16sh", b"lo", 1)  # IFF_UP
        fcntl.ioctl(handle, 0x8914, request)  # SIOCSIFFLAGS


def bind(source: bytes, place: bytes) -> None:
    """Show `source` at `place`, read-only."""
    check(libc.mount(source, place, None, MS_BIND, None), f"bind {place!r}")
    check(libc.mount(source, place, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, None), "read-only")


def supervise(spec: dict[str, Any]) -> int:
    """Services, then the command; whatever it started is gone when this returns."""
    children: list[subprocess.Popen[bytes]] = []
    command: subprocess.Popen[bytes] | None = None

    def stop(number: int, _: types.FrameType | None) -> None:
        if command is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(command.pid, number)
        else:
            raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    try:
        for service in spec["services"]:
            with open(service["log"], "wb") as log:
                child = start(service, stdout=log)
            children.append(child)
            wait_ready(service, child)
        command = start(spec, stdout=None)
        code = command.wait()
        return 128 - code if code < 0 else code
    except Unready as error:
        print(error, file=sys.stderr)
        return FAILED
    except FileNotFoundError as error:
        what = "directory" if error.filename == spec["cwd"] else "program"
        print(f"{error.filename}: no such {what}", file=sys.stderr)
        return 127
    except PermissionError as error:
        print(f"{error.filename}: not executable", file=sys.stderr)
        return 126
    finally:
        for child in reversed(children):
            end(child)
        end_descendants()


def start(what: dict[str, Any], stdout: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        what["argv"],
        cwd=what["cwd"],
        env=what["env"],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def wait_ready(service: dict[str, Any], child: subprocess.Popen[bytes]) -> None:
    """Return once the service answers; raise Unready with the end of its log when it ends or time is up."""
    until = time.monotonic() + service["within"]
    pause = 0.01
    while not answers(service):
        ended = child.poll()
        if ended is not None or time.monotonic() > until:
            said = f"ended with {ended}" if ended is not None else f"was not ready within {service['within']:g} s"
            with open(service["log"], "rb") as log:
                last = log.read()[-2000:].decode(errors="replace")
            raise Unready(f"service {service['name']} {said}; its last words:\n{last}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.25)


def answers(service: dict[str, Any]) -> bool:
    """Whether a service is ready, as its `ready` says."""
    if service["ready"] == "postgresql":
        return lets_in("127.0.0.1", service["port"])
    if service["ready"]:
        return answers_http(f"http://127.0.0.1:{service['port']}{service['ready']}")
    try:
        with socket.create_connection(("127.0.0.1", service["port"]), timeout=2):
            return True
    except OSError:
        return False


def answers_http(url: str) -> bool:
    """Whether there is a server that answers 200."""
    import http.client
    import urllib.request

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError, http.client.HTTPException):
        return False


def lets_in(host: str, port: int) -> bool:
    """Whether a PostgreSQL server asks who we are, rather than sending us away because it is still starting."""
    hello = b"\0\x03\0\0user\0postgres\0\0"  # protocol 3.0
    try:
        with socket.create_connection((host, port), timeout=2) as session:
            session.sendall(struct.pack("!i", len(hello) + 4) + hello)
            answer = session.recv(1)
            session.sendall(b"X\0\0\0\x04")
            return answer == b"R"
    except OSError:
        return False


def end(child: subprocess.Popen[bytes], patience: float = 5.0) -> None:
    """Ask a process group to end, wait, then kill it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, number)
        try:
            child.wait(timeout=patience)
            return
        except subprocess.TimeoutExpired:
            continue


def end_descendants() -> None:
    """Kill what left its process group; as sub-reaper every orphan below comes to this process."""
    while True:
        mine = children_of(os.getpid())
        for child in mine:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def children_of(parent: int) -> list[int]:
    """Those that still run: one that has ended and waits for somebody to take notice is none."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as stat:
                fields = stat.read().rpartition(b")")[2].decode().split()  # its name may be any bytes
                ended = fields[0] in "ZX" and int(fields[17]) <= 1  # its first thread may have ended before the others
                if int(fields[1]) == parent and not ended:
                    found.append(int(name))
    return found


def first_process(spec: dict[str, Any]) -> int:
    """Fork into the new process namespace, be its process 1, and pass signals on from outside."""
    inner = os.fork()
    if inner == 0:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        check(libc.mount(b"proc", b"/proc", b"proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, None), "mount /proc")
        os._exit(guarded(spec))

    def forward(number: int, _: types.FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(inner, number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)
    _, status = os.waitpid(inner, 0)
    return os.waitstatus_to_exitcode(status)


def guarded(spec: dict[str, Any]) -> int:
    try:
        return supervise(spec)
    except SystemExit as asked:
        return int(asked.code or 0)
    except BaseException as error:
        print(f"sandbox: {type(error).__name__}: {error}", file=sys.stderr)
        return FAILED
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def main(path: str) -> int:
    with open(path) as file:
        spec = json.load(file)
    os.unlink(path)  # it may hold secrets
    die_with_parent(spec["parent"])
    try:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        leave(spec)
        if "pid" in spec["leave"]:
            return first_process(spec)
    except OSError as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return FAILED
    return guarded(spec)
