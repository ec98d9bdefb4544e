"""How it is found out whether an instance is well: by HTTP, TCP, gRPC or a command, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, asdict, dataclass, field, fields, replace
from typing import Any

from pipeline import WiringError
from pipeline.numbers import need_numbers

LEAST, MOST = 0.001, 86_400.0
"""Seconds that a probe may have: routers count in milliseconds, and who is asked once a day is asked too seldom."""

AGAIN = 0.2
"""Seconds after which a router asks an instance again that did not answer well."""


@dataclass(frozen=True)
class Often:
    """An instance is asked each `every` seconds, may take `within` seconds to answer, and fails so often in a row to be ill.

    So one that hangs is found ill after about `failures` times `within` seconds.
    """

    _: KW_ONLY
    every: float = 1.0
    within: float = 2.0
    failures: int = 3

    @property
    def until_ill(self) -> float:
        """Seconds in which a router has found ill who hangs; one that nobody uses is asked no sooner after a failure."""
        return self.seldom + self.failures * (self.within + self.seldom)

    @property
    def seldom(self) -> float:
        """Seconds from one question to the next where each is to have its answer before another one is asked again."""
        return max(self.every, self.within + AGAIN)

    def __post_init__(self) -> None:
        need_numbers(self)
        if not (LEAST <= self.every <= MOST and LEAST <= self.within <= MOST and self.failures >= 1):
            raise WiringError(
                f"{type(self).__name__}: every {self.every:g} s, within {self.within:g} s, {self.failures} failures",
                right=f"from {LEAST:g} to {MOST:,g} seconds, and 1 failure or more",
            )


@dataclass(frozen=True)
class HttpProbe(Often):
    """A GET of `path` is answered with a status from the first to the last of `statuses`."""

    path: str = "/readyz"
    statuses: tuple[int, int] = (200, 200)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (_is_path(self.path) and _are_statuses(self.statuses)):
            raise WiringError(
                f"HttpProbe: {self.path!r} with {self.statuses!r}",
                right="a path as in '/readyz', first and last of the good statuses as in (200, 299)",
            )

    def __str__(self) -> str:
        first, last = self.statuses
        return self.path if (first, last) == (200, 200) else f"{self.path} with {first} to {last}"


def _is_path(path: object) -> bool:
    return isinstance(path, str) and path.startswith("/") and path.isprintable() and " " not in path


def _are_statuses(statuses: object) -> bool:
    match statuses:
        case tuple((int(first), int(last))):
            return 100 <= first <= last <= 599
    return False


@dataclass(frozen=True)
class TcpProbe(Often):
    """It accepts a connection."""

    def __str__(self) -> str:
        return "a TCP connection"


@dataclass(frozen=True)
class GrpcProbe(Often):
    """It says by gRPC that `service`, or all of it where none is named, is SERVING.

    Protocol: grpc.health.v1.Health/Check (https://github.com/grpc/grpc/blob/master/doc/health-checking.md), without TLS.
    """

    service: str = ""

    def __str__(self) -> str:
        return f"gRPC's health check{f' of {self.service}' if self.service else ''}"


@dataclass(frozen=True)
class CommandProbe(Often):
    """A command of the image, run where the instance is with the instance's environment, ends with 0."""

    command: tuple[str, ...] = ()
    within: float = field(default=5.0, kw_only=True)  # a program has to start first

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.command and isinstance(self.command, tuple) and all(isinstance(word, str) for word in self.command)):
            raise WiringError(f"CommandProbe.command is {self.command!r}", right="CommandProbe(('python', '-m', 'check'))")

    def __str__(self) -> str:
        return f"the command {' '.join(self.command)}"


Probe = HttpProbe | TcpProbe | GrpcProbe | CommandProbe

Ready = str | Probe
"""How an instance says that it can serve; a text is the path of an `HttpProbe`."""

KINDS: Mapping[str, type[Probe]] = {"http": HttpProbe, "tcp": TcpProbe, "grpc": GrpcProbe, "command": CommandProbe}


def probe(ready: Ready) -> Probe:
    return HttpProbe(ready) if isinstance(ready, str) else ready


def is_asked_alike(one: Ready, other: Ready) -> bool:
    """Whether both ask for the same, however often they do."""
    often = {name.name: getattr(Often, name.name) for name in fields(Often)}
    return replace(probe(one), **often) == replace(probe(other), **often)


def patient(one: Ready, other: Ready) -> Probe:
    """The first, with the time to answer and the failures of the more patient one."""
    asked, also = probe(one), probe(other)
    return replace(asked, within=max(asked.within, also.within), failures=max(asked.failures, also.failures))


def written(ready: Ready | None) -> str | dict[str, Any] | None:
    """As JSON has it; what a path alone says is written as the path."""
    if ready is None or isinstance(ready, str):
        return ready
    if isinstance(ready, HttpProbe) and ready == HttpProbe(ready.path):
        return ready.path
    kind = next(name for name, type_ in KINDS.items() if isinstance(ready, type_))
    return {"kind": kind, **asdict(ready)}


def read(found: object) -> Probe | None:
    """What `written` gave, from JSON. Raises ValueError for anything else."""
    if found is None:
        return None
    try:
        if isinstance(found, str):
            return HttpProbe(found)
        given: dict[str, Any] = dict(found)  # type: ignore[call-overload]
        kind = KINDS[given.pop("kind")]
        values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
        return kind(**values)
    except (TypeError, ValueError, LookupError, WiringError) as error:
        raise ValueError(f"it is no probe: {error}") from error
