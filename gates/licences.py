"""Evidence of licences, and the rules for it."""

from __future__ import annotations

from dataclasses import dataclass

from gates import verdict
from gates.verdict import Verdict
from gates.words import counted
from pipeline import Result


class Licensed(Result):
    """One distribution and its licence as an SPDX expression; empty where it states none that is known."""

    name: str
    version: str
    licence: str
    stated: str
    """What its metadata say, word for word."""


class LicenceReport(Result):
    """The licences of everything an environment holds."""

    tool: str
    packages: tuple[Licensed, ...]

    def summary(self) -> str:
        kinds = {package.licence or "unknown" for package in self.packages}
        return f"{counted(len(self.packages), 'package')} under {counted(len(kinds), 'licence')}"


@dataclass(frozen=True)
class AllowedLicences:
    """Every package under one of `allowed` (SPDX identifiers), except those named in `exceptions`.

    Of `A OR B` one has to be allowed, of `A AND B` both. An unknown licence is not allowed.
    """

    allowed: frozenset[str]
    exceptions: frozenset[str] = frozenset()

    def __call__(self, report: LicenceReport) -> Verdict:
        wanted = f"each of {', '.join(sorted(self.allowed))}"
        if not report.packages:
            return verdict.error("AllowedLicences", "no package was looked at", wanted=wanted)
        against = [p for p in report.packages if p.name not in self.exceptions and not allows(p.licence, self.allowed)]
        facts = tuple(f"{p.name} {p.version}: {p.licence or 'unknown'} (says {p.stated or 'nothing'!r})" for p in against)
        if against:
            verb = "is" if len(against) == 1 else "are"
            said = f"{len(against)} of {counted(len(report.packages), 'package')} {verb} under licences that are not allowed"
            return verdict.failed("AllowedLicences", said, *facts, wanted=wanted)
        return verdict.passed("AllowedLicences", report.summary(), wanted=wanted)


def allows(expression: str, allowed: frozenset[str]) -> bool:
    """Whether an SPDX expression is satisfied by the allowed licences (SPDX 3.0, annex B: AND binds tighter).

    >>> allows("MIT OR GPL-3.0-only", frozenset({"MIT"})), allows("MIT AND GPL-3.0-only", frozenset({"MIT"}))
    (True, False)
    >>> allows("(MIT OR Apache-2.0) AND BSD-3-Clause", frozenset({"MIT", "BSD-3-Clause"})), allows("", frozenset({"MIT"}))
    (True, False)
    """
    tokens = expression.replace("(", " ( ").replace(")", " ) ").split()
    try:
        value, rest = _or(tokens, allowed)
    except IndexError:
        return False
    return value and not rest


def _or(tokens: list[str], allowed: frozenset[str]) -> tuple[bool, list[str]]:
    value, rest = _and(tokens, allowed)
    while rest and rest[0].upper() == "OR":
        other, rest = _and(rest[1:], allowed)
        value = value or other
    return value, rest


def _and(tokens: list[str], allowed: frozenset[str]) -> tuple[bool, list[str]]:
    value, rest = _one(tokens, allowed)
    while rest and rest[0].upper() == "AND":
        other, rest = _one(rest[1:], allowed)
        value = value and other
    return value, rest


def _one(tokens: list[str], allowed: frozenset[str]) -> tuple[bool, list[str]]:
    if tokens[0] == "(":
        value, rest = _or(tokens[1:], allowed)
        if rest[0] != ")":
            return False, rest
        return value, rest[1:]
    name, rest = tokens[0], tokens[1:]
    if rest and rest[0].upper() == "WITH":
        name, rest = f"{name} WITH {rest[1]}", rest[2:]
    return name in allowed, rest
