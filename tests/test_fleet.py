"""The simulated fleet does the work it is given, and its policies differ in what they should."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.fleet import Fleet, Policy, World, affinity, at_random, least_loaded
from benchmarks.scale import simulated

SMALL = World(engines=20, actions=2_000, projects=10, median=200.0)


@pytest.mark.parametrize("look", [0.0, 5.0])
@pytest.mark.parametrize("policy", [at_random, least_loaded, affinity])
def test_every_action_is_executed_once_and_no_engine_is_left_with_one(policy: Policy, look: float) -> None:
    fleet = Fleet(SMALL, policy, look=look)
    day = fleet.play()
    assert len(day.waits) == sum(day.begun) == SMALL.actions
    assert min(day.waits) >= 0
    assert sorted(fleet.idle) == list(range(SMALL.engines))
    assert sum(day.busy) <= day.ended * SMALL.engines


def test_what_lies_on_the_disk_already_is_not_brought_again() -> None:
    world = replace(SMALL, engines=1, actions=20, layers=(1,), projects=1, output=(1.0, 0.0, 1))
    tools, source = world.tools[0], world.source[0]
    assert sum(Fleet(world, affinity).play().moved) == tools + 20 * (source + 1)
    without = replace(world, disk=1)
    assert sum(Fleet(without, affinity).play().moved) == 20 * (tools + source + 1)


def test_affinity_moves_less_than_chance_and_who_sees_all_waits_less_than_who_does_not() -> None:
    chance, idle, near = (Fleet(SMALL, policy).play() for policy in (at_random, least_loaded, affinity))
    assert sum(near.moved) < sum(idle.moved)
    assert sum(near.waits) < sum(chance.waits)
    assert sum(idle.waits) < sum(chance.waits)
    old = Fleet(SMALL, affinity, look=60.0).play()
    assert sum(near.waits) < sum(old.waits)


def test_days_of_all_policies_are_told() -> None:
    figures = list(simulated(40, 4_000, fleets=2))
    assert len(figures) == 25
    assert all(figure.name.startswith("simulated, ") and figure.holds for figure in figures)
