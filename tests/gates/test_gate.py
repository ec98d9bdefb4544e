"""Gates: verdicts count for the evidence that their checks were given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gates import Check, Compare, QualityGate, Ruling, Verdict, Verification
from gates.verdict import digest_of, failed, passed
from pipeline import Journal, Pipeline, Project, Stage, Store, WiringError, Work
from pipeline.errors import Exit
from tests.pipeline.toys import FromFile, Half, Make, Number, Sends
from tests.running import run_pipeline


def fine(_: Number) -> Verdict:
    return passed("fine", "fine")


def no_lower(_: Number, __: Number) -> Verdict:
    return passed("no_lower", "fine")


class Lies(Check[Number]):
    """A check whose verdict names whatever it is told to name."""

    names: str

    async def run(self, work: Work) -> Verdict:
        return passed("fine", "fine").model_copy(update={"evidence": self.names})


class Own(Stage[Verdict]):
    """A check of another kind, of two pieces of evidence."""

    one: Stage[Number]
    two: Stage[Number]
    names: int

    async def run(self, work: Work) -> Verdict:
        return passed("own", "fine").model_copy(update={"evidence": digest_of(Number(value=self.names))})


@pytest.fixture
def decide(project: Project, journal: Journal, tmp_path: Path) -> Any:
    """With a store of its own: what another test's gate decided would be taken from a shared one."""
    store = Store(tmp_path / "store")
    (project.root / "n").write_text("8")

    def run(*checks: Any, again: frozenset[str] = frozenset()) -> tuple[Exit, list[dict[str, Any]]]:
        gate = QualityGate(artifact=Make(of=SOURCE), checks=checks)
        pipeline = Pipeline("thing", source=SOURCE, half=HALF, checks=checks, gate=gate)
        outcome, _ = run_pipeline(pipeline, project, store, journal, again=again)
        decided = journal.latest("gate", ("gate.decided",))
        return outcome.exit, decided.data["verdicts"] if decided else []

    return run


SOURCE = FromFile(path="n")
HALF = Half(of=SOURCE)


@pytest.mark.parametrize("names", ["", "e" * 64, digest_of(Number(value=8))])
def test_a_verdict_about_other_evidence_than_its_check_was_given_is_an_error(decide: Any, names: str) -> None:
    code, (verdict,) = decide(Lies(evidence=HALF, rule=fine, names=names))
    assert (code, verdict["ruling"]) == (Exit.FAILED, Ruling.ERROR.value)
    assert f"the verdict is about {'evidence ' + names[:12] if names else 'no evidence'}, which its check" in verdict["said"]
    assert verdict["wanted"] == f"a verdict on {digest_of(Number(value=4))[:12]}"


def test_a_verdict_that_names_the_evidence_of_its_check_counts(decide: Any) -> None:
    code, (verdict,) = decide(Lies(evidence=HALF, rule=fine, names=digest_of(Number(value=4))))
    assert (code, verdict["ruling"]) == (Exit.PASSED, "passed")


def test_a_comparison_stands_on_its_evidence_and_not_on_its_baseline(decide: Any) -> None:
    code, (verdict,) = decide(Compare(evidence=HALF, baseline=SOURCE, rule=no_lower))
    assert (code, verdict["evidence"]) == (Exit.PASSED, digest_of(Number(value=4)))


@pytest.mark.parametrize(("names", "code"), [(8, Exit.PASSED), (4, Exit.PASSED), (5, Exit.FAILED)])
def test_a_check_of_another_kind_may_stand_on_any_of_its_inputs(decide: Any, names: int, code: Exit) -> None:
    assert decide(Own(one=SOURCE, two=HALF, names=names))[0] is code


def test_cached_evidence_and_verdicts_are_compared_as_those_that_were_just_made(decide: Any) -> None:
    check = Check(evidence=HALF, rule=fine)
    for again in ((), ("gate",), ("checks[half]", "gate")):
        assert decide(check, again=frozenset(again))[0] is Exit.PASSED


def test_what_a_gate_holds_verdicts_against_is_not_for_others_to_say() -> None:
    wrong: Any = {"evidence": (SOURCE,)}
    with pytest.raises(WiringError, match="QualityGate has no field 'evidence'"):
        QualityGate(artifact=Make(of=SOURCE), checks=(Check(evidence=HALF, rule=fine),), **wrong)


@pytest.mark.parametrize("answer", [True, "passed", None])
def test_a_rule_that_returns_no_verdict_closes_the_gate(decide: Any, answer: Any) -> None:
    def careless(_: Number) -> Verdict:
        found: Verdict = answer
        return found

    code, (verdict,) = decide(Check(evidence=HALF, rule=careless))
    assert (code, verdict["ruling"], verdict["rule"]) == (Exit.FAILED, "error", "careless")
    assert verdict["said"] == f"the rule returned a {type(answer).__name__}"


def never(_: Number) -> Verdict:
    return failed("never", "it does not answer", wanted="an answer")


@pytest.mark.parametrize(("rule", "code", "left"), [(fine, Exit.PASSED, "sent\n"), (never, Exit.FAILED, "sent\ntook back 8\n")])
def test_a_deployment_stands_when_its_checks_passed_and_else_goes_back(
    project: Project, store: Store, journal: Journal, rule: Any, code: Exit, left: str
) -> None:
    (project.root / "n").write_text("8")
    deployment = Sends(of=SOURCE, file=project.root / "sent")
    verified = Verification(deployment=deployment, checks=(Check(evidence=Half(of=deployment), rule=rule),))
    outcome, results = run_pipeline(Pipeline("thing", deploy=deployment, verified=verified), project, store, journal)
    assert (outcome.exit, (project.root / "sent").read_text()) == (code, left)
    decided = journal.latest("verified", ("gate.decided",))
    assert decided is not None
    assert decided.data["open"] is (code is Exit.PASSED)
    if code is Exit.PASSED:
        assert results["verified"].deployment == Number(value=8)
        assert results["verified"].summary() == "1 check passed"
        assert [verdict.rule for verdict in results["verified"].verdicts] == ["fine"]
    else:
        assert outcome.failed["verified"] == "what is deployed does not hold: it does not answer\n  expected: an answer"


def test_a_verification_without_checks_is_refused() -> None:
    with pytest.raises(WiringError, match="a Verification without checks lets everything through"):
        Verification(deployment=SOURCE, checks=())


def test_what_is_checked_has_to_come_from_the_deployment() -> None:
    deployment = Sends(of=SOURCE, file=Path("sent"))
    elsewhere = FromFile(path="other")
    with pytest.raises(WiringError):
        Pipeline("thing", it=Verification(deployment=deployment, checks=(Check(evidence=elsewhere, rule=fine),)))
