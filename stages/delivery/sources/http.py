"""A page of figures as a source of metrics: JSON that some service answers with."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from pipeline import WiringError, Work
from pipeline.authorities import authorities
from stages.delivery.metrics import PLACEHOLDER, need_group
from stages.delivery.sources.polled import Ask, Polled, Reading, Unknown, answered

INDEX = re.compile(r"0|[1-9][0-9]*")
"""How a JSON pointer names an item of a list."""


@dataclass(frozen=True, kw_only=True)
class HttpShare:
    """Two counters in the JSON at `url`: of `of`, how many were `bad`. Both are JSON pointers (RFC 6901), as `/orders/failed`.

    Both count up since any moment (not "in the last minute"); one that goes down has begun anew, and nothing is known at that
    look. `{group}` in the address stands for the name of the group.
    """

    name: str
    url: str
    of: str
    bad: str
    every: float = 1.0
    """Seconds from one question to the next."""
    timeout: float = 5.0

    def __post_init__(self) -> None:
        where = f"HttpShare(name={self.name!r})"
        need_group(where, self.url)
        for pointer in (self.of, self.bad):
            if pointer and not pointer.startswith("/"):
                raise WiringError(
                    f"{where}: {pointer} is no JSON pointer", where=where, right=f"/{pointer.strip('.').replace('.', '/')}"
                )

    def open(self, work: Work) -> HttpMetrics:
        return HttpMetrics(self, work.say)


class HttpMetrics(Polled[HttpShare]):
    """A page of figures that is asked for while a rollout is weighed."""

    @asynccontextmanager
    async def asking(self, sides: Sequence[Collection[str]]) -> AsyncIterator[Ask]:
        import httpx

        config = self.config
        async with httpx.AsyncClient(timeout=config.timeout, trust_env=False, verify=authorities(config.url)) as client:

            async def read(groups: Collection[str]) -> Mapping[str, Reading]:
                return {group: await page(config.url.replace(PLACEHOLDER, group)) for group in groups}

            async def page(url: str) -> Reading:
                status, body = await answered(url, client.stream("GET", url))
                if status != 200:
                    raise Unknown(f"{url} answers {status}")
                figures = parsed(url, body)
                part, of = (count(f"{url}#{pointer}", at(figures, pointer)) for pointer in (config.bad, config.of))
                return Reading(part=part, of=of, at=time.monotonic())

            yield read


def parsed(where: str, content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Unknown(f"{where} is no JSON: {content[:100]!r}") from error


def at(document: Any, pointer: str) -> Any:
    """What a JSON pointer (RFC 6901) points at. Raises Unknown where there is nothing.

    >>> at({"a/b": [{"~": 7}]}, "/a~1b/0/~0")
    7
    """
    found = document
    for token in pointer.split("/")[1:]:
        key = token.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict) and key in found:
            found = found[key]
        elif (
            isinstance(found, list)
            and key.isascii()
            and key.isdigit()
            and (key == "0" or key[0] != "0")
            and int(key) < len(found)
        ):
            found = found[int(key)]
        else:
            raise Unknown(f"there is nothing at {pointer}")
    return found


def count(where: str, value: object) -> int:
    """A figure that is a count, else Unknown: NaN, null and texts are none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or value % 1:  # NaN % 1 is NaN
        raise Unknown(f"{where} is no count: {value!r}")
    return int(value)
