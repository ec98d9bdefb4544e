"""Gates: the stages that let an artifact through, or do not."""

from __future__ import annotations

from dataclasses import field
from typing import Any, ClassVar, Generic, TypeVar, final

from gates import verdict
from gates.check import Check, Compare
from gates.verdict import Ruling, Verdict
from gates.words import counted
from pipeline import Artifact, Effect, Result, Stage, StageFailed, WiringError, Work
from pipeline.stage import uses

A = TypeVar("A", bound=Artifact)
D = TypeVar("D", bound=Result)


class Passed(Result, Generic[A]):
    """An artifact that passed its gate, with the verdicts that let it through. Only a QualityGate issues it."""

    issuer: ClassVar[str] = "gates.gate.QualityGate"

    artifact: A
    verdicts: tuple[Verdict, ...]

    def summary(self) -> str:
        return f"{counted(len(self.verdicts), 'check')} passed"


class Verified(Result, Generic[D]):
    """A deployment that was verified where it runs. Only a Verification issues it."""

    issuer: ClassVar[str] = "gates.gate.Verification"

    deployment: D
    verdicts: tuple[Verdict, ...]

    def summary(self) -> str:
        return f"{counted(len(self.verdicts), 'check')} passed"


class GateClosed(StageFailed):
    """At least one verdict is not a pass."""

    def __init__(self, what: str, verdicts: tuple[Verdict, ...]) -> None:
        against = [one for one in verdicts if not one.passed]
        first = against[0]
        more = f" (and {len(against) - 1} more)" if len(against) > 1 else ""
        super().__init__(f"{what}: {first.said}{more}", right=first.wanted)
        self.details = {"verdicts": [one.model_dump(mode="json") for one in verdicts]}


@final
class QualityGate(Stage["Passed[A]"], Generic[A]):
    """Lets `artifact` through when every check passed. All verdicts are journalled either way.

    Every check must rest on evidence that descends from the artifact or from what it was built from;
    the pipeline refuses to be built otherwise.
    """

    artifact: Stage[A]
    checks: tuple[Stage[Verdict], ...]
    evidence: tuple[Stage[Any], ...] = field(init=False, default=())
    """What the checks were given, found by the gate itself: it holds each verdict against it."""

    def __post_init__(self) -> None:
        _need_checks(self, self.checks)
        object.__setattr__(self, "evidence", _evidence(self.checks))

    def vouching(self) -> tuple[Stage[Any], tuple[Stage[Any], ...]]:
        return self.artifact, self.checks

    def result_type(self) -> Any:
        return Passed[self.artifact.result_type()]  # type: ignore[misc]  # the parameter is known at run time only

    async def run(self, work: Work) -> Passed[A]:
        verdicts = tuple(_verdict(work, check) for check in self.checks)
        _decide(work, verdicts, f"{work.name} is closed")
        passed: type[Passed[A]] = self.result_type()
        return passed(artifact=work[self.artifact], verdicts=verdicts)


@final
class Verification(Stage["Verified[D]"], Generic[D]):
    """Confirms a deployment when every check of it passed; when one did not, the deployment is undone."""

    effect: ClassVar[Effect] = Effect.RETRYABLE
    confirms: ClassVar[bool] = True

    deployment: Stage[D]
    checks: tuple[Stage[Verdict], ...]
    evidence: tuple[Stage[Any], ...] = field(init=False, default=())
    """As of a QualityGate."""

    def __post_init__(self) -> None:
        _need_checks(self, self.checks)
        object.__setattr__(self, "evidence", _evidence(self.checks))

    def vouching(self) -> tuple[Stage[Any], tuple[Stage[Any], ...]]:
        return self.deployment, self.checks

    def result_type(self) -> Any:
        return Verified[self.deployment.result_type()]  # type: ignore[misc]  # as above

    async def run(self, work: Work) -> Verified[D]:
        verdicts = tuple(_verdict(work, check) for check in self.checks)
        _decide(work, verdicts, "what is deployed does not hold")
        verified: type[Verified[D]] = self.result_type()
        return verified(deployment=work[self.deployment], verdicts=verdicts)


def _need_checks(gate: Stage[Any], checks: tuple[Stage[Verdict], ...]) -> None:
    if not checks:
        raise WiringError(f"a {type(gate).__name__} without checks lets everything through", right="checks=(Check(...), ...)")


def _given(check: Stage[Verdict]) -> tuple[Stage[Any], ...]:
    """The stages whose results a check may judge: its evidence; every input of a check of another kind."""
    if isinstance(check, Check | Compare):
        return (check.evidence,)
    return tuple(source for _, source in uses(check))


def _evidence(checks: tuple[Stage[Verdict], ...]) -> tuple[Stage[Any], ...]:
    return tuple(dict.fromkeys(source for check in checks for source in _given(check)))


def _verdict(work: Work, check: Stage[Verdict]) -> Verdict:
    """The verdict of a check; an error in its place when it stands on something else than the check was given."""
    found = work[check]
    given = [verdict.digest_of(work[source]) for source in _given(check)]
    if found.evidence in given:
        return found
    named = f"evidence {found.evidence[:12]}" if found.evidence else "no evidence"
    wanted = f"a verdict on {' or '.join(one[:12] for one in given) or 'an input of the check'}"
    refused = verdict.error(found.rule, f"the verdict is about {named}, which its check was not given", wanted=wanted)
    return refused.model_copy(update={"evidence": found.evidence})


def _decide(work: Work, verdicts: tuple[Verdict, ...], otherwise: str) -> None:
    """Journal the decision. Raises GateClosed, which says `otherwise`, when a verdict is not a pass."""
    is_open = all(one.ruling is Ruling.PASSED for one in verdicts)
    work.record("gate.decided", open=is_open, verdicts=[one.model_dump(mode="json") for one in verdicts])
    if not is_open:
        raise GateClosed(otherwise, verdicts)
