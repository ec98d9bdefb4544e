"""The schedule: what waits, what fits, and what goes first."""

from __future__ import annotations

import pytest

from pipeline import Pipeline, Resources, Stage, WiringError
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
