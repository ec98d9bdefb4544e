"""A target: instances of an image as plain processes of this machine, without a container runtime."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio

from pipeline import StageFailed, Store, Work
from pipeline.engines.local import free_port, isolated_python, search_path
from pipeline.masking import Masker
from pipeline.numbers import need_numbers
from pipeline.scratch import Scratch, sweep
from stages.delivery import process
from stages.delivery.acts import Acts
from stages.delivery.hosted import PLAIN, need_free
from stages.delivery.kept import SUPERVISOR, Kept
from stages.delivery.limits import bounded, unbounded
from stages.delivery.metrics import GROUP
from stages.delivery.model import Address, Group, Release, spread
from stages.delivery.name import check_name
from stages.delivery.probe import Probe, Ready, probe
from stages.delivery.probing import accepts, failure, unable, unready
from stages.delivery.wanted import Wanted
from stages.rootfs import process_of, unpack_image

HOST = "127.0.0.1"

ONCE = ".once-"
"""How the names of the directories of commands that run once begin."""

ZONE = "ZONE"
"""The variable that names the zone of an instance, where there are any."""

BEGINS = 30.0
"""Seconds in which a supervisor has to start what is wanted."""

ATTRIBUTES = "OTEL_RESOURCE_ATTRIBUTES"

SECRETS = "LOCKGATE_SECRETS"
"""The variable in which an instance carries the names of its secrets: who quotes it has to know what to leave out."""


@dataclass(frozen=True, kw_only=True)
class LocalProcesses:
    """Runs each instance as a process that outlives the run; `name` keeps services apart.

    An instance finds the port to listen on in `PORT` and the host in `HOST`, and the name of its group in `RELEASE_GROUP` and,
    as the resource attribute `release.group` beside its `service.instance.id`, in `OTEL_RESOURCE_ATTRIBUTES`. It is asked to end
    with SIGTERM and killed after `patience` seconds. `zones` are spread evenly over the instances, which find theirs in `ZONE`:
    on one machine they are but names, by which a rollout takes its time.
    """

    name: str
    patience: float = 30.0
    zones: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        need_numbers(self)
        check_name("LocalProcesses", self.name)

    def open(self, work: Work) -> LocalTarget:
        return LocalTarget(
            state=work.state(f"deploy/{self.name}"),
            store=work.store,
            python=isolated_python(work.project.home / "python"),
            secret=work.project.secret,
            patience=self.patience,
            zones=self.zones,
        )


@dataclass(frozen=True, kw_only=True)
class LocalTarget:
    """Below `state`: a directory for each group with the unpacked image, which is its own, and the logs of its instances.

    Who calls is the only one at work here: stages hold the lock of the deployment meanwhile.
    """

    state: Path
    store: Store
    python: Path
    secret: Callable[[str], str]
    patience: float
    zones: tuple[str, ...] = ()

    @property
    def _kept(self) -> Kept:
        return Kept(self.state)

    async def start(self, release: Release, counts: Mapping[str, int] | None = None) -> Group:
        need_free(self.state, PLAIN)
        wanted = Counter(counts if counts is not None else spread(release.instances, self.zones or ("",)))
        missing = wanted - Counter(one.env.get(ZONE, "") for one in self._running(release.group))
        if missing or (release.restart != "no" and not self._kept.supervisors(release.group)):
            await self._end_what_was_left()
            await self._unpacked(release)
            self._kept.keep(release)
            fresh = {free_port(): zone for zone in missing.elements()}
            if release.restart == "no":
                for port, zone in fresh.items():
                    await self.begin(release, port, zone)
            else:
                await self._have_started(release, fresh)
        groups = await self.groups()
        self._kept.announce(groups)
        return groups.get(release.group) or Group(release.group, ())

    async def unready(self, group: str, ready: Ready) -> str | None:
        instances = self._running(group)
        if not instances:
            return "none of its instances runs"
        ports = {_address(one).port for one in instances}
        down = [one for one in self._looked_after(group) if one.port not in ports]
        if down and self._kept.supervisors(group):
            return f"it is started again: {', '.join(one.summary() for one in down)}"
        return await unready(partial(self._ill, one, ready) for one in instances)

    async def unable(self, group: str, ready: Ready) -> str | None:
        return await unable(partial(self._ill, one, ready) for one in self._running(group))

    async def _ill(self, one: process.Process, ready: Ready) -> str | None:
        address = _address(one)
        if not (await accepts(address) and process.listens(one, address.port)):
            return f"it does not listen on {address.summary()}"
        return await self.ask(one, probe(ready))

    async def ask(self, instance: process.Process, asked: Probe) -> str | None:
        """Why an instance is not well, or None."""

        async def run(command: tuple[str, ...]) -> tuple[int, bytes]:
            return await self._beside(instance, command)

        reason = await failure(asked, _address(instance), run)
        return None if reason is None else _quoted(instance, reason)[:300].strip()

    async def _beside(self, instance: process.Process, command: tuple[str, ...]) -> tuple[int, bytes]:
        """Run a command with the files and the environment of an instance."""
        group = self._group(instance)
        release = self._kept.release(group)
        rootfs = self.state / group / "rootfs"
        given = {name: value for name, value in instance.env.items() if name != process.MARK}
        argv, env = process_of(release.image, str(rootfs), given, command=command)
        try:
            done = await anyio.run_process(argv, env=env, cwd=rootfs, check=False, stderr=subprocess.STDOUT)
        except OSError as error:
            return 127, f"{argv[0]} cannot be started: {error.strerror}".encode()
        return done.returncode, done.stdout

    def _group(self, instance: process.Process) -> str:
        return instance.mark.removeprefix(f"{self.state}:").partition(":")[0]

    async def ended(self, release: Release, wanted: int | None = None) -> str | None:
        wanted = release.instances if wanted is None else wanted
        running = [_address(one).port for one in self._running(release.group)]
        if len(running) >= wanted:
            return None
        logs = [log for log in self.logs(release.group) if int(log.stem) not in running]
        said = max(logs, key=lambda log: log.stat().st_mtime).read_bytes() if logs else b""
        lines = self._masker(release).mask(said).decode(errors="replace").strip().splitlines()
        words = lines[-1] if lines else "it said nothing"
        return f"{wanted - len(running)} of {wanted} instances ended; last words: {words}"

    async def retire(self, group: str, instances: Collection[Address]) -> None:
        ports = {one.port for one in instances}
        await self._kept.forget(group, ports)
        await self._end_all([one for one in self._running(group) if _address(one).port in ports])
        self._kept.announce(await self.groups())

    async def rest(self, group: str) -> None:
        if not self._kept.file(group).exists():
            raise StageFailed(
                f"nothing is known by which {group} could be started again: it was deployed by an older Lockgate",
                where=str(self._kept.file(group)),
                right="a deployment by another strategy first",
            )
        self._kept.let_rest(group)  # first: what has ended otherwise is removed
        await self._end(group)
        self._kept.announce(await self.groups())

    async def retain(self, group: str) -> None:
        if self._kept.file(group).exists():
            self._kept.let_rest(group)

    async def resting(self) -> frozenset[str]:
        return self._kept.resting(await self.groups())

    async def again(self, group: str) -> Group:
        running = (await self.groups()).get(group)
        if running is not None and not self._kept.file(group).exists():
            return running
        return await self.start(self._kept.startable(group))

    async def readiness(self, group: str) -> Ready | None:
        return self._kept.readiness(group)

    async def stop(self, group: str) -> None:
        await self._end(group)
        groups = await self.groups()
        self._kept.announce(groups)
        await anyio.to_thread.run_sync(self._remove, group, set(groups))

    async def _end(self, group: str) -> None:
        await self._kept.forget(group)
        await self._end_all(self._running(group))

    async def _have_started(self, release: Release, fresh: Mapping[int, str]) -> None:
        """Have the group's supervisor start instances, so that it learns how they end; returns once it has.

        Instances that it was about to start again are left to it no more: others come in their place. Raises StageFailed.
        """
        wanted, acts = self.wanted(release.group), self.acts(release.group)
        log = self._kept.supervisor_log(release.group)
        before = len(list(acts.all()))
        async with wanted.held():
            running = {_address(one).port: _address(one).zone for one in self._running(release.group)}
            wanted.write({**running, **fresh})
        places = {"store": str(self.store.root), "python": str(self.python), "patience": self.patience}
        secrets = {name: self.secret(name) for name in release.secrets}
        await self._kept.supervise(release.group, "stages.delivery.supervisor", places, secrets)
        with anyio.move_on_after(BEGINS):
            while set(fresh) - {one.port for one in list(acts.all())[before:]} and self._kept.supervisors(release.group):
                await anyio.sleep(0.02)
        if set(fresh) - {one.port for one in list(acts.all())[before:]}:
            said = log.read_text(errors="replace").strip().splitlines()
            raise StageFailed(
                f"the supervisor of {release.group} starts nothing: {said[-1] if said else 'it says nothing'}", where=str(log)
            )

    def wanted(self, group: str) -> Wanted:
        """The instances that a supervisor looks after."""
        return self._kept.wanted(group)

    def _looked_after(self, group: str) -> list[Address]:
        """The instances that its supervisor is to keep going, where it has one."""
        return [Address(host=HOST, port=port, zone=zone) for port, zone in self.wanted(group).read().items()]

    def acts(self, group: str) -> Acts:
        """What the group's supervisor did."""
        return self._kept.acts(group)

    async def _end_all(self, instances: Iterable[process.Process]) -> None:
        async with anyio.create_task_group() as tasks:
            for one in instances:
                tasks.start_soon(process.stop, one, self.patience)

    async def groups(self) -> dict[str, Group]:
        found: dict[str, set[Address]] = {}
        for one in _first_of_each(process.running(str(self.state))):
            if one.mark.startswith(f"{self.state}:"):
                found.setdefault(self._group(one), set()).add(_address(one))
            elif one.mark.startswith(f"{self.state}/") and one.mark.endswith(f":{SUPERVISOR}"):
                group = one.mark.removeprefix(f"{self.state}/").partition(":")[0]
                found.setdefault(group, set()).update(self._looked_after(group))  # also while it waits to start them again
        return {name: Group(name, tuple(sorted(found[name], key=lambda address: address.port))) for name in sorted(found)}

    async def run_once(self, release: Release, command: tuple[str, ...]) -> tuple[int, str]:
        await self._end_what_was_left()
        with Scratch(self.state, ONCE) as scratch:
            rootfs = scratch.path / "rootfs"
            await unpack_image(self.store, release.image, rootfs)
            argv, env = process_of(release.image, str(rootfs), self._env(release), command=command)
            code, output = await self._to_its_end(scratch.path, argv, env, cwd=rootfs)
        return code, self._masker(release).mask(output).decode(errors="replace")

    async def _end_what_was_left(self) -> None:
        """End commands of runs that were killed: what they do is done again, and nothing is to begin beside it."""
        for found in process.running(f"{self.state}/{ONCE}"):
            await process.stop(found, self.patience)
        sweep(self.state, ONCE)

    async def _to_its_end(self, place: Path, argv: tuple[str, ...], env: Mapping[str, str], *, cwd: Path) -> tuple[int, bytes]:
        """Exit code and output of a process. Its family is not left, whatever happens here meanwhile.

        Who left it, with another session and another environment, is not found: a target isolates nobody.
        """
        mark, log = f"{place}:", place / "log"
        pid = await process.start(mark, argv, env, cwd=cwd, log=log)
        try:
            return await process.ended(pid), log.read_bytes()
        finally:
            with anyio.CancelScope(shield=True):
                await process.stop(process.Process(pid, mark, env), self.patience)

    def _masker(self, release: Release) -> Masker:
        return Masker([self.secret(name) for name in release.secrets])

    def _running(self, group: str) -> list[process.Process]:
        return list(_first_of_each(process.running(f"{self.state}:{group}:")))

    async def _unpacked(self, release: Release) -> Path:
        """The image's files below the group's directory, laid out once."""
        place = self.state / release.group / "rootfs"
        if not place.exists():
            fresh = place.with_name("rootfs.unfinished")
            shutil.rmtree(fresh, ignore_errors=True)
            await unpack_image(self.store, release.image, fresh)
            fresh.replace(place)
        return place

    def _remove(self, group: str, running: set[str]) -> None:
        """Remove what this group leaves, and any other that has ended otherwise: with the machine, or on its own.

        Renamed first, so that half of it is never taken for the whole.
        """
        for name in {group} | ({place.name for place in self.state.glob("[!.]*/")} - running - self._kept.resting()):
            gone = self.state / f".gone-{name}"
            shutil.rmtree(gone, ignore_errors=True)
            if (self.state / name).exists():
                (self.state / name).rename(gone)
            shutil.rmtree(gone, ignore_errors=True)

    async def begin(self, release: Release, port: int, zone: str = "") -> process.Process:
        """Start one instance of a release that is unpacked."""
        rootfs = self.state / release.group / "rootfs"
        own = {**group_env(release, port), "HOST": HOST, "PORT": str(port), **({ZONE: zone} if zone else {})}
        argv, env = process_of(release.image, str(rootfs), {**self._env(release), **own, **self._files(release)})
        env[SECRETS] = " ".join(release.secrets)
        argv = bounded(argv, release.limits)
        mark, log = f"{self.state}:{release.group}:{port}", self.state / release.group / f"{port}.log"
        return process.Process(await process.start(mark, argv, env, cwd=rootfs, log=log), mark, env)

    def instance(self, group: str, port: int) -> process.Process | None:
        """The instance that has the port."""
        return next((one for one in self._running(group) if _address(one).port == port), None)

    def _files(self, release: Release) -> dict[str, str]:
        """What tells instances of the files of their release."""
        found: dict[str, str] = {}
        for one, place in self._kept.files(release, self.store):
            found |= {**one.env, one.variable: str(place)}
        return found

    async def unlimited(self, release: Release) -> Mapping[str, str]:
        return unbounded(release.limits)

    def logs(self, group: str) -> list[Path]:
        return sorted((self.state / group).glob("*.log"))

    def _env(self, release: Release) -> Mapping[str, str]:
        secrets = {name: self.secret(name) for name in release.secrets}
        base = {"PATH": search_path(self.python), "LANG": "C.UTF-8", "PYTHONNOUSERSITE": "1"}
        return {**base, **release.env, **secrets}


def group_env(release: Release, port: int, host: str = HOST) -> dict[str, str]:
    """By what an instance tells which one it is, and of which group; the attributes as OpenTelemetry's SDKs read them."""
    own = {"release.group": release.group, "service.instance.id": f"{host}:{port}"}
    given = release.env.get(ATTRIBUTES, "")
    named = {pair.partition("=")[0].strip() for pair in given.split(",")}
    attributes = [*filter(None, [given]), *(f"{name}={value}" for name, value in own.items() if name not in named)]
    return {GROUP: release.group, ATTRIBUTES: ",".join(attributes)}


def _first_of_each(running: Iterable[process.Process]) -> Iterator[process.Process]:
    """One process for each mark, the oldest: another one was started by it, and has another parent by now."""
    seen = set[str]()
    for one in running:
        if one.mark not in seen:
            seen.add(one.mark)
            yield one


def _address(instance: process.Process) -> Address:
    """By its mark, which has the port: of its environment a process that an instance started may have made anything."""
    return Address(host=HOST, port=int(instance.mark.rpartition(":")[2]), zone=instance.env.get(ZONE, ""))


def _quoted(instance: process.Process, text: str) -> str:
    """What an instance said, without its secrets."""
    secrets = [instance.env[name] for name in instance.env.get(SECRETS, "").split() if name in instance.env]
    return Masker(secrets).mask(text.encode()).decode(errors="replace")
