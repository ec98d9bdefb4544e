"""A target: instances of an image as plain processes of this machine, without a container runtime."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio

from pipeline import Store, Work
from pipeline.engines.host import free_port, isolated_python
from stages.delivery import process
from stages.delivery.model import Address, Group, Release
from stages.rootfs import process_of, unpack_image

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalProcesses:
    """Runs each instance as a process that outlives the run; `name` keeps services apart.

    An instance finds the port to listen on in `PORT` and the host in `HOST`. It is asked to end with
    SIGTERM and killed after `patience` seconds.
    """

    name: str
    patience: float = 30.0

    def open(self, work: Work) -> LocalTarget:
        return LocalTarget(
            state=work.state(f"deploy/{self.name}"),
            store=work.store,
            python=isolated_python(work.project.home / "python"),
            secret=work.project.secret,
            patience=self.patience,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalTarget:
    """Below `state`: a directory for each group with the unpacked image and the logs of its instances."""

    state: Path
    store: Store
    python: Path
    secret: Callable[[str], str]
    patience: float

    async def start(self, release: Release) -> Group:
        have = (await self.groups()).get(release.group)
        missing = release.instances - (len(have.instances) if have else 0)
        if missing > 0:
            rootfs = await anyio.to_thread.run_sync(self._unpack, release)
            for _ in range(missing):
                self._start_one(release, rootfs)
        return (await self.groups()).get(release.group) or Group(release.group, ())

    async def unready(self, group: str, path: str) -> str | None:
        import httpx

        instances = (await self.groups()).get(group, Group(group, ())).instances
        if not instances:
            return f"it has ended; its last words: {self._last_words(group)}"
        async with httpx.AsyncClient(timeout=5.0, trust_env=False) as client:
            for address in instances:
                try:
                    answer = await client.get(address.url + path)
                except httpx.HTTPError as error:
                    return f"{address.url}{path}: {type(error).__name__}"
                if answer.status_code != 200:
                    return f"{address.url}{path} answers {answer.status_code}: {answer.text[:200].strip()}"
        return None

    async def stop(self, group: str) -> None:
        async with anyio.create_task_group() as tasks:
            for found in list(process.running(self._mark(group))):
                tasks.start_soon(process.stop, found, self.patience)
        await anyio.to_thread.run_sync(partial(shutil.rmtree, self.state / group, ignore_errors=True))

    async def groups(self) -> dict[str, Group]:
        found: dict[str, list[Address]] = {}
        for one in process.running(self._mark("")):
            group = one.mark.removeprefix(self._mark(""))
            found.setdefault(group.partition(":")[0], []).append(Address(host=HOST, port=int(one.env["PORT"])))
        return {name: Group(name, tuple(sorted(found[name], key=lambda address: address.port))) for name in sorted(found)}

    async def run_once(self, release: Release, command: tuple[str, ...]) -> tuple[int, str]:
        rootfs = await anyio.to_thread.run_sync(self._unpack, release)
        argv, env = process_of(release.image, str(rootfs), self._env(release), command=command)
        done = await anyio.run_process(argv, env=env, cwd=rootfs, check=False, stderr=subprocess.STDOUT)
        return done.returncode, done.stdout.decode(errors="replace")

    def _unpack(self, release: Release) -> Path:
        """The image's files below the group's directory, laid out once."""
        place = self.state / release.group / "rootfs"
        if not place.exists():
            fresh = place.with_name(f"rootfs.{os.getpid()}")
            shutil.rmtree(fresh, ignore_errors=True)
            unpack_image(self.store, release.image, fresh)
            fresh.replace(place)
        return place

    def _start_one(self, release: Release, rootfs: Path) -> None:
        port = free_port()
        argv, env = process_of(release.image, str(rootfs), {**self._env(release), "HOST": HOST, "PORT": str(port)})
        process.start(f"{self._mark(release.group)}:{port}", argv, env, cwd=rootfs, log=self._log(release.group, port))

    def _env(self, release: Release) -> Mapping[str, str]:
        secrets = {name: self.secret(name) for name in release.secrets}
        base = {"PATH": f"{self.python}:/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONNOUSERSITE": "1"}
        return {**base, **release.env, **secrets}

    def _mark(self, group: str) -> str:
        return f"{self.state}:{group}"

    def _log(self, group: str, port: int) -> Path:
        return self.state / group / f"{port}.log"

    def _last_words(self, group: str) -> str:
        logs = sorted((self.state / group).glob("*.log"), key=lambda log: log.stat().st_mtime)
        text = logs[-1].read_text(errors="replace").strip() if logs else ""
        return text.splitlines()[-1] if text else "it said nothing"
