"""What rollouts are done on in tests: real processes behind a real router, and a journal in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from stages.delivery import process
from stages.delivery.control import Control
from stages.delivery.envoy import EnvoyRouter
from stages.delivery.haproxy import HAProxyRouter
from stages.delivery.local import LocalTarget
from stages.delivery.model import Release
from stages.delivery.rollout import Rollout
from tests.web import get

AnyRouter = HAProxyRouter | EnvoyRouter


async def end_processes(router: AnyRouter) -> None:
    """As if they had died: what they are told by stays, and where users found them."""
    for running in list(process.running(str(router.state))):
        await process.stop(running)


class Make(Protocol):
    """Another router of the kind that is tested, of the same project."""

    def __call__(self, *, port: int, name: str = ..., **more: Any) -> AnyRouter: ...


@dataclass
class Notes:
    """The journal of a rollout."""

    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def __call__(self, kind: str, **data: Any) -> None:
        self.events.append((kind, data))

    def steps(self, kind: str) -> list[str]:
        return [data["step"] for found, data in self.events if found == f"rollout.{kind}"]

    def kinds(self) -> list[str]:
        return [kind.removeprefix("rollout.") for kind, _ in self.events]


@dataclass
class Bench:
    """A target and a router on which releases are rolled out one after the other."""

    target: LocalTarget
    router: AnyRouter
    notes: Notes = field(default_factory=Notes)

    def rollout(self, wanted: Release, control: Control | None = None) -> Rollout:
        self.notes = Notes()
        return Rollout(self.target, self.router, wanted, self.notes, control or Control(longest=0))

    def answer(self) -> str:
        return get(self.router.address.url).text
