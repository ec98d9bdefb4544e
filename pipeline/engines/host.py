"""The host engine: every action in a fresh directory of this machine.

An action sees only its declared inputs, a scrubbed environment, an interpreter without site-packages and
a HOME of its own. Its processes end with it. Network is refused by a network namespace where the system
allows one; where it does not, the result says `not enforced`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import anyio
import anyio.abc

from pipeline.action import Action, ActionResult, Network
from pipeline.data import Blob, Tree
from pipeline.engine import Listener
from pipeline.engines import sandbox
from pipeline.engines.layout import check_layout
from pipeline.engines.local import free_port, isolated_python, search_path
from pipeline.engines.log import Log
from pipeline.engines.network import network_environment, passwords
from pipeline.engines.outputs import collect
from pipeline.engines.platform import host_platform
from pipeline.errors import EngineError
from pipeline.scratch import Scratch, sweep
from pipeline.service import Service, fill
from pipeline.store import Store, unwritable

LEVELS = (("net", "mount", "pid"), ("net", "mount"), ("net",), ())
"""Sets of namespaces, the best first; the first that this system allows is used."""

PATIENCE = 2.0
"""Seconds that a cancelled action has for each of: an interrupt, a request to end, being killed."""

IMPORTED = "import sys; sys.path.append(sys.argv[1]); import sandbox; sys.exit(sandbox.main(sys.argv[2]))"
"""Runs the sandbox as a module: as a script it would be compiled for every action."""

LAUNCHER = (sys.executable, "-I", "-S", "-c", IMPORTED, os.path.dirname(sandbox.__file__))
"""What runs the sandbox: the interpreter without anybody's site-packages."""


class HostEngine:
    """Executes actions on this machine. `secret` turns the name of a secret into its value."""

    name = "host"

    def __init__(self, store: Store, home: Path, secret: Callable[[str], str]) -> None:
        self._store, self._home, self._secret = store, home, secret
        self._level: tuple[str, ...] | None = None

    @property
    def platform(self) -> str:
        return host_platform()

    async def __aenter__(self) -> Self:
        self._python = isolated_python(self._home / "python")
        await anyio.to_thread.run_sync(sweep)
        await anyio.to_thread.run_sync(self._store.sweep)
        self._level = await anyio.to_thread.run_sync(best_level)
        return self

    async def __aexit__(self, *exception: object) -> None:
        return None

    async def execute(self, action: Action, log: Path, listen: Listener) -> ActionResult:
        if self._level is None:
            raise EngineError("the engine was not entered", right="async with engine")
        if action.dockerfile:
            raise EngineError(
                "a Dockerfile is built by a container engine, and this is the host",
                where=action.dockerfile,
                right="--engine dagger; or the stage BuildImage, which needs no container engine",
                next="python -m pipeline doctor",
            )
        level = tuple(part for part in self._level if part != "net") if action.network else self._level
        started = time.monotonic()
        scratch = await anyio.to_thread.run_sync(Scratch)
        try:
            root = scratch.path / "root"
            spec = await anyio.to_thread.run_sync(self._prepare, action, scratch.path, root, level)
            secrets = [*map(self._secret, action.secrets.values()), *passwords(_network_of(action))]
            code, tail = await self._run(spec, scratch.path, log, listen, secrets)
            outputs = await anyio.to_thread.run_sync(collect, action, root, self._store)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(scratch.remove)
        return ActionResult(
            action=action,
            exit_code=code,
            log=log,
            tail=tail.decode(errors="replace"),
            outputs=outputs,
            seconds=time.monotonic() - started,
            network=_network(action, level),
        )

    def _prepare(self, action: Action, place: Path, root: Path, level: tuple[str, ...]) -> dict[str, Any]:
        """Lay out the directory and describe what the sandbox is to do in it."""
        binds: list[tuple[str, str]] = []
        check_layout(self._store, inputs=action.inputs, tools=action.tools, caches=action.caches)
        self._lay_out(root, action.inputs, action.tools, binds, bind="mount" in level)
        for path, cache in action.caches.items():
            kept = self._home / "caches" / cache
            kept.mkdir(parents=True, exist_ok=True)
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).symlink_to(kept)
        services: list[dict[str, Any]] = []
        found: dict[str, str] = {}
        for service in action.services:
            port = service.port if "net" in level else free_port()
            services.append(self._service(service, place / service.name, port, found, binds, bind="mount" in level))
            found |= service.address("127.0.0.1", port)
        env = {**self._environment(action, root), **found}
        env |= {key: fill(value, str(root), found) for key, value in action.env.items()}
        env |= {variable: self._secret(name) for variable, name in action.secrets.items()}
        return {
            "parent": os.getpid(),
            "leave": list(level),
            "binds": binds,
            "services": services,
            "argv": [fill(part, str(root), found) for part in action.argv],
            "cwd": str(root / action.cwd),
            "env": env,
        }

    def _service(
        self, service: Service, place: Path, port: int, found: dict[str, str], binds: list[tuple[str, str]], *, bind: bool
    ) -> dict[str, Any]:
        """What the sandbox needs to know of a service; `found` are the addresses of those before it."""
        root = place / "root"
        check_layout(self._store, inputs=service.inputs, tools=service.tools)
        self._lay_out(root, service.inputs, service.tools, binds, bind=bind)
        env = {key: fill(value, str(root), found) for key, value in service.env.items()}
        return {
            "name": service.name,
            "argv": [fill(part, str(root), found) for part in service.argv],
            "cwd": str(root),
            "env": {**self._base(root), **found, "PORT": str(port), "HOST": "127.0.0.1", **env},
            "port": port,
            "ready": service.ready,
            "within": service.within,
            "log": str(place / "log"),
        }

    def _lay_out(
        self,
        root: Path,
        inputs: Mapping[str, Tree | Blob],
        tools: Mapping[str, Tree],
        binds: list[tuple[str, str]],
        *,
        bind: bool,
    ) -> None:
        for directory in (root / ".home", root / ".tmp"):
            directory.mkdir(parents=True)
        for path, content in inputs.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            self._store.lay_out(content, root / path)
        for path, tree in tools.items():
            place = root / path
            place.parent.mkdir(parents=True, exist_ok=True)
            if bind:
                place.mkdir()
                binds.append((str(self._store.shared(tree)), str(place)))
            else:  # what is shared could be written, and what a later run takes from it would be another's work
                self._store.lay_out(tree, place)

    def _environment(self, action: Action, root: Path) -> dict[str, str]:
        return {**self._base(root), **_network_of(action)}

    def _base(self, root: Path) -> dict[str, str]:
        return {
            "PATH": search_path(self._python),
            "HOME": str(root / ".home"),
            "TMPDIR": str(root / ".tmp"),
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONNOUSERSITE": "1",
        }

    async def _run(self, spec: dict[str, Any], place: Path, log: Path, listen: Listener, secrets: list[str]) -> tuple[int, bytes]:
        """The exit code and the end of the log. Cancelled, it ends the sandbox and everything in it."""
        described = place / "spec.json"
        described.touch(mode=0o600)
        described.write_text(json.dumps(spec))
        command = [*LAUNCHER, str(described)]
        try:
            process = await anyio.open_process(
                command, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True, env={"LANG": "C.UTF-8"}
            )
        except OSError as error:
            raise EngineError(f"a process cannot be started: {error.strerror}", next="python -m pipeline doctor") from error
        try:
            with log.open("wb") as file:
                said = Log(file, secrets, listen)
                async for piece in _output(process):
                    said.write(piece)
                said.end()
            return await process.wait(), said.tail
        except OSError as error:
            raise unwritable(log, error) from error
        finally:
            with anyio.CancelScope(shield=True):
                await _end(process)
                await process.aclose()


@functools.cache
def best_level() -> tuple[str, ...]:
    """The first of LEVELS under which a command runs on this system."""
    for level in LEVELS:
        with Scratch() as scratch:
            spec = scratch.path / "spec.json"
            description: dict[str, Any] = {"parent": os.getpid(), "leave": level, "binds": [], "services": []}
            command = {"argv": [sys.executable, "-I", "-S", "-c", "pass"], "cwd": str(scratch.path), "env": {}}
            spec.write_text(json.dumps(description | command))
            tried = subprocess.run([*LAUNCHER, str(spec)], capture_output=True, timeout=30, check=False)
        if tried.returncode == 0:
            return level
    return ()


def _network_of(action: Action) -> dict[str, str]:
    return network_environment(os.environ) if action.network else {}


def _network(action: Action, level: tuple[str, ...]) -> Network:
    if action.network:
        return "allowed"
    return "refused" if "net" in level else "not enforced"


def _output(process: anyio.abc.Process) -> anyio.abc.ByteReceiveStream:
    if process.stdout is None:
        raise EngineError("the process was started without a pipe")
    return process.stdout


async def _end(process: anyio.abc.Process) -> None:
    """Interrupt, then terminate, then kill the sandbox with everything below it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if process.returncode is not None:
            return
        process.send_signal(number)
        with anyio.move_on_after(PATIENCE):
            await process.wait()
    with anyio.move_on_after(PATIENCE):
        while process.returncode is None and (below := _descendants(process.pid)):
            for pid in below:  # first, while the sandbox is there for what they start meanwhile: orphans come to it
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            await anyio.sleep(0.01)  # nobody tells when the child of another process has ended
    if process.returncode is None:
        process.kill()
        await process.wait()


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for child in sandbox.children_of(pid):
        found += [child, *_descendants(child)]
    return found
