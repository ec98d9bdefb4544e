"""What a pipeline refuses when it is built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from gates import Check, Passed, QualityGate, Verdict, Verification
from gates.verdict import passed
from pipeline import Pipeline, Resources, Result, Retry, Stage, Tree, WiringError, Work
from stages.delivery.deploy import Deploy
from stages.delivery.haproxy import HAProxy
from stages.delivery.local import LocalProcesses
from stages.source import Commit, Provenance, SourceProvenance, WorkingCopy
from tests.pipeline.toys import Constant, FromFile, Half, Make, Number, Sends, Sum, Thing


@dataclass(frozen=True)
class Below:
    limit: int

    def __call__(self, number: Number) -> Verdict:
        return passed("Below", f"{number.value} is below {self.limit}")


def fine(_: Number) -> Verdict:
    return passed("fine", "fine")


def test_stages_are_named_by_keyword_and_otherwise_after_their_class() -> None:
    one = Constant(value=1)
    pipeline = Pipeline("thing", total=Sum(parts=(one, Half(of=one))))
    assert [pipeline.name_of(stage) for stage in pipeline] == ["constant", "half", "total"]
    assert pipeline.inputs(pipeline["half"]) == (one,)


def test_a_matrix_is_named_by_the_settings_that_differ() -> None:
    source = Constant(value=1)
    pipeline = Pipeline("thing", sums=tuple(Sum(parts=(source,), plus=plus) for plus in (1, 2)))
    assert [pipeline.name_of(stage) for stage in pipeline] == ["constant", "sums[1]", "sums[2]"]


def test_a_matrix_of_equal_stages_is_numbered() -> None:
    pipeline = Pipeline("thing", many=(Constant(value=1), Constant(value=1)))
    assert [pipeline.name_of(stage) for stage in pipeline] == ["many[0]", "many[1]"]


def test_members_with_the_same_inputs_are_told_apart_by_what_they_are_given_and_leave_the_others_their_names() -> None:
    one, other = Constant(value=1), Constant(value=2)
    rules: list[Any] = [fine, Below(1), Below(2)]
    checks = (*(Check(evidence=one, rule=rule) for rule in rules), Check(evidence=other, rule=fine))
    pipeline = Pipeline("thing", one=one, other=other, checks=checks)
    names = [pipeline.name_of(check) for check in checks]
    assert names == ["checks[one,fine]", "checks[one,Below,1]", "checks[one,Below,2]", "checks[other]"]


@pytest.mark.parametrize("name", ["a/b", "..", "a\x1b[31m", "", "x" * 300])
def test_a_name_that_no_stage_may_have_is_refused(name: str) -> None:
    with pytest.raises(WiringError, match="the name"):
        Pipeline("thing", **{name: Constant(value=1)})
    with pytest.raises(WiringError, match="the name"):
        Pipeline("thing", **{name: (Constant(value=1), Constant(value=2))})


def test_a_stage_named_after_a_class_with_an_odd_name_is_refused_too() -> None:
    odd = type("A/B", (Constant,), {})
    with pytest.raises(WiringError, match="no stage may have the name 'a/b'"):
        Pipeline("thing", total=Sum(parts=(odd(value=1),)))


def test_settings_may_hold_what_a_directory_cannot() -> None:
    class Named(Constant):
        word: str

    def names(*words: str) -> list[str]:
        pipeline = Pipeline("thing", m=tuple(Named(value=1, word=word) for word in words))
        return [pipeline.name_of(stage) for stage in pipeline]

    assert names("a/b", "a_b") == ["m[a/b]", "m[a_b]"]
    assert names("a\nb", "c") == ["m[0]", "m[1]"]
    assert names("x" * 300, "c") == ["m[0]", "m[1]"]


def test_a_cycle_is_shown_as_a_path() -> None:
    one = Half(of=Constant(value=1))
    two = Half(of=one)
    object.__setattr__(one, "of", two)
    with pytest.raises(WiringError, match=r"cycle: (one -> two -> one|two -> one -> two)"):
        Pipeline("thing", one=one, two=two)


def test_two_stages_of_one_name_are_refused_with_the_way_to_name_one() -> None:
    with pytest.raises(WiringError, match="two stages have the name 'constant'") as caught:
        Pipeline("thing", total=Sum(parts=(Constant(value=1), Constant(value=2))))
    assert "Pipeline(..., other_constant=...)" in str(caught.value)


def test_one_stage_cannot_have_two_names() -> None:
    one = Constant(value=1)
    with pytest.raises(WiringError, match="two names, 'a' and 'b'"):
        Pipeline("thing", a=one, b=one)


@pytest.mark.parametrize("name", ["", "Thing", "a b", "-x", "thing\n"])
def test_a_name_that_cannot_be_used_is_refused(name: str) -> None:
    with pytest.raises(WiringError, match="cannot be used"):
        Pipeline(name, one=Constant(value=1))


def test_a_pipeline_without_stages_is_refused() -> None:
    with pytest.raises(WiringError, match="no stages"):
        Pipeline("thing")


def test_what_is_no_stage_is_refused() -> None:
    wrong: Any = "unit"
    with pytest.raises(WiringError, match="unit is a str"):
        Pipeline("thing", unit=wrong)


def test_a_stage_hidden_in_a_list_is_refused() -> None:
    class Listed(Stage[Number]):
        parts: Any

        async def run(self, work: Work) -> Number:
            return Number(value=0)

    with pytest.raises(WiringError, match=r"Listed.parts holds stages in a list"):
        Pipeline("thing", one=Listed(parts=[Constant(value=1)]))


def test_an_unknown_stage_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(WiringError, match="did you mean 'image'") as caught:
        Pipeline("thing", image=Constant(value=1))["imgae"]
    assert caught.value.what == "there is no stage 'imgae'"


def test_a_stage_that_does_not_say_what_it_returns_is_refused() -> None:
    class Vague(Stage):  # type: ignore[type-arg]
        async def run(self, work: Work) -> Any:
            return None

    with pytest.raises(WiringError, match="Vague does not say what it returns"):
        Pipeline("thing", vague=Vague())


def test_a_forged_passed_is_refused() -> None:
    class Shortcut(Stage[Passed[Thing]]):
        async def run(self, work: Work) -> Passed[Thing]:
            return Passed[Thing](artifact=Thing(value=1), verdicts=())

    with pytest.raises(WiringError, match=r"Passed\[Thing\], which only gates.gate.QualityGate may issue"):
        Pipeline("thing", shortcut=Shortcut())


def test_no_subclass_of_passed_may_name_another_issuer() -> None:
    class Own(Passed[Thing]):
        issuer = "tests.pipeline.test_dag.Forger"

    class Forger(Stage[Own]):
        async def run(self, work: Work) -> Own:
            return Own(artifact=Thing(value=1), verdicts=())

    with pytest.raises(WiringError, match="may issue"):
        Pipeline("thing", forger=Forger())


def test_a_result_type_that_hides_the_declared_one_does_not_help() -> None:
    class Hides(Stage[Passed[Thing]]):
        def result_type(self) -> Any:
            return Result

        async def run(self, work: Work) -> Passed[Thing]:
            return Passed[Thing](artifact=Thing(value=1), verdicts=())

    with pytest.raises(WiringError, match="may issue"):
        Pipeline("thing", hides=Hides())


def test_what_is_no_gate_cannot_be_deployed_where_no_checker_ran() -> None:
    image: Any = Make(of=Constant(value=1))
    with pytest.raises(WiringError, match=r"Deploy.release is a Make"):
        Deploy(release=image, target=LocalProcesses(name="x"), router=HAProxy(name="x", port=8080))


def test_evidence_from_the_artifacts_own_source_may_vouch_for_it() -> None:
    source = FromFile(path="n")
    gate = QualityGate(artifact=Make(of=source), checks=(Check(evidence=Half(of=source), rule=fine),))
    assert len(Pipeline("thing", gate=gate)) == 5


def test_evidence_about_the_artifact_itself_may_vouch_for_it() -> None:
    class Weigh(Stage[Number]):
        of: Stage[Thing]

        async def run(self, work: Work) -> Number:
            return Number(value=1)

    thing = Make(of=FromFile(path="n"))
    gate = QualityGate(artifact=thing, checks=(Check(evidence=Weigh(of=thing), rule=fine),))
    assert Pipeline("thing", gate=gate)["gate"] is gate


def test_evidence_from_another_source_is_refused() -> None:
    ours, theirs = FromFile(path="ours"), FromFile(path="theirs")
    gate = QualityGate(artifact=Make(of=ours), checks=(Check(evidence=Half(of=theirs), rule=fine),))
    with pytest.raises(WiringError, match="gate: check does not descend from make nor from its source"):
        Pipeline("thing", ours=ours, theirs=theirs, gate=gate)


class Packs(Stage[Thing]):
    """An artifact made of a tree, dated by the commit."""

    source: Stage[Tree]
    provenance: Stage[Provenance] | None = None

    async def run(self, work: Work) -> Thing:
        return Thing(value=work[self.source].files)


class Counts(Stage[Number]):
    """Evidence about a tree, or about where it comes from."""

    of: Stage[Any]

    async def run(self, work: Work) -> Number:
        return Number(value=1)


def weighed(source: Stage[Tree], evidence: Stage[Any], provenance: Stage[Provenance] | None = None) -> Pipeline:
    gate = QualityGate(
        artifact=Packs(source=source, provenance=provenance), checks=(Check(evidence=Counts(of=evidence), rule=fine),)
    )
    return Pipeline("thing", made_from=source, looked_at=evidence, gate=gate)


def test_evidence_from_other_files_of_the_same_working_copy_is_refused() -> None:
    with pytest.raises(WiringError, match="check does not descend from packs nor from its source") as caught:
        weighed(WorkingCopy(include=("src/**",)), WorkingCopy(include=("docs/**",)), SourceProvenance())
    assert "(of the working copy it has docs/**, not src/**)" in caught.value.what


@pytest.mark.parametrize("include", [(), ("src", "tests"), ("src/pkg/*.py",), ("**/*.py",)])
def test_evidence_from_files_that_overlap_with_the_artifacts_may_vouch(include: tuple[str, ...]) -> None:
    assert len(weighed(WorkingCopy(include=("src/**",)), WorkingCopy(include=include))) == 6


def test_evidence_from_the_working_copy_is_none_about_a_commit() -> None:
    with pytest.raises(WiringError, match="does not descend"):
        weighed(Commit(), WorkingCopy())


def test_evidence_about_the_commit_itself_may_vouch_for_what_is_made_from_the_working_copy() -> None:
    assert weighed(WorkingCopy(include=("src",)), SourceProvenance())


def test_evidence_about_another_artifact_of_the_same_source_is_refused() -> None:
    class Weigh(Stage[Number]):
        of: Stage[Thing]

        async def run(self, work: Work) -> Number:
            return Number(value=1)

    source = FromFile(path="n")
    other = Make(of=Half(of=source))
    gate = QualityGate(artifact=Make(of=source), checks=(Check(evidence=Weigh(of=other), rule=fine),))
    with pytest.raises(WiringError, match="check is evidence about other, not about make"):
        Pipeline("thing", other=other, gate=gate)


def test_a_gate_without_checks_is_refused() -> None:
    with pytest.raises(WiringError, match="lets everything through"):
        QualityGate(artifact=Make(of=Constant(value=1)), checks=())


def test_upstream_and_downstream_are_transitive() -> None:
    one = Constant(value=1)
    two = Half(of=one)
    three = Sum(parts=(two,))
    pipeline = Pipeline("thing", one=one, two=two, three=three, alone=Constant(value=4))
    assert pipeline.upstream([three]) == {one, two, three}
    assert pipeline.downstream(one) == {two, three}


def test_a_stage_is_frozen() -> None:
    one = Constant(value=1)
    with pytest.raises(AttributeError):
        one.value = 2  # type: ignore[misc]


def test_results_are_frozen_and_refuse_what_they_do_not_know() -> None:
    class Point(Result):
        x: int

    with pytest.raises(ValueError, match="frozen"):
        Point(x=1).x = 2
    with pytest.raises(ValueError, match="Extra inputs"):
        Point(x=1, y=2)  # type: ignore[call-arg]


def test_what_only_comes_after_an_artifact_is_no_evidence_about_it() -> None:
    made = Make(of=FromFile(path="n"))
    other = Half(of=Constant(value=1), after=(made,))
    with pytest.raises(WiringError, match="does not descend from made nor from its source"):
        Pipeline("thing", made=made, other=other, gate=QualityGate(artifact=made, checks=(Check(evidence=other, rule=fine),)))


def test_a_verification_rests_on_what_was_found_where_the_deployment_runs() -> None:
    source = FromFile(path="n")
    made = Make(of=source)
    before, there = Half(of=source), Half(of=Weighed(of=made))
    for evidence, right in ((before, False), (there, True)):
        checks = (Check(evidence=evidence, rule=fine),)
        if right:
            Pipeline("thing", made=made, evidence=evidence, verified=Verification(deployment=made, checks=checks))
            continue
        with pytest.raises(WiringError, match="check does not descend from made"):
            Pipeline("thing", made=made, evidence=evidence, verified=Verification(deployment=made, checks=checks))


class Weighed(Stage[Number]):
    """A number about a thing."""

    of: Stage[Thing]

    async def run(self, work: Work) -> Number:
        return Number(value=work[self.of].value)


ONE = Constant(value=1)


@pytest.mark.parametrize("hidden", [((ONE,),), ([ONE],), {"a": ONE}, [[ONE]]])
def test_a_stage_hidden_below_a_tuple_is_refused(hidden: Any) -> None:
    class Hides(Stage[Number]):
        things: Any

        async def run(self, work: Work) -> Number:
            raise AssertionError("never")

    with pytest.raises(WiringError, match=r"Hides\.things holds stages in a (tuple|list|dict)"):
        Pipeline("thing", hides=Hides(things=hidden))


def test_negative_numbers_of_attempts_and_processors_are_refused() -> None:
    with pytest.raises(WiringError, match=r"Retry\.times is -1"):
        Retry(times=-1)
    with pytest.raises(WiringError, match=r"Resources\.cpu is -2"):
        Resources(cpu=-2)


def test_a_way_back_from_no_side_effect_is_refused() -> None:
    class Undoes(Half):
        async def undo(self, work: Work, result: Any) -> None:
            raise AssertionError("never")

    with pytest.raises(WiringError, match=r"half defines undo and has no side effect: Undoes\.effect is PURE") as refused:
        Pipeline("thing", half=Undoes(of=ONE))
    assert "Effect.RETRYABLE" in refused.value.right


def test_nobody_goes_on_from_what_always_runs_but_what_always_runs_too() -> None:
    stops = Half(of=ONE, always=True)
    for after in (Half(of=stops), Constant(value=2, after=(stops,))):
        with pytest.raises(WiringError, match="after comes after stops, which always runs and says nothing") as refused:
            Pipeline("thing", stops=stops, after=after)
        assert "after with always=True too" in refused.value.right
    assert len(Pipeline("thing", stops=stops, after=Half(of=stops, always=True))) == 3


def test_what_always_runs_comes_after_something() -> None:
    with pytest.raises(WiringError, match="one always runs, and there is nothing it comes after"):
        Pipeline("thing", one=Constant(value=1, always=True))


def test_what_always_runs_decides_of_nothing_and_is_not_taken_back(tmp_path: Path) -> None:
    def rule(_: Number) -> Verdict:
        raise AssertionError("never")

    class Confirms(Half):
        confirms: ClassVar[bool] = True

    image = Make(of=ONE)
    check = Check(evidence=ONE, rule=rule)
    for stage in (
        Check(evidence=ONE, rule=rule, always=True),
        QualityGate(artifact=image, checks=(check,), always=True),
        Confirms(of=ONE, always=True),
    ):
        with pytest.raises(WiringError, match=r"it always runs, and a \w+ decides whether others go on"):
            Pipeline("thing", it=stage)
    with pytest.raises(WiringError, match="send always runs, and defines undo"):
        Pipeline("thing", send=Sends(of=ONE, file=tmp_path, always=True))


def test_what_always_runs_needs_only_what_it_uses() -> None:
    tests = Half(of=ONE)
    stops = Half(of=ONE, after=(tests,), always=True)
    pipeline = Pipeline("thing", one=ONE, tests=tests, stops=stops)
    assert pipeline.inputs(stops) == (tests, ONE)
    assert (pipeline.needs(stops), pipeline.needs(tests)) == ((ONE,), (ONE,))
    assert pipeline.upstream([stops]) == {stops, ONE}
    assert pipeline.downstream(tests) == set()
    assert pipeline.downstream(ONE) == {tests, stops}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"after": Constant(value=2)}, r"Constant\.after is a Constant, and takes a tuple"),
        ({"after": [Constant(value=2)]}, r"Constant\.after is a list, and takes a tuple"),
        ({"timeout": "5"}, "it: timeout is '5'"),
        ({"timeout": None}, "it: timeout is None"),
        ({"timeout": float("nan")}, "it: timeout is nan"),
        ({"timeout": 0}, "it: timeout is 0"),
        ({"retry": 3}, "it: retry is 3"),
        ({"only": "main"}, "it: only is 'main'"),
        ({"resources": 5}, "it: resources is 5"),
        ({"always": "yes"}, "it: always is 'yes'"),
    ],
)
def test_a_field_that_every_stage_has_takes_what_it_is_for(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(WiringError, match=said) as caught:
        Pipeline("thing", source=(source := Constant(value=0)), it=Constant(value=1, **{"after": (source,), **fields}))
    assert caught.value.right
