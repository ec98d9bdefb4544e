"""A target: instances of an image as containers of a Docker daemon."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from pipeline import StageFailed, Store, Work
from pipeline.digest import of_text
from pipeline.engines.local import free_port
from pipeline.numbers import need_numbers
from stages.delivery import durable
from stages.delivery.docker_api import SOON, Daemon, Refused
from stages.delivery.docker_image import archive, identities, reference
from stages.delivery.hosted import RECORDS, HostedTarget, need_free
from stages.delivery.limits import Limits
from stages.delivery.local import HOST, ZONE, group_env
from stages.delivery.model import Address, Group, Release, spread
from stages.delivery.name import check_name
from stages.delivery.probe import Probe, Ready, probe
from stages.delivery.probing import failure, unable, unready
from stages.image import Image

STATE, GROUP, PORT, ZONED, KIND = (f"lockgate.{name}" for name in ("state", "group", "port", "zone", "kind"))
"""The labels by which containers are found again."""

DAEMON = RECORDS["Docker"]
"""The file that says which daemon has the containers."""

FILES = "/run/lockgate"
"""Where containers find the files of their release."""

UP = frozenset({"running", "restarting", "paused"})
"""What containers do that the daemon keeps going."""

TRIES = 3
"""How often a container is made whose port somebody else was quicker to take."""


@dataclass(frozen=True, kw_only=True)
class Docker:
    """Runs each instance as a container of the daemon at `host`; `name` keeps services apart.

    An instance finds `PORT`, `HOST` and the rest as with `LocalProcesses`, its files below /run/lockgate. Its port is published
    on loopback; with `network="host"` it listens there itself. It is asked to end with the image's stop signal, and killed after
    `patience` seconds. Containers are found by their labels, and what they are made of outlives the daemon.
    """

    name: str
    host: str = "unix:///var/run/docker.sock"
    network: str = "bridge"
    patience: float = 30.0
    zones: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        need_numbers(self)
        check_name("Docker", self.name)
        Daemon(self.host)  # which says what is wrong with it

    def open(self, work: Work) -> DockerTarget:
        return DockerTarget(
            state=work.state(f"deploy/{self.name}"),
            store=work.store,
            secret=work.project.secret,
            config=self,
        )


@dataclass(frozen=True, kw_only=True)
class DockerTarget(HostedTarget[Docker]):
    """Below `state`: a directory for each group with what its containers are made of. The rest is the daemon's to tell."""

    @property
    def _daemon(self) -> Daemon:
        return Daemon(self.config.host)

    async def start(self, release: Release, counts: Mapping[str, int] | None = None) -> Group:
        need_free(self.state, "Docker")
        wanted = Counter(counts if counts is not None else spread(release.instances, self.zones or ("",)))
        here = await self._containers(release.group)
        missing = wanted - Counter(_zone(one) for one in here if one["State"] in UP)
        if missing:
            await self._end_what_was_left()
            await self._have_image(release.image)
            (self.state / release.group).mkdir(parents=True, exist_ok=True)
            durable.write(self.state / DAEMON, json.dumps({"host": self.config.host, "patience": self.config.patience}).encode())
            self._kept.keep(release)
            await self._remove([one for one in here if one["State"] not in UP])
            for zone in missing.elements():
                await self._start_one(release, zone)
        return await self._started(release)

    async def _up(self, group: str) -> dict[int, str]:
        return {_address(one).port: _zone(one) for one in await self._containers(group) if one["State"] in UP}

    async def unready(self, group: str, ready: Ready) -> str | None:
        containers = [one for one in await self._containers(group) if one["State"] in UP]
        if not containers:
            return "none of its instances runs"
        return await unready(partial(self._ill, one, ready) for one in containers)

    async def unable(self, group: str, ready: Ready) -> str | None:
        return await unable(partial(self._ill, one, ready) for one in await self._containers(group) if one["State"] in UP)

    async def _ill(self, one: Mapping[str, Any], ready: Ready) -> str | None:
        if one["State"] != "running":
            return f"{_address(one).summary()}: it is {one['State']}"
        return await self.ask(one, probe(ready))

    async def ask(self, one: Mapping[str, Any], asked: Probe) -> str | None:
        """Why an instance is not well, or None."""

        async def run(command: tuple[str, ...]) -> tuple[int, bytes]:
            return await self._beside(one["Id"], command)

        reason = await failure(asked, _address(one), run)
        return None if reason is None else self._masked(self._release(one), reason.encode())[:300].strip()

    def _release(self, one: Mapping[str, Any]) -> Release:
        return self._kept.release(one["Labels"][GROUP])

    async def _beside(self, container: str, command: tuple[str, ...]) -> tuple[int, bytes]:
        made = await self._daemon.post(
            f"/containers/{container}/exec", {"Cmd": list(command), "AttachStdout": True, "AttachStderr": True}
        )
        try:
            said = await self._daemon.stream(f"/exec/{made['Id']}/start", {"Detach": False, "Tty": False})
        except BaseException:
            with anyio.CancelScope(shield=True), suppress(StageFailed):
                await self._kill(container, made["Id"])
            raise
        return int((await self._daemon.get(f"/exec/{made['Id']}/json"))["ExitCode"]), said

    async def _kill(self, container: str, command: str) -> None:
        """End a command beside a container, which the daemon does for nobody: from inside, where it is not ours to end."""
        pid = (await self._daemon.get(f"/exec/{command}/json"))["Pid"]
        if (inside := killed(pid)) is not None:
            made = await self._daemon.post(f"/containers/{container}/exec", {"Cmd": ["kill", "-9", inside], "User": "0"})
            await self._daemon.post(f"/exec/{made['Id']}/start", {"Detach": True})

    async def ended(self, release: Release, wanted: int | None = None) -> str | None:
        wanted = release.instances if wanted is None else wanted
        containers = await self._containers(release.group)
        running = [one for one in containers if one["State"] == "running"]
        if len(running) >= wanted:
            return None
        dead = [one for one in containers if one["State"] != "running"]
        words = "it said nothing"
        for one in dead[:1]:  # the daemon lists the youngest first
            said = await self._daemon.text(f"/containers/{one['Id']}/logs", stdout="1", stderr="1", tail="5")
            lines = self._masked(release, said).strip().splitlines()
            words = lines[-1] if lines else words
        return f"{wanted - len(running)} of {wanted} instances ended; last words: {words}"

    async def stop(self, group: str) -> None:
        await self._forgotten(group)
        running = await self.groups()
        self._kept.announce(running)
        known = self._known()
        for name in {group} | {name for name in known if name not in running and not self._kept.rests(name)}:
            await self._remove(await self._containers(name))
            shutil.rmtree(self.state / name, ignore_errors=True)
        left = {image.digest for image in self._known().values()}
        for image in known.values():
            if image.digest not in left:
                await self._daemon.remove(f"/images/{self.reference(image)}")

    async def groups(self) -> dict[str, Group]:
        found: dict[str, list[Address]] = {}
        containers = await self._containers()
        kept = {name: self._kept.tended(name) for name in {one["Labels"][GROUP] for one in containers}}
        for one in containers:
            if one["State"] in UP or _address(one).port in kept[one["Labels"][GROUP]]:
                found.setdefault(one["Labels"][GROUP], []).append(_address(one))
        return {name: Group(name, tuple(sorted(found[name], key=lambda address: address.port))) for name in sorted(found)}

    async def run_once(self, release: Release, command: tuple[str, ...]) -> tuple[int, str]:
        await self._end_what_was_left()
        await self._have_image(release.image)
        about = {**self._about(release, {}), "Entrypoint": [command[0]], "Cmd": list(command[1:])}
        about["Labels"] = {STATE: str(self.state), KIND: "once"}
        about["HostConfig"] = {**about["HostConfig"], "RestartPolicy": {"Name": "no"}}
        made = await self._daemon.post("/containers/create", about)
        try:
            await self._daemon.post(f"/containers/{made['Id']}/start")
            ended = await self._daemon.post(f"/containers/{made['Id']}/wait", wait=None)
            said = await self._daemon.text(f"/containers/{made['Id']}/logs", stdout="1", stderr="1")
        finally:
            with anyio.CancelScope(shield=True):
                await self._daemon.remove(f"/containers/{made['Id']}", force="1", v="1")
        return int(ended["StatusCode"]), self._masked(release, said)

    async def unlimited(self, release: Release) -> Mapping[str, str]:
        if not release.limits.given:
            return {}
        told = await self._daemon.get("/info")
        can = {"memory": "MemoryLimit", "cpu": "CpuCfsQuota", "pids": "PidsLimit"}
        return {name: "the daemon's kernel cannot" for name in release.limits.given if name in can and not told[can[name]]}

    async def instance(self, group: str, port: int) -> Mapping[str, Any] | None:
        """The container of an instance, as the daemon lists it."""
        return next((one for one in await self._containers(group) if _address(one).port == port), None)

    async def down(self) -> list[str]:
        """End and remove every container of this state; their names."""
        found = await self._containers(kinds=("instance", "once"))
        async with anyio.create_task_group() as tasks:
            for one in found:
                tasks.start_soon(self._end_one, one["Id"])
        (self.state / DAEMON).unlink()
        return [one["Names"][0] for one in found]

    async def _containers(self, group: str = "", kinds: Collection[str] = ("instance",)) -> list[Mapping[str, Any]]:
        """As the daemon lists them, whatever they do, the youngest first."""
        labels = [f"{STATE}={self.state}", *([f"{GROUP}={group}"] if group else [])]
        found = await self._daemon.get("/containers/json", all="1", filters=json.dumps({"label": labels}))
        return [one for one in found if one["Labels"].get(KIND) in kinds]

    async def _start_one(self, release: Release, zone: str) -> None:
        for left in reversed(range(TRIES)):
            port = free_port()
            name = f"lockgate-{of_text(str(self.state))[:8]}-{release.group}-{port}"
            host = HOST if self.config.network == "host" else "0.0.0.0"  # noqa: S104 # nosec B104 - its own network
            own = {**group_env(release, port), "HOST": host, "PORT": str(port), **({ZONE: zone} if zone else {})}
            files, binds = self._files(release)
            about = self._about(release, {**files, **own})
            about["HostConfig"]["Binds"] = binds
            about["Labels"] = {STATE: str(self.state), GROUP: release.group, PORT: str(port), ZONED: zone, KIND: "instance"}
            if self.config.network != "host":
                about["ExposedPorts"] = {f"{port}/tcp": {}}
                about["HostConfig"]["PortBindings"] = {f"{port}/tcp": [{"HostIp": HOST, "HostPort": str(port)}]}
            made = await self._daemon.post("/containers/create", about, name=name)
            try:
                await self._daemon.post(f"/containers/{made['Id']}/start")
                return
            except Refused as error:
                await self._daemon.remove(f"/containers/{made['Id']}", force="1", v="1")
                if not left or not any(word in error.what for word in ("already allocated", "already in use")):
                    raise

    def _about(self, release: Release, own: Mapping[str, str]) -> dict[str, Any]:
        """A container as the daemon is asked for it; the values of secrets are in its environment, and nowhere else."""
        secrets = {name: self.secret(name) for name in release.secrets}
        env = {**release.env, **secrets, **own}
        return {
            "Image": self.reference(release.image),
            "Env": [f"{name}={value}" for name, value in env.items()],
            "HostConfig": {
                "NetworkMode": self.config.network,
                "RestartPolicy": {"Name": release.restart},
                **limited(release.limits),
            },
        }

    def _files(self, release: Release) -> tuple[dict[str, str], list[str]]:
        """What tells instances of the files of their release, and how they are mounted: read-only, one by one."""
        env: dict[str, str] = {}
        binds = []
        for one, place in self._kept.files(release, self.store):
            inside = f"{FILES}/{one.variable}/{one.name}"
            env |= {**one.env, one.variable: inside}
            binds.append(f"{place}:{inside}:ro")
        return env, binds

    def reference(self, image: Image) -> str:
        """The name of the image at the daemon."""
        return reference(image, str(self.state))

    async def _have_image(self, image: Image) -> None:
        """The daemon has this very image under its name."""
        found = await self._daemon.get(f"/images/{self.reference(image)}/json")
        if found is not None and found["Id"] in identities(self.store, image):
            return
        place = self.state / ".image.tar"
        try:
            await anyio.to_thread.run_sync(archive, self.store, image, self.reference(image), place)
            await self._daemon.load(place)
        finally:
            place.unlink(missing_ok=True)

    async def _end(self, group: str, ports: Collection[int] | None = None) -> None:
        async with anyio.create_task_group() as tasks:
            for one in await self._containers(group):
                if ports is None or _address(one).port in ports:
                    tasks.start_soon(self._end_one, one["Id"])

    async def _end_one(self, container: str) -> None:
        await self._told_to("stop", container)
        await self._daemon.remove(f"/containers/{container}", force="1", v="1")

    async def restart(self, one: Mapping[str, Any]) -> None:
        """End a container and start it again, which the daemon does by itself; nothing where there is none."""
        await self._told_to("restart", one["Id"])

    async def _told_to(self, what: str, container: str) -> None:
        patience = self.config.patience
        await self._daemon.post(f"/containers/{container}/{what}", t=str(round(patience)), wait=patience + SOON, missing=True)

    async def _remove(self, containers: Iterable[Mapping[str, Any]]) -> None:
        for one in containers:
            await self._daemon.remove(f"/containers/{one['Id']}", force="1", v="1")

    async def _end_what_was_left(self) -> None:
        """End commands of runs that were killed."""
        await self._remove(await self._containers(kinds=("once",)))

    def _known(self) -> dict[str, Image]:
        """The groups that something is known of, and the image of each."""
        return {place.parent.name: self._kept.release(place.parent.name).image for place in self.state.glob("*/release.json")}


def known(state: Path, store: Store) -> DockerTarget:
    """The target that wrote there which daemon it has its containers at, to take them down."""
    runs = f"docker ps --filter label={STATE}={state}, which tells what runs"
    config = durable.read(
        state / DAEMON,
        lambda content: Docker(name=state.name, **json.loads(content)),
        "the file that says at which daemon the instances are",
        next=runs,
    )
    return DockerTarget(state=state, store=store, secret=os.environ.__getitem__, config=config)


def killed(pid: int) -> str | None:
    """End a process of this machine; what it is called in its own namespace, where this user may not end it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # it has ended
        return None
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return None
    except PermissionError:
        return status.partition("NSpid:")[2].partition("\n")[0].split()[-1]
    return None


def limited(limits: Limits) -> dict[str, Any]:
    """Limits as the daemon takes them; memory is without swap."""
    found: dict[str, Any] = {}
    if limits.memory is not None:
        found |= {"Memory": limits.memory << 20, "MemorySwap": limits.memory << 20}
    if limits.cpu is not None:
        found["NanoCpus"] = round(limits.cpu * 1e9)
    if limits.pids is not None:
        found["PidsLimit"] = limits.pids
    if limits.open_files is not None:
        found["Ulimits"] = [{"Name": "nofile", "Soft": limits.open_files, "Hard": limits.open_files}]
    return found


def _address(container: Mapping[str, Any]) -> Address:
    return Address(host=HOST, port=int(container["Labels"][PORT]), zone=_zone(container))


def _zone(container: Mapping[str, Any]) -> str:
    return str(container["Labels"].get(ZONED, ""))
