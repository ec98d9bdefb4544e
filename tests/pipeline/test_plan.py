"""Plans: decided from what is given, with a reason for each stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import Facts, Only, Pipeline, Stage, WiringError, Work
from pipeline import key as keys
from pipeline.leftover import Leftover
from pipeline.plan import Decision, Plan, World, plan
from pipeline.record import Record
from pipeline.stage import Effect
from tests.pipeline.toys import Constant, FromFile, Half, Number, Sends, Sum


def world(records: dict[str, Record] | None = None, **more: Any) -> World:
    lookup = (records or {}).get
    given_: dict[str, Any] = {"facts": Facts(), "engine": "host", "platform": "here", "observed": {}, "last": {}.get}
    return World(**{"lookup": lookup, **given_, **more})


def made(result: str, parts: str = "{}") -> Record:
    return Record(result=result, size=1, run="r1", seconds=1.0, summary="", concern="", contents=[], parts=parts)


def decide(pipeline: Pipeline, given_: World) -> Plan:
    return plan(pipeline, frozenset(pipeline), given_)


def said(found: Plan) -> dict[str, tuple[str, str]]:
    return {step.name: (step.decision.value, step.reason) for step in found.steps}


def test_a_stage_that_never_ran_runs() -> None:
    assert said(decide(Pipeline("thing", one=Constant(value=1)), world())) == {"one": ("run", "has no result here yet")}


def test_a_known_key_is_cached_and_names_the_run_that_made_it() -> None:
    pipeline = Pipeline("thing", one=Constant(value=1))
    key = decide(pipeline, world()).steps[0].key
    assert key is not None
    found = decide(pipeline, world({key: made("a" * 64)}))
    assert said(found) == {"one": ("cached", "nothing it depends on changed since run r1")}


def test_what_waits_for_an_unknown_result_says_for_which() -> None:
    one = Constant(value=1)
    found = decide(Pipeline("thing", one=one, two=Half(of=one)), world())
    assert said(found)["two"] == ("run", "decided when one is known")


def test_a_side_effect_is_never_cached(tmp_path: Any) -> None:
    one = Constant(value=1)
    pipeline = Pipeline("thing", one=one, send=Sends(of=one, file=tmp_path))
    key = decide(pipeline, world()).steps[0].key
    assert key is not None
    assert said(decide(pipeline, world({key: made("a" * 64)})))["send"] == ("run", "has a side effect (once)")


def test_the_reason_names_the_components_that_changed() -> None:
    pipeline = Pipeline("thing", one=Constant(value=2))
    parts = decide(Pipeline("thing", one=Constant(value=1)), world()).steps[0].parts
    assert parts is not None
    found = decide(pipeline, world({"old": made("a" * 64, parts)}, last={"one": "old"}.get, platform="elsewhere"))
    assert said(found)["one"] == ("run", "platform, setting value changed")


def test_a_result_that_is_gone_from_the_store_is_a_reason() -> None:
    found = decide(Pipeline("thing", one=Constant(value=2)), world(last={"one": "gone"}.get))
    assert said(found)["one"] == ("run", "its latest result may not be used again")


def test_a_stage_for_another_engine_is_skipped_and_says_so() -> None:
    class Contained(Stage[Number]):
        engines = frozenset({"dagger"})

        async def run(self, work: Any) -> Number:
            return Number(value=1)

    found = decide(Pipeline("thing", it=Contained()), world())
    assert said(found) == {"it": ("skipped", "needs the engine dagger, this is host")}


def test_what_only_a_skipped_stage_needs_is_skipped_too() -> None:
    tool, shared = Constant(value=1), Constant(value=2)
    nightly = Sum(parts=(tool, shared), only=Only(event=("schedule",)))
    found = decide(Pipeline("thing", tool=tool, shared=shared, nightly=nightly, other=Half(of=shared)), world())
    assert said(found)["tool"] == ("skipped", "only nightly needs it, which is skipped")
    assert said(found)["shared"] == ("run", "has no result here yet")


def test_what_a_stage_only_comes_after_is_no_part_of_its_key() -> None:
    one, two = Constant(value=1), Constant(value=2)
    keys = set()
    for first in (one, two):
        pipeline = Pipeline("thing", first=first, it=Constant(value=3, after=(first,)))
        known = {str(decide(pipeline, world()).steps[0].key): made("a" * 64)}
        steps = {step.name: step for step in decide(pipeline, world(known)).steps}
        keys.add(steps["it"].key)
        assert said(decide(pipeline, world()))["it"] == ("run", "decided when first is known")
    assert len(keys) == 1


def test_what_a_stage_observes_is_part_of_its_key() -> None:
    one = FromFile(path="n")
    pipeline = Pipeline("thing", one=one)
    keys = {decide(pipeline, world(observed={one: seen})).steps[0].key for seen in ("a", "b")}
    assert len(keys) == 2


@st.composite
def pipelines(draw: st.DrawFn) -> Pipeline:
    """Random DAGs of up to twelve stages."""
    stages: list[Stage[Number]] = []
    for number in range(draw(st.integers(1, 12))):
        parts = draw(st.lists(st.sampled_from(stages), max_size=3, unique=True)) if stages else []
        stages.append(Sum(parts=tuple(parts), plus=number))
    return Pipeline("random", **{f"s{number}": stage for number, stage in enumerate(stages)})


@given(pipelines(), st.sets(st.integers(0, 11)))
def test_a_stage_is_cached_only_when_every_input_is_known(pipeline: Pipeline, have: set[int]) -> None:
    """Against the plain statement of the rule, for random graphs and random contents of the store."""
    keys: dict[str, Record] = {}
    for number, stage in enumerate(pipeline):
        steps = {step.stage: step for step in decide(pipeline, world(keys)).steps}
        key = steps[stage].key
        if number in have and key is not None:
            keys[key] = made(f"{number:064x}")
    steps = {step.stage: step for step in decide(pipeline, world(keys)).steps}
    for stage in pipeline:
        step, inputs = steps[stage], [steps[source] for source in pipeline.inputs(stage)]
        known = all(one.decision is Decision.CACHED for one in inputs)
        assert (step.key is not None) == known
        assert (step.decision is Decision.CACHED) == (known and step.key in keys)


@given(pipelines())
def test_a_plan_is_in_topological_order_and_says_the_same_twice(pipeline: Pipeline) -> None:
    first, second = decide(pipeline, world()), decide(pipeline, world())
    assert first.steps == second.steps
    seen: set[Stage[Any]] = set()
    for step in first.steps:
        assert set(pipeline.inputs(step.stage)) <= seen
        seen.add(step.stage)


def test_effects_have_the_names_the_documentation_uses() -> None:
    assert [effect.value for effect in Effect] == ["pure", "retryable", "once"]


class Confirms(Half):
    confirms = True


def test_an_effect_that_nobody_would_confirm_is_skipped_with_its_confirmation(tmp_path: Any) -> None:
    send = Sends(of=Constant(value=1), file=tmp_path)
    one = Confirms(of=send, only=Only(branch=("main",)))
    beside = Half(of=send)
    found = said(decide(Pipeline("thing", send=send, one=one, beside=beside), world(facts=Facts(branch="topic"))))
    assert found["send"] == ("skipped", "one would confirm it, which is skipped")
    assert found["beside"] == ("skipped", "needs send, which is skipped")
    two = Confirms(of=send)
    found = said(decide(Pipeline("thing", send=send, one=one, two=two), world(facts=Facts(branch="topic"))))
    assert found["send"][0] == "run"  # another one confirms it


def test_a_setting_that_could_not_be_told_from_another_is_refused_before_anything_runs() -> None:
    class Odd(Sends):
        thing: object = None

    for value, what in ((object(), "holds a object"), (float("nan"), "cannot be part of a key")):
        with pytest.raises(WiringError, match=f"Odd.thing {what}"):
            decide(Pipeline("thing", send=Odd(of=Constant(value=1), file=Path("x"), thing=value)), world())


class Mails(Stage[Number]):
    """An effect that nobody can take back."""

    effect: ClassVar[Effect] = Effect.ONCE

    of: Stage[Number]

    async def run(self, work: Work) -> Number:
        return work[self.of]


class Looks(Mails):
    async def recover(self, work: Work) -> Number | None:
        return None


ONE = Constant(value=1)
UNDOABLE = Sends(of=ONE, file=Path("x"))


@pytest.mark.parametrize(
    ("send", "result", "what"),
    [
        (UNDOABLE, "d" * 64, "what run r7 did not confirm is taken back first"),
        (UNDOABLE, None, "nobody knows whether it took place in run r7"),
        (Mails(of=ONE), None, "nobody knows whether it took place in run r7"),
        (Looks(of=ONE), None, "what came of it in run r7 is found out first"),
    ],
)
def test_the_plan_says_what_is_to_be_done_about_what_a_killed_run_left_open(
    send: Stage[Number], result: str | None, what: str
) -> None:
    left = Leftover(run="r7", about="a", result=result)
    found = decide(Pipeline("thing", one=ONE, send=send), world(left={send: (left,)}))
    assert said(found)["send"] == ("run", f"has a side effect (once), after one; {what}, unless that run goes on")


def test_the_plan_says_nothing_of_another_message_of_which_nobody_knows() -> None:
    one = Constant(value=1)
    send = Mails(of=one)
    record = made("a" * 64)
    for about, more in ((keys.about(send, {one: record.result}), "; nobody knows"), ("another", "")):
        left = Leftover(run="r7", about=about, result=None)
        found = decide(Pipeline("thing", one=one, send=send), world(lookup=lambda _: record, left={send: (left,)}))
        assert said(found)["send"][1].partition(" whether")[0] == f"has a side effect (once){more}"


def test_a_concern_is_left_to_whoever_takes_the_result_and_else_keeps_the_plan_from_being_settled() -> None:
    source = Constant(value=1)
    half = Half(of=source)
    pipeline = Pipeline("thing", source=source, half=half)
    fine, bad = made("a" * 64), made("a" * 64)._replace(concern="bad")

    def settled(of_source: Record, of_half: Record) -> bool:
        found = [of_source, of_half]
        return plan(pipeline, frozenset(pipeline), world(lookup=lambda _: found.pop(0))).settled()

    assert settled(fine, fine)
    assert settled(bad, fine)
    assert not settled(fine, bad)
    assert not decide(pipeline, world()).settled()
