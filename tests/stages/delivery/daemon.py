"""A real Docker daemon for tests, and an image with an interpreter of its own, which needs no registry."""

from __future__ import annotations

import contextlib
import os
import py_compile
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import Stage, Tree, Work
from stages.image import BuildImage, Placed
from stages.source import WorkingCopy

RUNNING = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")

PROGRAM = Path(sys._base_executable).resolve()  # type: ignore[attr-defined]

ALONE = ("unshare", "--mount", "--propagation", "slave")
"""How a daemon is started whose mounts end with it: it leaves that of its network namespace behind, and nobody could remove the
directory it is in."""

IMPORTS = "itertools, json, os, resource, signal, socket, socketserver, threading, time, urllib.parse, encodings.idna"
"""What the small service and the commands of the tests import. All modules would be 68 MB, which are packed, sent to another
machine and unpacked there by each test."""

SAYS_WHAT_IT_LOADED = r"import sys; print(*(getattr(one, '__file__', None) for one in sys.modules.values()), sep='\n')"


def answers(host: str) -> bool:
    """Whether a daemon does."""
    if not host.startswith("unix://"):
        return False
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as one:
        one.settimeout(5)
        one.connect(host.removeprefix("unix://"))
        one.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
        return b" 200 " in one.recv(100)
    return False


@contextlib.contextmanager
def daemon() -> Iterator[str]:
    """Where a daemon listens: one that runs, else one of these tests' own, which ends with them; else the test is skipped."""
    if answers(RUNNING):
        yield RUNNING
        return
    if os.geteuid() != 0 or not shutil.which("dockerd"):
        pytest.skip("no Docker daemon runs, and these tests may not start one: it takes root, and dockerd (Debian: docker.io)")
    place = Path(tempfile.mkdtemp(prefix="lockgate-dockerd-"))  # not pytest's, which is too long for a socket
    with started(place) as host:
        yield host
    shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def started(place: Path) -> Iterator[str]:
    """A daemon with all it has below `place`, without bridges or rules of its own; skips where the machine lets none run."""
    host = f"unix://{place}/sock"
    argv = [
        *ALONE,
        "dockerd",
        "-H",
        host,
        "--data-root",
        f"{place}/data",
        "--exec-root",
        f"{place}/exec",
        "--pidfile",
        f"{place}/pid",
    ]
    argv += ["--iptables=false", "--ip6tables=false", "--bridge=none"]
    with (place / "log").open("ab") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
    try:
        until = time.monotonic() + 60
        while not answers(host):
            if process.poll() is not None:
                pytest.skip(f"dockerd does not start here: {(place / 'log').read_text().splitlines()[-1:]}")
            assert time.monotonic() < until, (place / "log").read_text()
            time.sleep(0.1)
        yield host
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


class MachinePython(Stage[Tree]):
    """This machine's interpreter with what the small service loads, below /usr/local of an image."""

    version: str = sys.version

    async def run(self, work: Work) -> Tree:
        with tempfile.TemporaryDirectory() as name:
            lay_out(Path(name))
            return work.store.put_tree(Path(name))


def lay_out(top: Path) -> None:
    """The interpreter, its modules, and the libraries that they load."""
    library = Path(sysconfig.get_path("stdlib"))
    place = top / "usr/local/lib" / library.name
    modules = _modules(library)
    wanted = {PROGRAM: top / "usr/local/bin/python", **{one: place / one.relative_to(library) for one in modules}}
    for program in (PROGRAM, *(one for one in modules if one.suffix == ".so")):
        wanted |= {one: top / str(one).lstrip("/") for one in _loaded(program)}
    for found, inside in wanted.items():
        inside.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(found, inside)
    # By content, as an image has no times; without it each instance would compile them anew, which takes longer than all else.
    for one in place.rglob("*.py"):
        py_compile.compile(str(one), doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)


def _modules(library: Path) -> set[Path]:
    """The files of the standard library that are loaded where `IMPORTS` are."""
    argv = [str(PROGRAM), "-I", "-c", f"import {IMPORTS}; {SAYS_WHAT_IT_LOADED}"]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    found = {Path(line) for line in said.splitlines() if line.startswith("/")}
    return {one for one in found if one.is_relative_to(library) and "site-packages" not in one.parts}


def _loaded(program: Path) -> set[Path]:
    """The shared libraries of a program, by the paths under which it looks for them."""
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    words = (word for line in said.splitlines() for word in line.split())
    return {Path(word) for word in words if word.startswith("/") and Path(word).is_file()}


def container_image() -> BuildImage:
    """The small service with its interpreter."""
    source = WorkingCopy(include=("serve.py",))
    return BuildImage(
        layers=(MachinePython(), Placed(tree=source, at="/app")),
        entrypoint=("/usr/local/bin/python", "/app/serve.py"),
        env=(("PATH", "/usr/local/bin"), ("PYTHONHOME", "/usr/local"), ("LD_LIBRARY_PATH", _libraries())),
    )


def _libraries() -> str:
    return ":".join(sorted({str(one.parent) for one in _loaded(PROGRAM)}))
