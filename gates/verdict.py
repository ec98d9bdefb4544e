"""The judgement of a piece of evidence."""

from __future__ import annotations

from enum import Enum

from pipeline import Result
from pipeline.digest import canonical, of_bytes


class Ruling(Enum):
    """What a rule may say."""

    PASSED = "passed"
    FAILED = "failed"
    """The evidence is sound and says no."""
    ERROR = "error"
    """The evidence says nothing: it is missing, empty, unreadable or out of date. Never a pass."""


SHOWN = 20
"""Facts a concern names; the verdict has all of them."""


class Verdict(Result):
    """What a rule says of one piece of evidence, and what would have passed."""

    ruling: Ruling
    rule: str
    said: str
    """One sentence with the figures it stood on."""
    wanted: str = ""
    """What would have passed."""
    facts: tuple[str, ...] = ()
    """The particulars: failing tests, findings, files, each one line."""
    evidence: str = ""
    """SHA-256 of the evidence's canonical JSON; set by the check."""

    def summary(self) -> str:
        return f"{self.ruling.value}: {self.said}"

    def concern(self) -> str:
        if self.passed:
            return ""
        more = len(self.facts) - SHOWN
        rest = [f"and {more:,} more"] if more > 0 else []
        return "\n".join([self.said, *(f"  {fact}" for fact in [*self.facts[:SHOWN], *rest])])

    def reusable(self) -> bool:
        return self.ruling is Ruling.PASSED

    @property
    def passed(self) -> bool:
        return self.ruling is Ruling.PASSED


def digest_of(evidence: Result) -> str:
    """How a verdict names the evidence it stands on: SHA-256 of its canonical JSON."""
    return of_bytes(canonical(evidence.model_dump(mode="json")))


def passed(rule: str, said: str, *facts: str, wanted: str = "") -> Verdict:
    return Verdict(ruling=Ruling.PASSED, rule=rule, said=said, wanted=wanted, facts=facts)


def failed(rule: str, said: str, *facts: str, wanted: str) -> Verdict:
    return Verdict(ruling=Ruling.FAILED, rule=rule, said=said, wanted=wanted, facts=facts)


def error(rule: str, said: str, *facts: str, wanted: str) -> Verdict:
    return Verdict(ruling=Ruling.ERROR, rule=rule, said=said, wanted=wanted, facts=facts)
