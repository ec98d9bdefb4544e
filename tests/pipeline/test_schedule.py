"""The schedule: what waits, what fits, and what goes first."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def backfilling(
    capacity: Capacity, **needs: tuple[int, int, float, float]
) -> tuple[Schedule, list[float], dict[str, Stage[Any]]]:
    """A schedule of stages with processors, memory, seconds and urgency; the time by its clock, which is set."""
    stages = {
        name: Constant(value=number, resources=Resources(cpu=cpu, memory=memory))
        for number, (name, (cpu, memory, _, _)) in enumerate(needs.items())
    }
    pipeline, now = Pipeline("thing", **stages), [0.0]
    made = Schedule(
        pipeline=pipeline,
        wanted=frozenset(pipeline),
        capacity=capacity,
        priority={stage: needs[name][3] for name, stage in stages.items()},
        expected=lambda stage: needs[pipeline.name_of(stage)][2],
        clock=lambda: now[0],
    )
    return made, now, dict(stages)


def test_what_would_keep_the_most_urgent_stage_waiting_for_its_processors_does_not_start() -> None:
    made, now, stages = backfilling(
        Capacity(cpu=2), first=(1, 0, 9, 90), second=(1, 0, 7, 80), large=(2, 0, 1, 70), small=(1, 0, 5, 10), idle=(0, 0, 99, 1)
    )
    assert taken_from(made) == [stages["first"], stages["second"], stages["idle"]]
    now[0] = 7.0
    made.give_back(stages["second"])
    assert taken_from(made) == []  # `first` should end in 2 s, and `small` in 5
    made.give_back(stages["first"])
    assert taken_from(made) == [stages["large"]]


def test_what_should_have_ended_by_then_is_started_before_the_most_urgent_stage_has_room() -> None:
    made, now, stages = backfilling(
        Capacity(cpu=2), first=(1, 0, 9, 90), second=(1, 0, 3, 80), large=(2, 0, 1, 70), small=(1, 0, 5, 10)
    )
    assert taken_from(made) == [stages["first"], stages["second"]]
    now[0] = 3.0
    made.give_back(stages["second"])
    assert taken_from(made) == [stages["small"]]


def test_what_leaves_the_most_urgent_stage_its_room_is_started_however_long_it_takes() -> None:
    made, _, stages = backfilling(
        Capacity(cpu=8, memory=100), first=(1, 60, 9, 90), large=(1, 70, 1, 80), wide=(1, 40, 50, 70), narrow=(1, 30, 60, 60)
    )
    assert taken_from(made) == [stages["first"], stages["narrow"]]


def test_a_lock_for_each_stage_makes_no_kind_of_need_for_each() -> None:
    stages = {f"s{number}": Constant(value=number, resources=Resources(locks=(f"l{number}",))) for number in range(50)}
    made = schedule(Pipeline("thing", **stages), Capacity(cpu=50))
    assert len(made._ready) == 1
    assert len(taken_from(made)) == 50


def test_who_waits_for_a_lock_is_woken_when_it_is_free_whatever_else_it_waits_for() -> None:
    def locked(value: int, *locks: str) -> Constant:
        return Constant(value=value, resources=Resources(locks=locks))

    both, a, b, late = locked(1, "a", "b"), locked(2, "a"), locked(3, "b"), locked(4, "a")
    pipeline = Pipeline("thing", both=both, a=a, b=b, late=late)
    made = Schedule(
        pipeline=pipeline,
        wanted=frozenset(pipeline),
        capacity=Capacity(cpu=8),
        priority={a: 9.0, both: 8.0, late: 7.0, b: 6.0},
    )
    assert taken_from(made) == [a, b]
    made.give_back(a)  # `both` is the next one to have the lock a, and lacks b: the one after it has its turn
    assert taken_from(made) == [late]
    made.give_back(late)
    assert taken_from(made) == []
    made.give_back(b)
    assert taken_from(made) == [both]


@given(
    st.lists(st.tuples(st.sets(st.sampled_from("abc"), max_size=2), st.integers(0, 2), st.integers(0, 9)), max_size=9), st.data()
)
def test_no_two_stages_that_run_at_once_have_a_lock_in_common(
    wanted: list[tuple[set[str], int, int]], data: st.DataObject
) -> None:
    stages = {
        f"s{number}": Constant(value=number, resources=Resources(cpu=cpu, locks=tuple(sorted(locks))))
        for number, (locks, cpu, _) in enumerate(wanted)
    }
    if not stages:
        return
    pipeline = Pipeline("thing", **stages)
    made = Schedule(
        pipeline=pipeline,
        wanted=frozenset(pipeline),
        capacity=Capacity(cpu=4),
        priority={stages[f"s{number}"]: float(urgency) for number, (_, _, urgency) in enumerate(wanted)},
    )
    running: list[Stage[Any]] = []
    taken = 0
    while taken < len(stages) or running:
        while (one := made.take()) is not None:
            running.append(one)
            taken += 1
            held = [lock for stage in running for lock in stage.resources.locks]
            assert len(held) == len(set(held))
        assert running, "nothing runs, and something waits"
        made.give_back(running.pop(data.draw(st.integers(0, len(running) - 1))))
