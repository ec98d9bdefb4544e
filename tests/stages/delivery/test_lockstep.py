"""Lockstep by itself: whoever changes the traffic, no other is a change behind."""

from __future__ import annotations

import anyio
from hypothesis import given
from hypothesis import strategies as st

from stages.delivery.lockstep import Lockstep, Member, rounds
from stages.delivery.model import Address, Group, State
from stages.delivery.step import Split, Start, Step, WaitReady
from stages.delivery.strategy import Canary

CHANGES = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), min_size=1, max_size=4)
"""Of each member, how long it takes before each of its changes, in turns of the event loop."""


@given(CHANGES)
def test_nobody_changes_anything_before_all_are_as_far(changes: list[list[int]]) -> None:
    names = tuple(str(number) for number in range(len(changes)))
    made: list[tuple[str, int]] = []
    left = {name: len(waits) for name, waits in zip(names, changes, strict=True)}
    begun = dict.fromkeys(names, False)

    async def member(name: str, waits: list[int], lockstep: Lockstep) -> None:
        one = lockstep.member(name)
        for number, wait in zip(range(len(waits), 0, -1), waits, strict=True):
            for _ in range(wait):
                await anyio.lowlevel.checkpoint()
            begun[name] = True
            await one.turn(number)
            assert all(begun.values()), "a change before somebody was ready for his first"
            assert all(others <= number for others in left.values()), "ahead of another"
            left[name] = number - 1
            made.append((name, number))
        await one.turn(0)
        assert not any(left.values()), "at the end before another"

    async def main() -> None:
        lockstep = Lockstep(names)
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                for name, waits in zip(names, changes, strict=True):
                    tasks.start_soon(member, name, waits, lockstep)

    anyio.run(main)
    assert len(made) == sum(map(len, changes))


def test_who_agrees_waits_until_all_do_and_may_think_better_of_it() -> None:
    lockstep = Lockstep(("a", "b"))
    a, b = lockstep.member("a"), lockstep.member("b")
    assert not a.may(1, True)
    assert not a.may(1, False)
    assert not b.may(1, True)
    assert a.may(1, True)
    assert b.may(1, False)  # what all have agreed to is done by all
    assert not b.may(0, True)


def test_one_alone_waits_for_nobody() -> None:
    one = Member()
    assert not one.may(1, False)
    assert one.may(1, True)
    anyio.run(one.turn, 0)


def test_when_one_fails_the_others_end_their_work_and_know_why() -> None:
    lockstep = Lockstep(("a", "b"))
    a, b = lockstep.member("a"), lockstep.member("b")

    async def main() -> None:
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(b.watch, tasks.cancel_scope)
                tasks.start_soon(b.turn, 1)
                a.fail()

    anyio.run(main)
    assert (a.taken_back_by, b.taken_back_by) == ("", "a")


def test_what_comes_before_any_change_is_told_first_and_each_round_in_the_order_of_services() -> None:
    serving = Group("blue", (Address(host="h", port=1),))
    canary = Canary(shares=(50, 100))
    told: list[tuple[str, Step]] = list(
        rounds(
            {
                "new": canary.forward(State(), "green"),
                "old": canary.forward(State(groups={"blue": serving}, weights={"blue": 100}), "green"),
            }
        )
    )
    assert [(name, type(step)) for name, step in told[:4]] == [
        ("new", Start),
        ("new", WaitReady),
        ("old", Start),
        ("old", WaitReady),
    ]
    shares = [(name, dict(step.weights)["green"]) for name, step in told if isinstance(step, Split)]
    assert shares == [("old", 50), ("new", 100), ("old", 100)]
