"""What deployments cost users: requests that are lost, how long switches take, how exact splits are; real processes and routers.

Two releases run beside each other and are switched between while a process of its own sends requests, as many as the machine
takes, up to 2,000 a second. Every answer says which release gave it, and when that got the request.
"""

from __future__ import annotations

import json
import math
import os
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio

from benchmarks.figure import ROOT, Figure, python
from gates import Check, ErrorRate, Judge, QualityGate
from gates.size import SizeReport
from gates.verdict import Verdict, passed
from pipeline import Journal, Pipeline, Project, StageFailed, Store
from pipeline.engines.local import free_port
from pipeline.settings import Settings
from stages.delivery import process
from stages.delivery.down import down
from stages.delivery.envoy import Envoy, EnvoyRouter
from stages.delivery.haproxy import HAProxy, HAProxyRouter
from stages.delivery.local import LocalTarget
from stages.delivery.model import Group, Release
from stages.delivery.rolling import Rolling
from stages.delivery.rollout import Rollout
from stages.delivery.router import Mirrors
from stages.delivery.strategy import BlueGreen, Canary, Recreate
from stages.image import BuildImage, Image, ImageSize, Placed
from stages.source import WorkingCopy
from tests.running import run_pipeline
from tests.stages.delivery.papers import Authority, Files, fingerprint, shown
from tests.stages.delivery.place import local_target

RATE = 2_000.0
SERVICE = Path(__file__).with_name("service.py")


def _haproxy(port: int, state: Path) -> HAProxyRouter:
    return HAProxyRouter(config=HAProxy(name="app", port=port), ready="/readyz", state=state)


def _envoy(port: int, state: Path) -> EnvoyRouter:
    return EnvoyRouter(config=Envoy(name="app", port=port), ready="/readyz", state=state)


ROUTERS: dict[str, Callable[[int, Path], HAProxyRouter | EnvoyRouter]] = {"HAProxy": _haproxy, "Envoy": _envoy}


@dataclass
class Users:
    """What users met: version and moment of each answer, and what went wrong."""

    answers: list[tuple[str, float]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def last(self, version: str, *, after: float, before: float) -> float | None:
        """When that version last got a request in that time."""
        return max((moment for one, moment in self.answers if one == version and after <= moment < before), default=None)

    @property
    def number(self) -> int:
        """Of requests."""
        return len(self.answers) + len(self.failures)

    @property
    def rate(self) -> float:
        """Requests a second."""
        moments = [moment for _, moment in self.answers]
        return self.number / (max(moments) - min(moments))


def measure(
    *, switches: int = 200, rate: float = RATE, requests: int = 10_500, routers: Iterable[str] = tuple(ROUTERS)
) -> Iterator[Figure]:
    """`requests` are those by which each split is measured. Figures without the name of a router are HAProxy's."""
    for name in routers:
        with tempfile.TemporaryDirectory(prefix="lockgate-bench-") as place:
            bench = Bench.at(Path(place), rate, name)
            try:
                for figure in _all(bench, switches, requests):
                    yield figure if name == "HAProxy" else replace(figure, name=f"{name}: {figure.name}")
            finally:
                anyio.run(down, bench.project)


def _all(bench: Bench, switches: int, requests: int) -> Iterator[Figure]:
    yield from flips(bench, switches)
    yield from canaries(bench, switches)
    yield from rolled(bench, switches)
    if isinstance(bench.router, Mirrors):
        yield from shadowed(bench, switches)
    yield from certificates(bench, switches)
    yield from others(bench, switches)
    yield from split(bench, requests)
    yield from aborts(bench, max(switches // 20, 1))
    yield from recreated(bench, max(switches // 40, 1))


@dataclass
class Bench:
    """A target, a router, and an image to release."""

    project: Project
    target: LocalTarget
    router: HAProxyRouter | EnvoyRouter
    image: Image
    rate: float
    events: list[tuple[float, str, dict[str, Any]]] = field(default_factory=list)
    """What was journalled, and when."""

    @staticmethod
    def at(place: Path, rate: float, router: str = "HAProxy") -> Bench:
        root, home = place / "project", place / "home"
        root.mkdir()
        home.mkdir()
        (root / "service.py").write_bytes(SERVICE.read_bytes())
        subprocess.run(["git", "init", "-q", root], check=True)
        project = Project(root=root, home=home, settings=Settings())
        store = Store(home / "store")
        for directory in ("deploy", "router"):
            (home / "state" / directory / "app").mkdir(parents=True)
        target = local_target(project, store)
        found = ROUTERS[router](free_port(), home / "state" / "router" / "app")
        return Bench(project, target, found, _image(project, store), rate)

    def release(self, version: str, **env: str) -> Release:
        return Release(image=self.image, env={"VERSION": version, **env}, instances=2)

    def rollout(self, release: Release) -> Rollout:
        def note(kind: str, **data: Any) -> None:
            self.events.append((time.monotonic(), kind, data))

        return Rollout(self.target, self.router, release, note)

    def noted(self, kind: str) -> list[tuple[float, dict[str, Any]]]:
        return [(moment, data) for moment, found, data in self.events if found == kind]

    @contextmanager
    def users(self, authority: Authority | None = None) -> Iterator[Users]:
        """Users who ask all the time; what they met is known at the end. By HTTPS, with an authority that they trust."""
        found = Users()
        with tempfile.TemporaryDirectory() as place:
            file, trusted = Path(place, "met"), Path(place, "trusted.pem")
            port = self.router.config.port
            secured: list[str] = []
            if authority is not None and self.router.config.tls is not None:
                trusted.write_bytes(authority.pem)
                port, secured = self.router.config.tls.port, [str(trusted)]
            command = python("-m", "benchmarks.load", str(port), str(self.rate), str(file), *secured)
            with subprocess.Popen(command, cwd=ROOT) as load:
                try:
                    time.sleep(1.0)  # so many requests are to be under way
                    yield found
                    time.sleep(0.5)
                finally:
                    load.send_signal(signal.SIGTERM)
                    load.wait(60)
            met = json.loads(file.read_text())
        found.answers, found.failures = [(one, moment) for one, moment in met["answers"]], met["failures"]


def flips(bench: Bench, switches: int) -> Iterator[Figure]:
    """Blue-green: all traffic from one group to the other, again and again.

    How long a switch takes is told with as many requests as the machine takes, where everything waits for everything, and held
    to with half of them.
    """
    a, b = bench.release("a"), bench.release("b")

    async def begin() -> dict[str, Group]:
        for one in (a, b):
            await bench.rollout(one).forward(BlueGreen())
        return await bench.target.groups()

    groups = anyio.run(begin)
    for part, limit in ((1.0, None), (0.5, 50)):
        less = replace(bench, rate=part * bench.rate)
        users, took = _flipped(less, (a, b), groups, switches)
        name = f"blue-green at {less.rate:,.0f} requests a second"
        yield lost(name, switches, users)
        longest = f"{name}: from the decision to the last request the old side got, the longest"
        yield Figure(longest, max(took), "ms", limit, detail=f"median {statistics.median(took):.1f} ms")


def _flipped(
    bench: Bench, releases: tuple[Release, Release], groups: dict[str, Group], switches: int
) -> tuple[Users, list[float]]:
    """What users met, and milliseconds of each switch."""
    decided: list[tuple[float, str]] = []

    async def main() -> None:
        for number in range(switches):
            release, old = releases[number % 2], releases[1 - number % 2]
            decided.append((time.monotonic(), old.env["VERSION"]))
            await bench.router.split({release.group: 100}, groups)
            await anyio.sleep(0.1)

    with bench.users() as users:
        anyio.run(main)
    took = []
    for (moment, old), following in zip(decided, [*(when for when, _ in decided[1:]), time.monotonic()], strict=True):
        last = users.last(old, after=moment, before=following)
        took.append(1000 * ((last or moment) - moment))
    return users, took


def canaries(bench: Bench, switches: int) -> Iterator[Figure]:
    """Canary: one share after the other, up and down."""
    shares = Canary().shares
    a, b = bench.release("a"), bench.release("b")

    async def main() -> None:
        groups = await _both(bench, a, b)
        for number in range(switches):
            share = shares[number % len(shares)]
            await bench.router.split({a.group: 100 - share, b.group: share}, groups)
            await anyio.sleep(0.05)

    with bench.users() as users:
        anyio.run(main)
    yield lost("canary", switches, users)


def rolled(bench: Bench, switches: int) -> Iterator[Figure]:
    """Rolling: instance after instance of one release is replaced by one of the other."""
    a, b = bench.release("a"), bench.release("b")

    async def begin() -> None:
        for one in (a, b):
            await bench.rollout(one).forward(BlueGreen())

    async def main() -> None:
        for number in range(switches):
            await bench.rollout((a, b)[number % 2]).forward(Rolling())

    anyio.run(begin)
    with bench.users() as users:
        anyio.run(main)
    yield lost("rolling", switches, users)


def shadowed(bench: Bench, switches: int) -> Iterator[Figure]:
    """Shadow: copies of half of the requests are sent to the other release, and no more, again and again."""
    a, b = bench.release("a"), bench.release("b")

    async def main() -> None:
        groups = await _both(bench, a, b)
        await bench.router.split({a.group: 100}, groups)
        for _ in range(switches):
            async with bench.router.mirror(groups[b.group].instances[0], 50):  # type: ignore[union-attr]  # one that can
                await anyio.sleep(0.05)

    with bench.users() as users:
        anyio.run(main)
    yield lost("shadow", switches, users)


def certificates(bench: Bench, switches: int) -> Iterator[Figure]:
    """The certificate that users are shown is another one, again and again; each is seen before the next."""
    plain, authority = bench.router.config, Authority()
    files = Files(bench.project.home, free_port())
    a = bench.release("a")
    wrong = 0

    async def begin() -> None:
        files.write(authority.pair("localhost"))
        bench.router.config, bench.router.pair = replace(plain, tls=files.tls), files.read
        await bench.rollout(a).forward(BlueGreen())
        await bench.router.certify()

    async def main() -> None:
        nonlocal wrong
        for _ in range(switches):
            pair = authority.pair("localhost")
            files.write(pair)
            await bench.router.certify()
            wrong += await anyio.to_thread.run_sync(shown, files.port, authority.trusting) != fingerprint(pair)

    anyio.run(begin)
    with bench.users(authority) as users:
        anyio.run(main)
    yield lost("certificates, users by HTTPS", switches, users)
    yield Figure(f"certificates, {switches} times: who connects after a switch and sees another one", wrong, "", 0)
    bench.router.config = plain


def others(bench: Bench, switches: int) -> Iterator[Figure]:
    """What else happens: other settings of the router, which a new process takes over, and instances that are killed."""
    a, b = bench.release("a"), bench.release("b")

    async def reloads() -> None:
        groups = await _both(bench, a, b)
        for number in range(switches):
            bench.router.config = replace(bench.router.config, timeout=30.0 + number % 2)
            await bench.router.split({a.group: 100}, groups)
            await anyio.sleep(0.1)

    async def kills() -> None:
        await _both(bench, a, b)
        for _ in range(switches):
            victim = next(iter(process.running(f"{bench.target.state}:{a.group}:")))
            os.kill(victim.pid, signal.SIGKILL)
            while process.alive(victim):  # or it would be taken for one of those that run
                await anyio.sleep(0.005)
            await bench.target.start(a)
            while await bench.target.unready(a.group, a.ready) is not None:
                await anyio.sleep(0.02)
            await bench.router.split({a.group: 100}, await bench.target.groups())

    for name, happens in (("settings of the router taken over", reloads), ("instances killed", kills)):
        with bench.users() as users:
            anyio.run(happens)
        yield lost(name, switches, users)


def split(bench: Bench, requests: int) -> Iterator[Figure]:
    """How near the shares are to what was asked for."""
    a, b = bench.release("a"), bench.release("b")
    worst, told = 0.0, []
    for share in (1, 5, 25, 50):

        async def main(part: int = share) -> float:
            await bench.router.split({a.group: 100 - part, b.group: part}, await _both(bench, a, b))
            return time.monotonic()

        since = anyio.run(main)
        with bench.users() as users:
            time.sleep(requests / bench.rate)
        versions = [version for version, moment in users.answers if moment > since]
        found = 100 * versions.count("b") / len(versions)
        told.append(f"{share} %: {found:.2f} % of {len(versions):,}")
        worst = max(worst, abs(found - share))
    yield Figure("share of the traffic against what was asked for, the worst", worst, "points", 0.5, detail="; ".join(told))


def aborts(bench: Bench, rollouts: int) -> Iterator[Figure]:
    """A canary that fails one in fifty requests, with 25 %: how long until it gets none after the tick that decided."""
    a = bench.release("a")
    strategy = Canary(shares=(25, 100), judge=Judge(measures=(ErrorRate(budget=0.0),), warm_up=0, at_most=120))
    took, said, strange = [], "", 0

    async def goes_back(bad: Release) -> str:
        await bench.rollout(a).forward(BlueGreen())
        try:
            await bench.rollout(bad).forward(strategy)
        except StageFailed as error:
            return error.what
        return "it was promoted"

    for number in range(rollouts):
        bench.events.clear()
        with bench.users() as users:
            said = anyio.run(goes_back, bench.release(f"bad{number}", FAILS="50"))
        decided = bench.noted("rollout.judged")[-1][0]
        last = users.last(f"bad{number}", after=decided, before=math.inf)
        took.append(max(0.0, (last or decided) - decided))
        strange += sum(not failure.startswith(f"500 bad{number}") for failure in users.failures)
    name = "canary that fails 2 %: from the tick that decides to the last request it got, the longest"
    yield Figure(name, max(took), "s", 1, detail=f"median {1000 * statistics.median(took):.0f} ms, {rollouts} rollouts; {said}")
    yield Figure("canary that fails 2 %: requests that were lost and that it did not get", strange, "", 0)


def recreated(bench: Bench, rollouts: int) -> Iterator[Figure]:
    """How long nobody serves."""

    async def main() -> None:
        for number in range(rollouts):
            await bench.rollout(bench.release(f"r{number}")).forward(Recreate())

    bench.events.clear()
    anyio.run(main)
    seconds = [data["seconds"] for _, data in bench.noted("rollout.down")]
    yield Figure(
        "recreate: nobody serves for, in the median",
        statistics.median(seconds),
        "s",
        detail=f"{min(seconds)} to {max(seconds)} s",
    )


def lost(kind: str, switches: int, users: Users) -> Figure:
    detail = f"of {users.number:,} at {users.rate:,.0f} a second" + "".join(f"; {failure}" for failure in users.failures[:2])
    return Figure(f"{kind}, {switches} times: requests that were lost or failed", len(users.failures), "", 0, detail=detail)


async def _both(bench: Bench, a: Release, b: Release) -> dict[str, Group]:
    for one in (a, b):
        await bench.target.start(one)
        while await bench.target.unready(one.group, one.ready) is not None:
            await anyio.sleep(0.02)
    return await bench.target.groups()


def _image(project: Project, store: Store) -> Image:
    image = BuildImage(
        layers=(Placed(tree=WorkingCopy(include=("service.py",)), at="/app"),), entrypoint=("python", "/app/service.py")
    )

    def fits(report: SizeReport) -> Verdict:
        return passed("fits", f"{report.total} bytes", wanted="an image")

    gate = QualityGate(artifact=image, checks=(Check(evidence=ImageSize(image=image), rule=fits),))
    journal = Journal(project.home / "journal.db")
    _, found = run_pipeline(Pipeline("bench", image=image, gate=gate), project, store, journal)
    journal.close()
    built: Image = found["image"]
    return built
