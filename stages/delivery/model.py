"""The words of delivery as data: releases, groups of instances, and what runs now."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pipeline import Artifact, Result, WiringError
from stages.delivery import probe
from stages.delivery.files import ReleaseFile
from stages.delivery.limits import UNLIMITED, Limits
from stages.image import Image


class Address(Result):
    """Where one instance, service or router listens."""

    host: str
    port: int
    zone: str = ""
    """The part of its target an instance runs in, where it has parts."""

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def summary(self) -> str:
        return f"{self.host}:{self.port}"


class Binding(Result):
    """An environment variable of the service that is known only once something else runs."""

    variable: str
    value: str

    def summary(self) -> str:
        return f"{self.variable}={self.value}"


Restart = Literal["no", "on-failure", "always"]
"""When an instance that was not asked to end is started again; the names are Docker's."""

SHADOW = "LOCKGATE_SHADOW"
"""The variable that is 1 for instances that get copies of requests only, whose answers nobody sees."""


SHADOWED = "-shadow"
"""How the names of such groups end."""


def in_shadow(group: str) -> str:
    """The name of the group that is in the shadow of this one's release."""
    return f"{group}{SHADOWED}"


def is_shadow(group: str) -> bool:
    """Whether the group gets copies of requests only."""
    return group.endswith(SHADOWED)


@dataclass(frozen=True, kw_only=True)
class Release:
    """What is to run: an image that passed its gate, and its configuration. Both make up its name."""

    image: Image
    env: Mapping[str, str]
    secrets: tuple[str, ...] = ()
    seal: str = ""
    """Another one for other values of the secrets."""
    instances: int = 1
    files: tuple[ReleaseFile, ...] = ()
    ready: probe.Ready = "/readyz"
    """How an instance says that it can serve; a text is a path that then answers 200."""
    startup: probe.Probe | None = None
    """Until it is well by this one, nobody asks whether it still lives."""
    liveness: probe.Probe | None = None
    """By what it is started again, as `restart` says, when it still runs and does nothing any more."""
    restart: Restart = "no"
    limits: Limits = UNLIMITED
    shadow: bool = False
    """Whether it is to get copies of requests only."""

    def shadowed(self) -> Release:
        """The same, for copies of requests only."""
        return replace(self, shadow=True, env={**self.env, SHADOW: "1"})

    @property
    def group(self) -> str:
        """The name of the group that runs this release: equal for equal image and configuration."""
        from pipeline.digest import of_json

        env = {name: value for name, value in self.env.items() if not (self.shadow and name == SHADOW)}
        configuration = [sorted(env.items()), self.secrets, self.seal, self.instances, probe.written(self.ready)]
        files = [[one.variable, one.name, one.content.digest, sorted(one.env.items())] for one in self.files]
        kept = self._kept
        name = "r-" + of_json([self.image.digest, *configuration, *([files] if files else []), *([kept] if kept else [])])[:12]
        return in_shadow(name) if self.shadow else name

    @property
    def _kept(self) -> dict[str, Any]:
        """How its instances are kept well and in bounds, as far as anything is said of it."""
        found = {
            "startup": probe.written(self.startup),
            "liveness": probe.written(self.liveness),
            "restart": self.restart if self.restart != "no" else None,
            "limits": self.limits.given or None,
        }
        return {name: value for name, value in found.items() if value is not None}

    def written(self) -> str:
        """As JSON, without the values of secrets, which it does not know."""
        files = [one.model_dump(mode="json") for one in self.files]
        kept = {"startup": None, "liveness": None, "limits": {}, **self._kept, "ready": probe.written(self.ready)}
        image = self.image.model_dump(mode="json")
        return json.dumps({**vars(self), "image": image, "env": dict(self.env), "files": files, **kept})

    @staticmethod
    def read(text: str) -> Release:
        """What `written` gave. Raises ValueError for anything else."""
        try:
            found = json.loads(text)
            image = Image.model_validate(found.pop("image"))
            files = tuple(ReleaseFile.model_validate(one) for one in found.pop("files", ()))
            probes = {name: probe.read(found.pop(name, None)) for name in ("startup", "liveness")}
            ready = found.pop("ready")
            ready = ready if isinstance(ready, str) else probe.read(ready)
            limits = Limits(**found.pop("limits", {}))
            kept: dict[str, Any] = {**probes, "ready": ready, "limits": limits, "secrets": tuple(found.pop("secrets"))}
            return Release(image=image, files=files, **found, **kept)
        except (TypeError, LookupError, WiringError) as error:
            raise ValueError(f"it is no release: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A variant of a flag, to be rolled out while the release stays; what it is called stands where a group's name does."""

    group: str
    instances: int = 0


@dataclass(frozen=True)
class Group:
    """Instances of one release that run now."""

    name: str
    instances: tuple[Address, ...]
    leaving: frozenset[Address] = frozenset()
    """Those of them that get no new request, as they are about to end."""

    @property
    def staying(self) -> tuple[Address, ...]:
        return tuple(one for one in self.instances if one not in self.leaving)


@dataclass(frozen=True, kw_only=True)
class State:
    """What target and router say is true: groups that run, and each group's share of the traffic in percent.

    `resting` are groups whose instances were ended and can be started again.
    """

    groups: Mapping[str, Group] = field(default_factory=dict)
    weights: Mapping[str, int] = field(default_factory=dict)
    resting: frozenset[str] = frozenset()
    wanted: int = 1
    """Instances that the release which is rolled out shall have."""
    zones: tuple[str, ...] = ()
    """The parts of the target, where it has any."""

    @property
    def serving(self) -> tuple[str, ...]:
        """The groups that get traffic, the largest share first."""
        return tuple(sorted((name for name, share in self.weights.items() if share > 0), key=lambda name: -self.weights[name]))


def spread(count: int, zones: tuple[str, ...]) -> dict[str, int]:
    """So many instances over zones as evenly as can be, the first ones having one more.

    >>> spread(5, ("a", "b"))
    {'a': 3, 'b': 2}
    """
    return {zone: len(range(place, count, len(zones))) for place, zone in enumerate(zones)}


class Served(Result):
    """Something that answers at an address, for checks to ask."""

    address: Address


class Previewed(Served, Artifact):
    """A release that runs without users: `address` is that of its first instance."""

    group: str
    started: bool
    """Whether it was started for this; what ran before is not ended."""

    def summary(self) -> str:
        return f"{self.group} runs without users at {self.address.url}"


class Deployment(Served):
    """One finished rollout. `address` is the router's; `group` serves, `previous` is kept for the way back."""

    image: str
    group: str
    previous: str = ""
    before: dict[str, int]
    """Each group's share of the traffic before the rollout."""
    started: bool
    """Whether this rollout started the group; one that ran before is not stopped on the way back."""

    def summary(self) -> str:
        kept = f", {self.previous} kept for the way back" if self.previous else ""
        return f"{self.group} serves at {self.address.url}{kept}"
