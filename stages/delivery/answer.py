"""Answers of two releases to one request: what they say, and in what they differ. Pure.

What an answer says is its status, its type and its body: each value of a JSON document by its place, each line of a text, the
digest of anything else. A place in which a release differs from itself is noise, and says nothing about another one.
Method: Twitter's Diffy ("Diffy: Testing services without writing tests", 2015).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

Facts = dict[str, str]
"""What is said, by place: `status`, `type`, `items[3].price`, `line 7`."""


@dataclass(frozen=True)
class Answer:
    """What came of a request; status 0: nothing."""

    status: int = 0
    kind: str = ""
    """As the header `Content-Type` says."""
    body: bytes = b""
    milliseconds: float = 0.0

    @property
    def failed(self) -> bool:
        return not 100 <= self.status < 500

    def facts(self) -> Facts:
        kind = self.kind.partition(";")[0].strip().lower()
        return {"status": str(self.status), "type": kind, **_said(kind, self.body)}


def _said(kind: str, body: bytes) -> Facts:
    try:
        if kind == "application/json" or kind.endswith("+json"):
            return dict(_values("", json.loads(body)))
        if kind.startswith("text/"):
            return {f"line {number}": line for number, line in enumerate(body.decode().splitlines(), 1)}
    except (ValueError, RecursionError):  # it is not what it says it is, and that may be equal too
        pass
    return {"body": hashlib.sha256(body).hexdigest()}


def _values(place: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for name, one in value.items():
            yield from _values(f"{place}.{name}" if place else str(name), one)
    elif isinstance(value, list) and value:
        for number, one in enumerate(value):
            yield from _values(f"{place}[{number}]", one)
    else:
        yield place or "body", json.dumps(value, sort_keys=True)


def differing(one: Facts, other: Facts) -> frozenset[str]:
    """The places in which they differ; places of a list are one place, as `items[].price`."""
    return frozenset(_general(place) for place in one.keys() | other.keys() if one.get(place) != other.get(place))


def _general(place: str) -> str:
    head, *rest = place.split("[")
    return head + "".join("[" + part[part.index("]") :] if "]" in part else "[" + part for part in rest)


@dataclass
class Noise:
    """The places in which a release has differed from itself, and those that people said may differ (patterns of fnmatch)."""

    ignored: tuple[str, ...] = ()
    found: set[str] = field(default_factory=set)

    def without(self, places: frozenset[str]) -> frozenset[str]:
        """Those of the places that say something."""
        return frozenset(place for place in places - self.found if not any(fnmatchcase(place, one) for one in self._patterns))

    @property
    def _patterns(self) -> tuple[str, ...]:
        return tuple(pattern.replace("[", "[[]") for pattern in self.ignored)
