"""Audiences: whose requests a release gets before everybody's. Pure: what routers turn into rules of their own.

A flag is a header or a cookie that the application sets: `HasCookie("beta", "on")`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pipeline import WiringError

NAME = re.compile(r"[A-Za-z0-9_.-]+")
"""Names of headers and cookies that need no quoting anywhere (a part of RFC 9110's `token`)."""

BUCKETS = 10_000
"""Keys are hashed into so many buckets: a share is met to a hundredth of a percent."""


@dataclass(frozen=True)
class Cookie:
    """The value of a cookie tells who somebody is."""

    name: str

    def __post_init__(self) -> None:
        _need_name("Cookie", self.name)

    def __str__(self) -> str:
        return f"cookie {self.name}"


@dataclass(frozen=True)
class Header:
    """The value of a header of the request tells who somebody is."""

    name: str

    def __post_init__(self) -> None:
        _need_name("Header", self.name)

    def __str__(self) -> str:
        return f"header {self.name}"


@dataclass(frozen=True)
class Source:
    """The address of the connection tells who somebody is."""

    def __str__(self) -> str:
        return "address"


Key = Cookie | Header | Source


@dataclass(frozen=True)
class Cohort:
    """Users by a hash of their key: each is always on the same side, and who is in at some share is in at any larger one.

    Requests without the key (or with an empty one) are not in it: they are served by the others' release.
    """

    key: Key

    def __str__(self) -> str:
        return f"users by {self.key}"


@dataclass(frozen=True, kw_only=True)
class _Has:
    """A named part of a request: with that value, one that begins with `prefix`, or, with neither, any."""

    part: ClassVar[str]

    name: str
    value: str = ""
    prefix: str = ""

    def __post_init__(self) -> None:
        kind = type(self).__name__
        _need_name(kind, self.name)
        _need_text(f"{kind}.value", self.value)
        _need_text(f"{kind}.prefix", self.prefix)
        if self.value and self.prefix:
            raise WiringError(f"{kind} has a value and a prefix", right="one of them, or none: then any value will do")

    def __str__(self) -> str:
        return f"requests with {self.part} {self.name}{_like(self.value, self.prefix)}"


@dataclass(frozen=True, kw_only=True)
class HasHeader(_Has):
    """Requests with a header: with that value, one that begins with `prefix`, or, with neither, any."""

    part = "header"


@dataclass(frozen=True, kw_only=True)
class HasCookie(_Has):
    """Requests with a cookie: with that value, one that begins with `prefix`, or, with neither, any."""

    part = "cookie"


@dataclass(frozen=True, kw_only=True)
class Region:
    """Users by the address of their connection: in these networks (CIDR), or in countries of a MaxMind database.

    `countries` (ISO 3166-1, two letters) are looked up in `database` when the traffic is split.
    """

    networks: tuple[str, ...] = ()
    countries: tuple[str, ...] = ()
    database: Path | None = None

    def __post_init__(self) -> None:
        for network in self.networks:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise WiringError(f"Region.networks: {error}", right='networks like "10.0.0.0/8" or "2001:db8::/32"') from error
        if not (self.networks or self.countries):
            raise WiringError("Region has neither networks nor countries", right='Region(networks=("10.0.0.0/8",))')
        if self.countries and self.database is None:
            raise WiringError("Region has countries and no database", right='Region.of_countries(("AT",), database=Path(...))')
        if wrong := [code for code in self.countries if not re.fullmatch("[A-Z]{2}", code)]:
            raise WiringError(f"Region.countries: {', '.join(wrong)}", right="codes of two capital letters (ISO 3166-1): AT")

    @staticmethod
    def of_countries(countries: tuple[str, ...], *, database: Path) -> Region:
        return Region(countries=countries, database=database)

    def __str__(self) -> str:
        many = len(self.networks) > 3
        places = (*self.countries, *((f"{len(self.networks)} networks",) if many else self.networks))
        return f"users in {', '.join(places)}"


@dataclass(frozen=True)
class Device:
    """Users whose User-Agent has this pattern somewhere, in capital letters or small ones.

    A regular expression of what PCRE and RE2 have in common: no look-around, no back references.
    """

    pattern: str

    def __post_init__(self) -> None:
        _need_text("Device.pattern", self.pattern)
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise WiringError(f"Device.pattern {self.pattern!r}: {error}", right="a regular expression") from error
        if not self.pattern or re.search(r"\(\?[=!<]|\\[1-9]", self.pattern):
            raise WiringError(f"Device.pattern is {self.pattern!r}", right="a pattern without look-around and back references")

    def __str__(self) -> str:
        return f"devices like {self.pattern}"


Audience = Cohort | HasHeader | HasCookie | Region | Device


@dataclass(frozen=True)
class Chosen:
    """An audience, and each group's share of it in percent.

    Of a cohort, the groups that get nothing from others have their share by a hash of the key, and the others the rest of it, in
    the proportion of what they have of everybody else. Of any other audience, shares are met request by request.
    """

    audience: Audience
    weights: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        (group, share), *others = self.weights
        more = "".join(f", {part} % to {name}" for name, part in others)
        return f"{share} % of {self.audience} to {group}{more}"

    def picked(self, rest: Mapping[str, int]) -> dict[str, int]:
        """The groups that get requests of the audience only, where it is a cohort; else all that get some of it."""
        given = {group: share for group, share in self.weights if share > 0}
        if not isinstance(self.audience, Cohort):
            return given
        return {group: share for group, share in given.items() if not rest.get(group)}


def _need_name(what: str, name: str) -> None:
    if not NAME.fullmatch(name):
        raise WiringError(f"{what}: the name is {name!r}", right="letters, digits, and any of - _ .")


def _need_text(what: str, text: str) -> None:
    if not (text.isascii() and (text.isprintable() or not text)):
        raise WiringError(f"{what} is {text!r}", right="printable ASCII")


def _like(value: str, prefix: str) -> str:
    return f" {value!r}" if value else f" that begins with {prefix!r}" if prefix else ""
