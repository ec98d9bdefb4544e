"""Services: servers that live as long as the action that needs them."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from pipeline.data import Blob, Result, Tree

ROOT = "{root}"
"""Stands for the directory of the action or service itself, in argv and environment values."""


class Service(Result):
    """A server beside an action. It is data, so a stage can return one and others can take it as an input.

    The server listens on `HOST` and `PORT` from its environment; the action finds it in `NAME_HOST` and
    `NAME_PORT` (the service's name in upper case). `port` is used where the network is the action's own.
    A service finds those listed before it in the same way; they are up when it starts. In argv and in the
    values of env, of services and of the action, `{NAME_HOST}` and `{NAME_PORT}` stand for the same.
    """

    name: str
    argv: tuple[str, ...]
    port: int
    tools: dict[str, Tree] = Field(default_factory=dict)
    inputs: dict[str, Tree | Blob] = Field(default_factory=dict)
    env: dict[str, str] = Field(default_factory=dict)
    image: str = ""
    ready: str = ""
    """Path of an HTTP readiness check that must answer 200; `postgresql`: a session must be let in (the port opens
    before one can be served); empty: the port must accept a connection."""
    within: float = 60.0
    """Seconds until the server must be ready."""

    def summary(self) -> str:
        return f"{self.name}: {' '.join(self.argv[:3])}"

    def address(self, host: str, port: int) -> dict[str, str]:
        """The variables by which others find this service."""
        return {f"{self.name.upper()}_HOST": host, f"{self.name.upper()}_PORT": str(port)}


def fill(text: str, root: str, addresses: Mapping[str, str]) -> str:
    """`text` with the directory and the addresses of services in their places; other braces stay.

    >>> fill("{root}/a {DB_HOST}:{DB_PORT} {json}", "/work", {"DB_HOST": "db", "DB_PORT": "5432"})
    '/work/a db:5432 {json}'
    """
    for name, value in {"root": root, **addresses}.items():
        text = text.replace("{" + name + "}", value)
    return text
