"""Flags that change while a release stays: a file that all releases read, and the shares of its flags."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pipeline import Effect, Stage, StageFailed, Tree, Work
from pipeline.names import checked_name
from stages.delivery import durable
from stages.delivery.files import wrong
from stages.delivery.lock import held
from stages.delivery.model import Binding

ROLLED_OUT = "lockgate.rolled-out"
"""In the metadata of a flag whose share is what a rollout said last, and no more what its definition says."""


class LiveFlags(Stage[Binding]):
    """The flags at `path` of `source`, in a file that stays where it is, whatever release reads it: a change is seen at once.

    The format is flagd's, as of `Flags`. Shares of flags that were rolled out (`RolloutFlag`) stay as they are; all else is what
    the source says, from the moment on when this runs, for every release: no release brings it along or takes it back. The
    file is on this machine; the result names it in `variable`.
    """

    effect: ClassVar[Effect] = Effect.RETRYABLE

    source: Stage[Tree]
    name: str
    path: str = "flags.json"
    variable: str = "FLAGD_OFFLINE_FLAG_SOURCE_PATH"

    def __post_init__(self) -> None:
        checked_name(self.name)

    async def run(self, work: Work) -> Binding:
        content = work.store.read(work.store.file(work[self.source], self.path))
        problems = wrong(content)
        if problems:
            raise StageFailed("\n".join(problems), where=self.path, right="flags as https://flagd.dev describes them")
        live = self.file(work)
        await live.define(json.loads(content))
        return Binding(variable=self.variable, value=str(live.path))

    def file(self, work: Work) -> LiveFile:
        return LiveFile(work.state(f"flags/{self.name}") / "flags.json")


@dataclass(frozen=True)
class LiveFile:
    """The file; who changes it is the only one who does, and nobody ever reads half of it."""

    path: Path

    async def define(self, flags: dict[str, Any]) -> None:
        """These flags from now on, with the shares of those that were rolled out."""
        async with held(self._lock):
            self._write(with_shares(flags, self.read() if self.path.exists() else {"flags": {}}))

    async def give(self, flag: str, shares: Mapping[str, int]) -> None:
        """Give the variants of a flag their shares in percent. Raises StageFailed where it has no such shares."""
        async with held(self._lock):
            self._write(with_share(self.read(), flag, shares))

    def shares(self, flag: str) -> dict[str, int]:
        """The share of each variant of a flag in percent. Raises StageFailed where it has none to be rolled out."""
        return shares_of(self.read(), flag)

    def read(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self.path.read_bytes())
        except (OSError, ValueError) as error:
            raise StageFailed(f"the flags cannot be read: {error}", right="a file that LiveFlags has written") from error
        return found

    def _write(self, flags: Mapping[str, Any]) -> None:
        durable.write(self.path, json.dumps(flags, indent=1).encode(), mode=0o644)

    @property
    def _lock(self) -> Path:
        return self.path.with_name(".lock")


def with_shares(flags: dict[str, Any], live: Mapping[str, Any]) -> dict[str, Any]:
    """Flags as they are defined, with the shares that rollouts gave them in the live ones. Pure.

    A flag whose definition has no shares any more, or those of other variants, is as it is defined: so a rollout is over.
    """
    found = flags
    for name, flag in live["flags"].items():
        if flag.get("metadata", {}).get(ROLLED_OUT) and name in flags["flags"]:
            shares = shares_of(live, name)
            if set(_fractions(flags["flags"][name])) == set(shares):
                found = with_share(found, name, shares)
    return found


def with_share(flags: dict[str, Any], name: str, shares: Mapping[str, int]) -> dict[str, Any]:
    """Flags in which the variants of one have these shares; of those that are not named none. Pure. Raises StageFailed.

    The order of variants stays, in which flagd's `fractional` gives them its buckets. The buckets of two meet in one point, and
    so the one whose share grows keeps everybody it had.
    """
    known = shares_of(flags, name)
    if unknown := sorted(set(shares) - set(known)):
        raise StageFailed(f"{name} has no share of {', '.join(unknown)}", right=f"one of: {', '.join(known)}")
    fresh: dict[str, Any] = json.loads(json.dumps(flags))
    flag = fresh["flags"][name]
    for share in _fractional(flag.get("targeting"))[0]:
        if isinstance(share, list):
            share[:] = [share[0], shares.get(share[0], 0)]
    flag["metadata"] = {**flag.get("metadata", {}), ROLLED_OUT: True}
    return fresh


def shares_of(flags: Mapping[str, Any], name: str) -> dict[str, int]:
    """The shares in percent of a flag that can be rolled out. Pure. Raises StageFailed with what keeps it from that."""
    flag = flags["flags"].get(name)
    if flag is None:
        raise StageFailed(f"there is no flag {name!r}", right=f"one of: {', '.join(flags['flags']) or 'none is defined'}")
    right = 'two variants with shares, as {"fractional": [["on", 0], ["off", 100]]}, once in its targeting'
    if flag.get("state") != "ENABLED":
        raise StageFailed(f"{name} is {flag.get('state')}: nobody gets a variant by its shares", right='"state": "ENABLED"')
    weights = _fractions(flag)
    total = sum(weights.values())
    if len(weights) != 2 or not total:
        raise StageFailed(f"{name} has shares of {', '.join(weights) or 'nothing'}", right=right)
    first, second = weights
    percent = round(100 * weights[first] / total)
    return {first: percent, second: 100 - percent}


def _fractions(flag: Mapping[str, Any]) -> dict[str, int]:
    """What each variant of a flag weighs in the one place where shares are; empty where there is none, or more than one."""
    places = _fractional(flag.get("targeting"))
    if len(places) != 1:
        return {}
    return {share[0]: share[1] if len(share) > 1 else 1 for share in places[0] if isinstance(share, list)}


def _fractional(rule: object) -> list[list[Any]]:
    """What stands in each `fractional` of a rule: the shares, and before them the key by which users are told apart."""
    parts: Collection[object] = rule if isinstance(rule, list) else rule.values() if isinstance(rule, dict) else ()
    own = [rule["fractional"]] if isinstance(rule, dict) and isinstance(rule.get("fractional"), list) else []
    return own or [found for part in parts for found in _fractional(part)]
