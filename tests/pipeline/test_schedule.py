"""The schedule: what waits, what fits, and what goes first."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from pipeline import Effect, Pipeline, Resources, Stage, WiringError
from pipeline.schedule import Capacity, Schedule, priorities
from tests.pipeline.toys import Constant, Half, Number


def schedule(pipeline: Pipeline, capacity: Capacity, **seconds: float) -> Schedule:
    return Schedule(
        pipeline=pipeline, wanted=frozenset(pipeline), capacity=capacity, priority=priorities(pipeline, pipeline, seconds)
    )


def needing(**memory: int) -> dict[str, Stage[Number]]:
    return {
        name: Constant(value=n, resources=Resources(memory=size)) for n, (name, size) in enumerate(memory.items())
    }  # fmt: skip


def test_what_needs_more_memory_together_than_there_is_runs_one_after_the_other() -> None:
    stages = needing(a=600, b=500, c=400)
    made = schedule(Pipeline("thing", **stages), Capacity(cpu=8, memory=1000), a=9, b=5, c=1)
    assert [made.take(), made.take(), made.take()] == [stages["a"], stages["c"], None]  # b waits, and c need not wait for it
    made.give_back(stages["a"])
    assert made.take() is stages["b"]


def test_a_stage_that_needs_more_memory_than_there_is_is_refused_with_both_figures() -> None:
    with pytest.raises(WiringError, match="large needs 2000 MiB of memory") as caught:
        schedule(Pipeline("thing", **needing(large=2000)), Capacity(cpu=1, memory=1000))
    assert "at most 1000 MiB" in caught.value.right


def test_without_a_limit_memory_holds_nothing_up() -> None:
    made = schedule(Pipeline("thing", **needing(a=10**6, b=10**6)), Capacity(cpu=2))
    assert None not in {made.take(), made.take()}


def test_the_longest_way_to_the_end_goes_first() -> None:
    short, long = Constant(value=1), Constant(value=2)
    pipeline = Pipeline("thing", short=short, long=long, below=Half(of=long))
    assert schedule(pipeline, Capacity(cpu=1), short=2.0, long=1.0, below=5.0).take() is long
    assert schedule(pipeline, Capacity(cpu=1), short=9.0, long=1.0, below=5.0).take() is short


def test_stages_whose_work_is_done_elsewhere_take_the_processors_there_and_others_those_here() -> None:
    class Sends(Constant):
        effect: ClassVar[Effect] = Effect.ONCE

    pure = {f"pure{number}": Constant(value=number) for number in range(4)}
    sends = {f"sends{number}": Sends(value=number) for number in range(3)}
    pipeline, there = Pipeline("thing", **pure, **sends), [3]
    wanted = frozenset(pipeline)
    made = Schedule(
        pipeline=pipeline,
        wanted=wanted,
        capacity=Capacity(cpu=1),
        priority=priorities(pipeline, wanted, {}),
        elsewhere=lambda: there[0],
    )
    taken = taken_from(made)
    assert sorted(type(one).__name__ for one in taken) == ["Constant"] * 3 + ["Sends"]
    there[0] = 0  # what is elsewhere stays there until it ends; the next one is done here, after who is here
    away = next(one for one in taken if type(one) is Constant)
    made.give_back(away)
    assert taken_from(made) == []
    made.give_back(next(one for one in taken if type(one) is Sends))
    assert len(taken_from(made)) == 1


def taken_from(made: Schedule) -> list[Stage[Any]]:
    found = []
    while (one := made.take()) is not None:
        found.append(one)
    return found
