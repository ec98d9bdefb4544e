"""What users and browsers report, as a source of metrics: complaints, and errors by group.

The endpoint is a process of its own that outlives runs, as the router does: what is new in a release can only be told by who has
seen what the one before it did, and people complain whether or not a rollout goes on.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import anyio

from pipeline import Effect, Stage, StageFailed, Work
from pipeline.authorities import authorities
from pipeline.digest import of_text
from stages.delivery import process
from stages.delivery.lock import alone
from stages.delivery.model import Address
from stages.delivery.sources.http import count, parsed
from stages.delivery.sources.polled import Ask, Polled, Reading, Unknown, answered

PROGRAM = "LOCKGATE_PROGRAM"
"""The variable in which a running endpoint carries the digest of its program."""


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """Reports of users on `host`:`port`, kept below `.pipeline/state/feedback/NAME`; of all reports, how many are bad.

    Bad is feedback that is not `ok`, and every error. `CollectFeedback` starts the endpoint. Nothing is known where it does not
    answer, or has refused reports (of one release more than 50 a second for long).
    """

    name: str
    port: int
    host: str = "127.0.0.1"
    every: float = 1.0
    """Seconds from one question to the next."""
    timeout: float = 5.0

    def open(self, work: Work) -> FeedbackMetrics:
        return FeedbackMetrics(self, work.say, work.record)


class CollectFeedback(Stage[Address]):
    """Has the endpoint of `feedback` run, as a process that outlives the run. `Bound` tells its address to the service."""

    effect: ClassVar[Effect] = Effect.RETRYABLE

    feedback: Feedback

    async def run(self, work: Work) -> Address:
        config, state = self.feedback, work.state(f"feedback/{self.feedback.name}")
        async with alone(state, work.say):
            await _serve(config, state)
        return Address(host=config.host, port=config.port)


@dataclass(frozen=True)
class FeedbackMetrics(Polled[Feedback]):
    """Reports that come in while a rollout is weighed. Errors that only the new release has are journalled by their names."""

    record: Callable[..., None]

    @asynccontextmanager
    async def asking(self, sides: Sequence[Collection[str]]) -> AsyncIterator[Ask]:
        import httpx

        address = Address(host=self.config.host, port=self.config.port).url
        async with httpx.AsyncClient(
            base_url=address, timeout=self.config.timeout, trust_env=False, verify=authorities(address)
        ) as client:

            async def asked(path: str, group: str) -> Any:
                status, body = await answered(address, client.stream("GET", path, params={"group": group}))
                if status != 200:
                    raise Unknown(f"{address}{path} answers {status}")
                return parsed(address + path, body)

            yield Reported(asked, frozenset(sides[-1]), self.record).read


@dataclass
class Reported:
    """What the endpoint was told of groups; of the new release's which errors are its own."""

    asked: Callable[[str, str], Any]
    new: frozenset[str]
    record: Callable[..., None]
    _refused: dict[str, int] = field(default_factory=dict)
    _named: set[str] = field(default_factory=set)

    async def read(self, groups: Collection[str]) -> Mapping[str, Reading]:
        stats = {group: await self.asked("/stats", group) for group in groups}
        for group in self.new:
            for error in await self.asked("/errors", group):
                if error["fingerprint"] not in self._named:
                    self._named.add(error["fingerprint"])
                    self.record("rollout.error", group=group, **error)
        found = {group: self._reading(group, told) for group, told in stats.items()}
        refused = {group: count("refused", told["refused"]) for group, told in stats.items()}
        more = sorted(group for group in groups if refused[group] > self._refused.get(group, refused[group]))
        self._refused = refused
        if more:
            raise Unknown(f"reports of {', '.join(more)} were refused: there were too many")
        return found

    @staticmethod
    def _reading(group: str, told: Mapping[str, object]) -> Reading:
        return Reading(part=count(f"bad of {group}", told["bad"]), of=count(f"all of {group}", told["all"]), at=time.monotonic())


async def _serve(config: Feedback, state: Path) -> None:
    """The endpoint answers, and is of this version. Raises StageFailed."""
    program = _program(config)
    mark = f"{state}:"
    for found in list(process.running(mark)):
        if found.env.get(PROGRAM) == program:
            return
        await process.stop(found)
    argv = (sys.executable, "-m", "stages.delivery.sources.ingest", str(state), config.host, str(config.port))
    env = {"PATH": os.defpath, "PYTHONPATH": str(Path(__file__).parents[3]), PROGRAM: program}
    log = state / "log"
    said = log.stat().st_size if log.exists() else 0
    number = await process.start(mark, argv, env, cwd=state, log=log)
    with anyio.move_on_after(20):
        while any(one.pid == number for one in process.running(mark)):
            if any(process.listens(one, config.port) for one in process.running(mark)):
                return
            await anyio.sleep(0.05)
    words = log.read_bytes()[said:].decode(errors="replace").strip().splitlines()
    raise StageFailed(
        f"the endpoint for feedback does not start: {words[-1] if words else 'it said nothing'}",
        where=f"Feedback(name={config.name!r}).port",
        right="an address of this machine, and a port that nobody else listens on",
    )


def _program(config: Feedback) -> str:
    """A digest of the endpoint's program and where it listens: another one is started anew."""
    here = Path(__file__).parent
    texts = [(here / name).read_text() for name in ("ingest.py", "grouping.py", "body.py", "listener.py")]
    return of_text(json.dumps([*texts, config.host, config.port]))
