"""Lockstep by itself: whoever changes the traffic, no other is a change behind."""

from __future__ import annotations

import anyio
from hypothesis import given
from hypothesis import strategies as st

from gates.judge import Advice
from gates.window import Window
from stages.delivery.control import Control
from stages.delivery.hearing import Hearing
from stages.delivery.lockstep import Lockstep, Member, is_change, rounds
from stages.delivery.model import Address, Group, State
from stages.delivery.rolling import Rolling
from stages.delivery.step import Split, Start, Step, WaitReady, Weigh
from stages.delivery.strategy import Canary
from tests.stages.delivery.small import SURE

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
            await one.round(number).turn()
            assert all(begun.values()), "a change before somebody was ready for his first"
            assert all(others <= number for others in left.values()), "ahead of another"
            left[name] = number - 1
            made.append((name, number))
        await one.round(0).turn()
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
    assert not a.round(1).may(True)
    assert not a.round(1).may(False)
    assert not b.round(1).may(True)
    assert a.round(1).may(True)
    assert b.round(1).may(False)  # what all have agreed to is done by all
    assert not b.round(0).may(True)


def test_who_is_cancelled_while_waiting_has_not_agreed() -> None:
    lockstep = Lockstep(("a", "b"))

    async def main() -> None:
        with anyio.move_on_after(0):
            await lockstep.member("a").round(1).turn()
        assert not lockstep.member("b").round(1).may(True)

    anyio.run(main)


def test_one_alone_waits_for_nobody() -> None:
    one = Member()
    assert not one.round(1).may(False)
    assert one.round(1).may(True)
    anyio.run(one.round(0).turn)


def test_when_one_fails_the_others_end_their_work_and_know_why() -> None:
    lockstep = Lockstep(("a", "b"))
    a, b = lockstep.member("a"), lockstep.member("b")

    async def main() -> None:
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(b.watch, tasks.cancel_scope)
                tasks.start_soon(b.round(1).turn)
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


def test_who_waits_for_the_last_one_to_agree_goes_on_at_once_and_not_with_its_next_look() -> None:
    lockstep = Lockstep(("a", "b"))
    fine = Window(requests=1000, errors=0)

    async def hold(name: str, first: float) -> None:
        hearing = Hearing("green", lockstep.member(name).round(1), first, Control(), lambda _kind, **_data: None)

        async def look() -> tuple[Window, Window]:
            object.__setattr__(hearing, "tick", 3600.0)  # the next look is far away
            return fine, fine

        trial, promoted, _ = await hearing.hold(SURE.begin(), look, lambda _trial: None)
        assert (trial.advice, promoted) == (Advice.PROMOTE, None)

    async def main() -> None:
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(hold, "a", 0.01)
                tasks.start_soon(hold, "b", 0.2)

    anyio.run(main)


def test_operators_promote_the_round_that_they_saw_whichever_step_it_is_of_each_service() -> None:
    """Of three and of five instances: the steps have other numbers, the rounds have not."""
    plans = {}
    for instances in (3, 5):
        blue = Group("blue", tuple(Address(host="h", port=1 + number) for number in range(instances)))
        now = State(groups={"blue": blue}, weights={"blue": 100}, wanted=instances)
        plans[instances] = Rolling(judge=SURE).forward(now, "green")
    weighed = {
        instances: [sum(map(is_change, steps[number:])) for number, step in enumerate(steps) if isinstance(step, Weigh)]
        for instances, steps in plans.items()
    }
    assert weighed[5][-len(weighed[3]) :] == weighed[3]
