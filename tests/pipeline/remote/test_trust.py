"""Whose results are taken for which stage: what nobody signed never gets past or behind a gate."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipeline import Pipeline, Stage, Work
from pipeline.remote.trust import Taken, taken
from pipeline.stage import Effect
from tests.pipeline.toys import Constant, FromFile, Number, Sends, Sum


class Gate(Stage[Number]):
    """Anything that vouches is a gate."""

    parts: tuple[Stage[Number], ...]

    def vouching(self) -> tuple[Stage[Any], tuple[Stage[Any], ...]]:
        return self, ()

    async def run(self, work: Work) -> Number:
        return Number(value=0)


def names(pipeline: Pipeline, *left_out: str) -> dict[str, Taken]:
    taking_part = frozenset(pipeline) - {pipeline[name] for name in left_out}
    return {pipeline.name_of(stage): whose for stage, whose in taken(pipeline, taking_part).items()}


def test_what_a_gate_rests_on_and_what_rests_on_it_needs_a_signature() -> None:
    evidence = Constant(value=1)
    gate = Gate(parts=(Sum(parts=(evidence,)),))
    found = names(Pipeline("p", evidence=evidence, gate=gate, below=Sum(parts=(gate,)), beside=Constant(value=2)))
    assert found == {
        "evidence": Taken.SIGNED,
        "sum": Taken.SIGNED,
        "gate": Taken.NEVER,
        "below": Taken.SIGNED,
        "beside": Taken.ANYBODY,
    }


def test_a_gate_that_takes_no_part_guards_what_is_behind_it_and_nothing_before_it() -> None:
    evidence = Constant(value=1)
    gate = Gate(parts=(evidence,))
    found = names(Pipeline("p", evidence=evidence, gate=gate, below=Sum(parts=(gate,))), "gate", "below")
    assert found == {"evidence": Taken.ANYBODY}


def test_what_a_side_effect_rests_on_needs_a_signature_and_it_is_never_taken_itself(tmp_path: Any) -> None:
    number = Constant(value=1)
    sends = Sends(of=number, file=tmp_path / "sent")
    found = names(Pipeline("p", number=number, sends=sends, below=Sum(parts=(sends,))))
    assert found == {"number": Taken.SIGNED, "sends": Taken.NEVER, "below": Taken.ANYBODY}


def test_what_a_gate_only_comes_after_needs_a_signature_too() -> None:
    number = Constant(value=1)
    assert names(Pipeline("p", number=number, gate=Gate(parts=(), after=(number,))))["number"] is Taken.SIGNED


def test_a_source_is_never_taken() -> None:
    assert names(Pipeline("p", source=FromFile(path="n"))) == {"source": Taken.NEVER}


KINDS = st.sampled_from(["plain", "plain", "gate", "effect"])


@st.composite
def pipelines(draw: st.DrawFn) -> tuple[Pipeline, frozenset[Stage[Any]]]:
    """Any DAG of plain stages, gates and side effects, and a part of it that is closed under inputs."""
    from pathlib import Path

    stages: list[Stage[Number]] = []
    for _ in range(draw(st.integers(1, 8))):
        inputs = tuple(draw(st.lists(st.sampled_from(stages), max_size=3, unique=True))) if stages else ()
        after = tuple(draw(st.lists(st.sampled_from(stages), max_size=1))) if stages else ()
        match draw(KINDS):
            case "gate":
                stages.append(Gate(parts=inputs, after=after))
            case "effect" if inputs:
                stages.append(Sends(of=inputs[0], after=(*inputs[1:], *after), file=Path("sent")))
            case _:
                stages.append(Sum(parts=inputs, after=after))
    pipeline = Pipeline("p", **{f"s{number}": stage for number, stage in enumerate(stages)})
    return pipeline, pipeline.upstream(draw(st.lists(st.sampled_from(stages), min_size=1)))


def reaches(pipeline: Pipeline, low: Stage[Any], high: Stage[Any]) -> bool:
    """Whether a way leads from `low` up to `high`, edge by edge."""
    return low is high or any(reaches(pipeline, source, high) for source in pipeline.inputs(low))


@given(pipelines())
def test_no_way_leads_between_a_gate_and_what_anybody_may_say(drawn: tuple[Pipeline, frozenset[Stage[Any]]]) -> None:
    pipeline, taking_part = drawn
    found = taken(pipeline, taking_part)
    assert found.keys() == taking_part
    for stage, whose in found.items():
        apart = all(
            not reaches(pipeline, other, stage)
            for other in taking_part
            if isinstance(other, Gate) or other.effect is not Effect.PURE
        ) and all(not reaches(pipeline, stage, other) for other in pipeline if isinstance(other, Gate))
        assert (whose is Taken.ANYBODY) == apart
        assert (whose is Taken.NEVER) == (isinstance(stage, Gate) or stage.effect is not Effect.PURE)
