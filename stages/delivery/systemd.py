"""A target: instances of an image as units of systemd, on a machine that is reached by SSH."""

from __future__ import annotations

import contextlib
import io
import ipaddress
import json
import os
import random
import re
import shlex
import shutil
import tarfile
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import anyio

from pipeline import StageFailed, Store, WiringError, Work
from pipeline.numbers import need_numbers
from pipeline.scratch import Scratch
from stages.delivery import durable, unit
from stages.delivery.hosted import RECORDS, HostedTarget, need_free
from stages.delivery.local import ONCE, ZONE, group_env
from stages.delivery.model import Address, Group, Release, spread
from stages.delivery.name import check_name
from stages.delivery.probe import Probe, Ready, probe
from stages.delivery.probing import failure, unable, unready
from stages.delivery.ssh import Ssh
from stages.rootfs import unpack_image

MACHINE = RECORDS["systemd"]
"""The file that says on which machine the units are."""

SETTINGS = ("host", "address", "place", "ssh_config")
"""What is written down of the settings there."""

NOBODY = "nobody"
"""What stands in the names of units of a target that never had any."""

UNITS, TRANSIENT = "/etc/systemd/system", "/run/systemd/system"
"""Where units are that outlive a reboot, and those that do not."""

WANTS = f"{UNITS}/multi-user.target.wants"
"""Where it says which of them a boot starts."""

PORTS = range(20_000, 32_768)
"""Of these an instance gets one that nobody listens on: below those that Linux gives to who asks for any."""

UP = frozenset({"active", "activating", "reloading", "deactivating"})
"""States of units that run or are about to."""

ZONED = re.compile(r"[A-Za-z0-9_.]*")
"""What a zone may be called where it is a part of a unit's name."""


@dataclass(frozen=True, kw_only=True)
class Systemd:
    """Runs each instance as a unit of systemd on `host`, a machine that `ssh` reaches as a user who may do so, as root may.

    `address` is where instances listen there, and where the router finds them; `place` is the directory of their files. An
    instance finds `PORT`, `HOST` and the rest as with `LocalProcesses`, its files below /run/lockgate, and sees the image's own
    file system. It comes back after a reboot. It is asked to end with SIGTERM, and killed after `patience` seconds.
    """

    name: str
    host: str
    address: str
    place: str = "/var/lib/lockgate"
    ssh_config: str = ""
    """The file in the place of ~/.ssh/config, where there is another one."""
    patience: float = 30.0
    zones: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        need_numbers(self)
        check_name("Systemd", self.name)
        where = f"Systemd(name={self.name!r})"
        if not self.patience > 0:
            raise WiringError(f"{where}.patience is {self.patience}", right="more than 0 seconds")
        if not self.host or self.host.startswith("-"):
            raise WiringError(f"{where}.host is {self.host!r}", right="a machine as ssh is told it: user@address")
        try:
            ipaddress.IPv4Address(self.address)
        except ValueError as error:  # a name would have to mean the same to the machine, and to whatever router there is
            raise WiringError(f"{where}.address is {self.address!r}", right="an IPv4 address of the machine: 10.0.0.5") from error
        if not re.fullmatch(r"(/[A-Za-z0-9_-][A-Za-z0-9_.-]*){2,}", self.place):
            right = "a directory of its own: an absolute path of two names or more, of letters, digits, _, - and ."
            raise WiringError(f"{where}.place is {self.place!r}", right=right)
        if wrong := [zone for zone in self.zones if not zone or not ZONED.fullmatch(zone)]:
            raise WiringError(f"{where}.zones has {wrong[0]!r}", right="names of letters, digits, _ and .")

    def open(self, work: Work) -> SystemdTarget:
        return SystemdTarget(
            state=work.state(f"deploy/{self.name}"),
            store=work.store,
            secret=work.project.secret,
            config=replace(self, ssh_config=str(work.project.root / self.ssh_config) if self.ssh_config else ""),
        )


@dataclass(frozen=True, order=True)
class Instance:
    """An instance by what its unit's name says of it."""

    group: str
    port: int
    zone: str

    @property
    def called(self) -> str:
        """What stands behind the @."""
        return f"{self.port}-{self.zone}" if self.zone else str(self.port)


@dataclass(frozen=True, kw_only=True)
class SystemdTarget(HostedTarget[Systemd]):
    """Below `state`: a directory for each group with its release. The rest is the other machine's to tell."""

    @property
    def ssh(self) -> Ssh:
        return Ssh(self.config.host, self.state, self.config.ssh_config)

    @property
    def _machine(self) -> dict[str, str]:
        return {name: getattr(self.config, name) for name in SETTINGS}

    @property
    def _mine(self) -> str:
        """How the names of units begin that are this target's; nobody else's do, wherever that one has its state."""
        told = recorded(self.state)
        return f"lockgate-{told['identity'] if told else NOBODY}"

    def _claim(self) -> None:
        """Write down where the units are. Raises StageFailed where the target had its instances elsewhere."""
        told = recorded(self.state)
        fixed = ("host", "address", "place")
        other = [f"{name} {told[name]}" for name in fixed if told and told[name] != getattr(self.config, name)]
        need_free(self.state, "systemd", f"with {' and '.join(other)}" if other else "")
        identity = told["identity"] if told else os.urandom(8).hex()
        durable.write(self.state / MACHINE, json.dumps({**self._machine, "identity": identity}).encode())

    def _template(self, group: str) -> str:
        return f"{self._mine}-{group}@"

    def _unit(self, one: Instance) -> str:
        return f"{self._template(one.group)}{one.called}.service"

    def _place(self, group: str = "") -> str:
        top = f"{self.config.place}/{self._mine}"
        return f"{top}/{group}" if group else top

    async def start(self, release: Release, counts: Mapping[str, int] | None = None) -> Group:
        unit.need_plain(release)
        self._claim()
        wanted = Counter(counts if counts is not None else spread(release.instances, self.zones or ("",)))
        here = await self._units(release.group)
        missing = wanted - Counter(one.zone for one, state in here.items() if state in UP)
        if missing:
            (self.state / release.group).mkdir(parents=True, exist_ok=True)
            self._kept.keep(release)
            await self._have(release)
            await self._forgotten(release.group, {one.port for one, state in here.items() if state not in UP})
            ports = await self._free(missing.total())
            places = zip(ports, missing.elements(), strict=True)
            await self._begin(release, [Instance(release.group, port, zone) for port, zone in places])
        return await self._started(release)

    async def _up(self, group: str) -> dict[int, str]:
        return {one.port: one.zone for one, state in (await self._units(group)).items() if state in UP}

    async def unready(self, group: str, ready: Ready) -> str | None:
        units = {one: state for one, state in (await self._units(group)).items() if state in UP}
        if not units:
            return "none of its instances runs"
        return await unready(partial(self._ill, one, state, ready) for one, state in units.items())

    async def unable(self, group: str, ready: Ready) -> str | None:
        units = (await self._units(group)).items()
        return await unable(partial(self._ill, one, state, ready) for one, state in units if state in UP)

    async def _ill(self, one: Instance, state: str, ready: Ready) -> str | None:
        if state != "active":
            return f"{self._address(one).summary()}: it is {state}"
        return await self.ask(one, probe(ready))

    async def ask(self, one: Instance, asked: Probe) -> str | None:
        """Why an instance is not well, or None."""
        release = self._kept.release(one.group)

        async def run(command: tuple[str, ...]) -> tuple[int, bytes]:
            settings = [
                *unit.inside(release, self._place(one.group)),
                f"EnvironmentFile={self._place(one.group)}/{one.called}.env",
            ]
            name = f"{self._mine}-asked-{os.urandom(4).hex()}"
            return await self._to_its_end(name, settings, unit.found(release, command), asked.within)

        reason = await failure(asked, self._address(one), run)
        return None if reason is None else self._masked(release, reason.encode())[:300].strip()

    async def ended(self, release: Release, wanted: int | None = None) -> str | None:
        wanted = release.instances if wanted is None else wanted
        units = await self._units(release.group)
        running = {one for one, state in units.items() if state in UP}
        if len(running) >= wanted:
            return None
        said = await self.ssh.run(_last_words(self._place(release.group), sorted(running)))
        words = self._masked(release, said.output).strip() if said.code == 0 else ""
        return f"{wanted - len(running)} of {wanted} instances ended; last words: {words or 'it said nothing'}"

    async def stop(self, group: str) -> None:
        await self._forgotten(group)
        running = await self.groups()
        self._kept.announce(running)
        known = {place.parent.name for place in self.state.glob("*/release.json")}
        for name in {group} | {name for name in known if name not in running and not self._kept.rests(name)}:
            if name != group:
                await self._end(name)
            template = f"{UNITS}/{self._template(name)}.service"
            place = shlex.quote(self._place(name))
            files = f"{shlex.quote(template)} {shlex.quote(template)}.unfinished {place} {place}.unfinished"
            await self.ssh.must(f"rm -rf {files} && systemctl daemon-reload")
            shutil.rmtree(self.state / name, ignore_errors=True)

    async def groups(self) -> dict[str, Group]:
        found: dict[str, list[Address]] = {}
        units = await self._units()
        kept = {name: self._kept.tended(name) for name in {one.group for one in units}}
        for one, state in sorted(units.items()):
            if state in UP or one.port in kept[one.group]:
                found.setdefault(one.group, []).append(self._address(one))
        return {name: Group(name, tuple(found[name])) for name in sorted(found)}

    async def unlimited(self, release: Release) -> Mapping[str, str]:
        needed = {name: unit.CONTROLLERS[name] for name in release.limits.given if name in unit.CONTROLLERS}
        if not needed:
            return {}
        told = await self.ssh.must(
            "cat /sys/fs/cgroup/cgroup.controllers 2>/dev/null || awk '$4 == 1 { print $1 }' /proc/cgroups"
        )
        return {name: "the machine's kernel has no such controller" for name, one in needed.items() if one not in told.split()}

    async def run_once(self, release: Release, command: tuple[str, ...]) -> tuple[int, str]:
        once = replace(release, files=())
        name = f"{self._mine}-once"
        left = shlex.quote(f"{self._place()}/{ONCE}")
        await self.ssh.must(f"systemctl stop '{name}*'; rm -rf {left}*")  # of a run that was killed
        with Scratch(self.state, ONCE) as scratch:
            place = f"{self._place()}/{scratch.path.name}"
            try:
                await self._lay_out(once, place)
                code, said = await self._to_its_end(name, unit.inside(once, place), unit.found(once, command))
            finally:
                with anyio.CancelScope(shield=True):
                    await self.ssh.run(f"systemctl stop '{name}*'; rm -rf {shlex.quote(place)}")
        return code, self._masked(release, said)

    async def instance(self, group: str, port: int) -> Instance | None:
        """The one with this port, whatever it does."""
        return next((one for one in await self._units(group) if one.port == port), None)

    async def restart(self, one: Instance) -> None:
        """End an instance and start it again, which is systemd's to do from here on, whoever lives."""
        await self.ssh.must(f"systemctl restart --no-block {shlex.quote(self._unit(one))}")

    async def down(self) -> list[str]:
        """End and remove every unit of this target, and its files; the names of units."""
        units = await self._units()
        await self._remove(units)
        left = f"{shlex.quote(self._place())} {UNITS}/{self._mine}-*.service* {WANTS}/{self._mine}-*.service"
        gone = f"rm -rf {left}; systemctl daemon-reload; systemctl reset-failed '{self._mine}-*' 2>/dev/null || true"
        await self.ssh.must(f"systemctl stop '{self._mine}-*'; {gone}")
        await self.ssh.close()
        (self.state / MACHINE).unlink()
        return [self._unit(one) for one in sorted(units)]

    async def _units(self, group: str = "") -> dict[Instance, str]:
        """The instances that there are, and what systemd says of each; those that ended are there until they are removed."""
        place, template = shlex.quote(self._place()), self._template(group or "*")
        # What systemd does not tell must never be taken for nothing: its own failure is one, that there are no files is none.
        listed = await self.ssh.must(
            f"units=$(systemctl list-units --all --plain --no-legend '{template}*.service');"
            f" printf '%s\\n' \"$units\" | awk '{{ print $1, $3 }}';"
            f" cd {place} 2>/dev/null && find . -mindepth 2 -maxdepth 2 -path './{group or '*'}/*.env' || true"
        )
        found: dict[Instance, str] = {}
        for line in listed.splitlines():
            if line.startswith("./"):
                name, called = line.removeprefix("./").removesuffix(".env").split("/")
                if (one := _instance(name, called)) is not None:
                    found.setdefault(one, "inactive")
            elif line.strip():
                unit_name, state = line.split()
                name, _, called = unit_name.removeprefix(f"{self._mine}-").removesuffix(".service").partition("@")
                if (one := _instance(name, called)) is not None:
                    found[one] = state
        return found

    async def _have(self, release: Release) -> None:
        """The machine has the files of the group, and its unit."""
        place = self._place(release.group)
        if (await self.ssh.run(f"test -d {shlex.quote(place)}")).code != 0:
            await self._lay_out(release, place)
        template = f"{UNITS}/{self._template(release.group)}.service"
        text = unit.service(release, place, self.config.patience)
        fresh = shlex.quote(f"{template}.unfinished")
        await self.ssh.must(
            f"cat > {fresh} && sync {fresh} && mv {fresh} {shlex.quote(template)} && systemctl daemon-reload", text.encode()
        )

    async def _lay_out(self, release: Release, place: str) -> None:
        """The image's file system, the release's files and its environment, in one step."""
        with Scratch(self.state, ".image-") as scratch:
            await unpack_image(self.store, release.image, scratch.path / "rootfs")
            archive = scratch.path / "all.tar"
            await anyio.to_thread.run_sync(self._pack, release, scratch.path / "rootfs", archive)
            fresh = shlex.quote(f"{place}.unfinished")
            await self.ssh.must(
                f"rm -rf {fresh} && mkdir -p {fresh} && chmod 700 {shlex.quote(self._place())} {fresh}"
                f" && tar -xpf - -C {fresh} --no-same-owner && sync -f {fresh} && mv {fresh} {shlex.quote(place)}",
                archive,
            )

    def _pack(self, release: Release, rootfs: Path, archive: Path) -> None:
        secrets = {name: self.secret(name) for name in release.secrets}
        found = self._kept.files(release, self.store)
        told = {name: value for one, _ in found for name, value in one.env.items()}
        inside = {one.variable: f"{unit.FILES}/{one.variable}/{one.name}" for one, _ in found}
        env = unit.environment({**release.image.env, **release.env, **secrets, **told, **inside})
        with tarfile.open(archive, "w") as tar:
            tar.add(rootfs, "rootfs")
            for name in ("files", "rootfs/proc", "rootfs/sys", "rootfs/dev", "rootfs/run", "rootfs/tmp", "rootfs/etc"):
                if name == "files" or not (rootfs.parent / name).exists():
                    tar.addfile(_directory(name))
            for one, path in found:
                tar.add(path, f"files/{one.variable}/{one.name}")
            about = tarfile.TarInfo("env")
            about.size, about.mode = len(env.encode()), 0o600
            tar.addfile(about, io.BytesIO(env.encode()))

    async def _begin(self, release: Release, instances: Collection[Instance]) -> None:
        place = self._place(release.group)
        for one in instances:
            own = {**group_env(release, one.port, self.config.address), "HOST": self.config.address, "PORT": str(one.port)}
            own |= {ZONE: one.zone} if one.zone else {}
            await self.ssh.must(f"umask 077 && cat > {shlex.quote(f'{place}/{one.called}.env')}", unit.environment(own).encode())
        units = " ".join(shlex.quote(self._unit(one)) for one in instances)
        await self.ssh.must(f"systemctl enable --quiet {units} && systemctl start --no-block {units}")

    async def _end(self, group: str, ports: Collection[int] | None = None) -> None:
        await self._remove(one for one in await self._units(group) if ports is None or one.port in ports)

    async def _remove(self, instances: Iterable[Instance]) -> None:
        """End instances, which nobody starts again, and forget them; what they said stays as long as their group."""
        gone = sorted(instances)
        if not gone:
            return
        units = " ".join(shlex.quote(self._unit(one)) for one in gone)
        files = " ".join(shlex.quote(f"{self._place(one.group)}/{one.called}.env") for one in gone)
        links = " ".join(shlex.quote(f"{WANTS}/{self._unit(one)}") for one in gone)
        script = (
            f"systemctl stop {units} 2>/dev/null || true",  # one that never loaded is none that could be stopped
            f"left=$(systemctl is-active {units} | grep -cvE '^(inactive|failed|unknown)$' || true)",
            'test "$left" = 0 || { echo "$left of the units do not end" >&2; exit 1; }',
            f"rm -f {files} {links}",
            f"systemctl reset-failed {units} 2>/dev/null || true",
        )
        await self.ssh.must("; ".join(script))

    async def _free(self, many: int) -> list[int]:
        """Ports that nobody listens on there."""
        told = await self.ssh.must("cat /proc/net/tcp /proc/net/tcp6 2>/dev/null || cat /proc/net/tcp")
        taken = {
            int(fields[1].rpartition(":")[2], 16)
            for line in told.splitlines()
            if len(fields := line.split()) > 3 and ":" in fields[1]
        }
        taken |= {one.port for one in await self._units()}
        return random.sample(sorted(set(PORTS) - taken), many)  # nosec B311 - no secret

    async def _to_its_end(
        self, name: str, settings: Iterable[str], command: tuple[str, ...], within: float | None = None
    ) -> tuple[int, bytes]:
        """Run a command of an image to its end, which is ended after so many seconds; exit code, or minus the signal it died of,
        and what it said. Nothing is left of it, unless the machine is not reached any more: there it goes on as long as it may.
        """
        file, output = f"{TRANSIENT}/{name}.service", f"/run/{name}.output"
        script = "; ".join(
            (
                f"trap 'rm -f {file} {output}' EXIT",
                f"cat > {file}",
                "systemctl daemon-reload",
                f"systemctl start {name}.service 2>/dev/null || true",
                f"systemctl show --property=ExecMainCode --property=ExecMainStatus --value {name}.service",
                f"cat {output}",
                f"systemctl reset-failed {name}.service 2>/dev/null || true",
            )
        )
        try:
            done = await self.ssh.run(script, unit.once(settings, command, output, within).encode())
        except BaseException:
            with anyio.CancelScope(shield=True), contextlib.suppress(StageFailed):
                gone = f"rm -f {file} {output}; systemctl daemon-reload"  # or what was about to start it would do so now
                reset = f"systemctl reset-failed '{name}*' 2>/dev/null || true"
                await self.ssh.run(f"systemctl stop '{name}*'; {gone}; {reset}")
            raise
        lines = done.output.split(b"\n", 2)
        if done.code != 0 or len(lines) < 3:
            raise StageFailed(f"{self.config.host}: {name} does not run: {done.said}", where=self.config.host)
        status = int(lines[1])
        return (status if int(lines[0]) == os.CLD_EXITED else -status), lines[2]

    def _address(self, one: Instance) -> Address:
        return Address(host=self.config.address, port=one.port, zone=one.zone)


def _last_words(place: str, running: Iterable[Instance]) -> str:
    """What to run for the last line that any instance said which does not run."""
    others = " ".join(f"! -name {shlex.quote(f'{one.called}.log')}" for one in running)
    youngest = f"find . -name '*.log' {others} -printf '%T@ %p\\n' | sort -n | tail -n 1 | cut -d' ' -f2-"
    return f'cd {shlex.quote(place)} && tail -n 1 "$({youngest})"'


def _instance(group: str, called: str) -> Instance | None:
    """The instance that is called so; None where that is no name of one."""
    port, _, zone = called.partition("-")
    return Instance(group, int(port), zone) if port.isdecimal() else None


def _directory(name: str) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.mode = tarfile.DIRTYPE, 0o755
    return found


def recorded(state: Path) -> dict[str, str]:
    """What was written down of the machine that has the units, and how these are called; nothing where there never was any."""
    place = state / MACHINE
    if not place.exists():
        return {}

    def meaning(content: bytes) -> dict[str, str]:
        told = json.loads(content)
        return {name: str(told[name]) for name in (*SETTINGS, "identity")}

    runs = "systemctl list-units 'lockgate-*' on that machine, which tells what runs there"
    return durable.read(place, meaning, "the file that says on which machine the instances are", next=runs)


def known(state: Path, store: Store) -> SystemdTarget:
    """The target that wrote there on which machine it has its units, to take them down."""
    told = recorded(state)
    host, address, place, ssh_config = (told[name] for name in SETTINGS)
    config = Systemd(name=state.name, host=host, address=address, place=place, ssh_config=ssh_config)
    return SystemdTarget(state=state, store=store, secret=os.environ.__getitem__, config=config)
