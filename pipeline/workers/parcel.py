"""An action on its way to a worker, and what comes back: plain data, content by digest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import BaseModel, ConfigDict

from pipeline.action import Action, Network
from pipeline.data import Blob, Tree, contents
from pipeline.service import Service

Sizes = Mapping[str, int]
"""Bytes of files and of listings of trees, by digest."""


class Parcel(BaseModel):
    """Everything of an action but its secrets: one that needs some does not travel."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    key: str
    """By which the cluster knows this copy of it."""
    sizes: dict[str, int]
    argv: tuple[str, ...]
    inputs: dict[str, Tree | Blob]
    tools: dict[str, Tree]
    env: dict[str, str]
    outputs: tuple[str, ...]
    image: str
    cwd: str
    network: bool
    services: tuple[Service, ...]
    dockerfile: str
    caches: dict[str, str]

    @staticmethod
    def of(action: Action, key: str, sizes: Sizes) -> Parcel:
        fields = Parcel.model_fields.keys() - {"key", "sizes"}
        return Parcel(key=key, sizes=dict(sizes), **{name: getattr(action, name) for name in fields})

    def action(self) -> Action:
        return Action(**{name: getattr(self, name) for name in type(self).model_fields if name not in ("key", "sizes")})


class Answer(BaseModel):
    """What came of an action on a worker; its outputs and its log are in the remote cache."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    worker: str
    exit_code: int
    tail: str
    log: Blob
    outputs: dict[str, Tree | Blob]
    sizes: dict[str, int]
    network: Network


class Refusal(BaseModel):
    """Why a worker has nothing to say of an action; `able`: another action it might execute."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    worker: str
    reason: str
    able: bool = False


def travels(action: Action) -> bool:
    """Whether an action may leave this machine: secrets do not."""
    return not action.secrets


def named(action: Action) -> Iterator[Blob | Tree]:
    """All content that an action and its services need."""
    yield from contents([dict(action.inputs), dict(action.tools), list(action.services)])
