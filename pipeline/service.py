"""Services: servers that live as long as the action that needs them."""

from __future__ import annotations

from pydantic import Field

from pipeline.data import Blob, Result, Tree

ROOT = "{root}"
"""Stands for the directory of the action or service itself, in argv and environment values."""


class Service(Result):
    """A server beside an action. It is data, so a stage can return one and others can take it as an input.

    The server listens on `HOST` and `PORT` from its environment; the action finds it in `NAME_HOST` and
    `NAME_PORT` (the service's name in upper case). `port` is used where the network is the action's own.
    """

    name: str
    argv: tuple[str, ...]
    port: int
    tools: dict[str, Tree] = Field(default_factory=dict)
    inputs: dict[str, Tree | Blob] = Field(default_factory=dict)
    env: dict[str, str] = Field(default_factory=dict)
    image: str = ""
    ready: str = ""
    """Path of an HTTP readiness check that must answer 200; empty: the port must accept a connection."""
    within: float = 60.0
    """Seconds until the server must be ready."""

    def summary(self) -> str:
        return f"{self.name}: {' '.join(self.argv[:3])}"
