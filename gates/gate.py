"""Gates: the stages that let an artifact through, or do not."""

from __future__ import annotations

from typing import Any, ClassVar, Generic, TypeVar, final

from gates.verdict import Ruling, Verdict
from pipeline import Artifact, Effect, Result, Stage, StageFailed, WiringError, Work

A = TypeVar("A", bound=Artifact)
D = TypeVar("D", bound=Result)


class Passed(Result, Generic[A]):
    """An artifact that passed its gate, with the verdicts that let it through. Only a QualityGate issues it."""

    issuer: ClassVar[str] = "gates.gate.QualityGate"

    artifact: A
    verdicts: tuple[Verdict, ...]

    def summary(self) -> str:
        return f"{len(self.verdicts)} checks passed"


class Verified(Result, Generic[D]):
    """A deployment that was verified where it runs. Only a Verification issues it."""

    issuer: ClassVar[str] = "gates.gate.Verification"

    deployment: D
    verdicts: tuple[Verdict, ...]

    def summary(self) -> str:
        return f"{len(self.verdicts)} checks passed"


class GateClosed(StageFailed):
    """At least one verdict is not a pass."""

    def __init__(self, gate: str, verdicts: tuple[Verdict, ...]) -> None:
        against = [verdict for verdict in verdicts if not verdict.passed]
        first = against[0]
        more = f" (and {len(against) - 1} more)" if len(against) > 1 else ""
        super().__init__(f"{gate} is closed: {first.said}{more}", right=first.wanted)
        self.details = {"verdicts": [verdict.model_dump(mode="json") for verdict in verdicts]}


@final
class QualityGate(Stage["Passed[A]"], Generic[A]):
    """Lets `artifact` through when every check passed. All verdicts are journalled either way.

    Every check must rest on evidence that descends from the artifact or from what it was built from;
    the pipeline refuses to be built otherwise.
    """

    artifact: Stage[A]
    checks: tuple[Stage[Verdict], ...]

    def __post_init__(self) -> None:
        _need_checks(self, self.checks)

    def vouching(self) -> tuple[Stage[Any], tuple[Stage[Any], ...]]:
        return self.artifact, self.checks

    def result_type(self) -> Any:
        return Passed[self.artifact.result_type()]  # type: ignore[misc]  # the parameter is known at run time only

    async def run(self, work: Work) -> Passed[A]:
        verdicts = tuple(work[check] for check in self.checks)
        _decide(work, verdicts)
        passed: type[Passed[A]] = self.result_type()
        return passed(artifact=work[self.artifact], verdicts=verdicts)


@final
class Verification(Stage["Verified[D]"], Generic[D]):
    """Confirms a deployment when every check of it passed; when one did not, the deployment is undone."""

    effect: ClassVar[Effect] = Effect.RETRYABLE
    confirms: ClassVar[bool] = True

    deployment: Stage[D]
    checks: tuple[Stage[Verdict], ...]

    def __post_init__(self) -> None:
        _need_checks(self, self.checks)

    def vouching(self) -> tuple[Stage[Any], tuple[Stage[Any], ...]]:
        return self.deployment, self.checks

    def result_type(self) -> Any:
        return Verified[self.deployment.result_type()]  # type: ignore[misc]  # as above

    async def run(self, work: Work) -> Verified[D]:
        verdicts = tuple(work[check] for check in self.checks)
        _decide(work, verdicts)
        verified: type[Verified[D]] = self.result_type()
        return verified(deployment=work[self.deployment], verdicts=verdicts)


def _need_checks(gate: Stage[Any], checks: tuple[Stage[Verdict], ...]) -> None:
    if not checks:
        raise WiringError(f"a {type(gate).__name__} without checks lets everything through", right="checks=(Check(...), ...)")


def _decide(work: Work, verdicts: tuple[Verdict, ...]) -> None:
    """Journal the decision. Raises GateClosed when a verdict is not a pass."""
    is_open = all(verdict.ruling is Ruling.PASSED for verdict in verdicts)
    work.record("gate.decided", open=is_open, verdicts=[verdict.model_dump(mode="json") for verdict in verdicts])
    if not is_open:
        raise GateClosed(work.name, verdicts)
