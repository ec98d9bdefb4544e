"""Checks: stages that put a rule to a piece of evidence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar

from gates import verdict
from gates.verdict import Verdict
from pipeline import Result, Stage, Work
from pipeline.errors import said

R = TypeVar("R", bound=Result)

Rule = Callable[[R], Verdict]
"""A pure function of one piece of evidence. Rules with settings are frozen dataclasses with `__call__`."""

Comparison = Callable[[R, R], Verdict]
"""A pure function of evidence and of the baseline it is held against, in this order."""


class Check(Stage[Verdict], Generic[R]):
    """Puts `rule` to `evidence`. A rule that raises is an error verdict, never a pass."""

    judges: ClassVar[bool] = True

    evidence: Stage[R]
    rule: Callable[[R], Verdict]

    async def run(self, work: Work) -> Verdict:
        evidence = work[self.evidence]
        return _judged(self.rule, evidence)


class Compare(Stage[Verdict], Generic[R]):
    """Puts `rule` to `evidence` and `baseline`, two pieces of evidence of one type."""

    judges: ClassVar[bool] = True

    evidence: Stage[R]
    baseline: Stage[R]
    rule: Callable[[R, R], Verdict]

    async def run(self, work: Work) -> Verdict:
        return _judged(self.rule, work[self.evidence], work[self.baseline])


def name_of(rule: Callable[..., Any]) -> str:
    """The name of a rule in verdicts: its function's or its class's."""
    return getattr(rule, "__name__", type(rule).__name__)


def _judged(rule: Callable[..., Verdict], *evidence: Result) -> Verdict:
    """The verdict, with the digest of the (first piece of) evidence it stands on."""
    try:
        found = rule(*evidence)
    except (Exception, SystemExit) as problem:
        found = verdict.error(name_of(rule), f"the rule raised {said(problem)}", wanted="a verdict")
    if not isinstance(found, Verdict):
        found = verdict.error(name_of(rule), f"the rule returned a {type(found).__name__}", wanted="a Verdict")
    return found.model_copy(update={"evidence": verdict.digest_of(evidence[0])})
