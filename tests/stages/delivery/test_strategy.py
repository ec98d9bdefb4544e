"""Strategies: what holds for every state they begin from."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from stages.delivery.model import Address, Group, State
from stages.delivery.step import Drain, Split, Start, Step, Stop, WaitReady
from stages.delivery.strategy import BlueGreen

NAMES = "abcdef"
GREEN = "g"


@st.composite
def states(draw: st.DrawFn) -> State:
    """Up to six groups, green perhaps among them, with shares that make a hundred or none at all."""
    names = draw(st.lists(st.sampled_from([*NAMES, GREEN]), unique=True))
    groups = {name: Group(name, (Address(host="h", port=1),)) for name in names}
    serving = draw(st.lists(st.sampled_from(names), unique=True)) if names else []
    cuts = sorted(draw(st.lists(st.integers(1, 99), min_size=max(0, len(serving) - 1), max_size=max(0, len(serving) - 1))))
    shares = [high - low for low, high in zip([0, *cuts], [*cuts, 100], strict=True)]
    return State(groups=groups, weights={**dict.fromkeys(names, 0), **dict(zip(serving, shares, strict=False))})


def after(state: State, step: Step) -> State:
    """What a step makes of a state; refuses what no system could do, or what would cost a request."""
    match step:
        case Start(group):
            return replace(state, groups={**state.groups, group: Group(group, (Address(host="h", port=2),))})
        case WaitReady(group, _):
            assert group in state.groups
        case Split(weights):
            assert all(name in state.groups for name, _ in weights), "traffic to a group that does not run"
            assert sum(share for _, share in weights) in {0, 100}
            return replace(state, weights={**dict.fromkeys(state.weights, 0), **dict(weights)})
        case Drain(group, _):
            assert not state.weights.get(group), "drains a group that gets new requests"
        case Stop(group):
            assert not state.weights.get(group), "stops a group that serves"
            groups = {name: found for name, found in state.groups.items() if name != group}
            return State(groups=groups, weights={name: share for name, share in state.weights.items() if name != group})
    return state


def simulated(state: State, steps: tuple[Step, ...]) -> list[State]:
    found = [state]
    for step in steps:
        found.append(after(found[-1], step))
    return found


@given(states())
def test_forward_ends_with_green_serving_everything(now: State) -> None:
    end = simulated(now, BlueGreen().forward(now, GREEN))[-1]
    assert {name: share for name, share in end.weights.items() if share} == {GREEN: 100}
    assert GREEN in end.groups


@given(states())
def test_forward_waits_until_green_is_ready_before_it_gets_traffic(now: State) -> None:
    steps = BlueGreen(ready=7).forward(now, GREEN)
    assert steps.index(Start(GREEN)) < steps.index(WaitReady(GREEN, 7)) < steps.index(Split(((GREEN, 100),)))


@given(states())
def test_forward_and_back_drain_every_group_before_they_stop_it(now: State) -> None:
    for steps in (BlueGreen(drain=7).forward(now, GREEN), BlueGreen(drain=7).back(now, GREEN)):
        for number, step in enumerate(steps):
            if isinstance(step, Stop):
                assert Drain(step.group, 7) in steps[:number]


@given(states())
def test_somebody_serves_at_every_moment_once_somebody_did(now: State) -> None:
    if now.serving:
        assert all(state.serving for state in simulated(now, BlueGreen().forward(now, GREEN)))


@given(states())
def test_what_served_before_stays_warm(now: State) -> None:
    end = simulated(now, BlueGreen().forward(now, GREEN))[-1]
    assert set(now.serving) <= set(end.groups)
    if GREEN not in now.serving:
        assert set(end.groups) == {*now.serving, GREEN}


@given(states())
def test_the_release_that_serves_already_stops_nothing(now: State) -> None:
    if GREEN in now.serving:
        assert not [step for step in BlueGreen().forward(now, GREEN) if isinstance(step, Stop)]


@given(states(), st.data())
def test_the_way_back_restores_the_shares_from_any_point(now: State, data: st.DataObject) -> None:
    points = simulated(now, BlueGreen().forward(now, GREEN))
    point = data.draw(st.sampled_from(points))
    if not set(now.serving) <= set(point.groups):
        return
    end = simulated(point, BlueGreen().back(now, GREEN))[-1]
    assert {name: share for name, share in end.weights.items() if share} == {n: s for n, s in now.weights.items() if s}
    assert (GREEN in end.groups) == (GREEN in now.groups)


@given(states())
def test_a_group_that_ran_before_is_never_stopped_on_the_way_back(now: State) -> None:
    assert not [step for step in BlueGreen().back(now, GREEN) if isinstance(step, Stop) and step.group in now.groups]


def test_steps_read_as_sentences() -> None:
    now = State(groups={"a": Group("a", ()), "b": Group("b", ())}, weights={"a": 0, "b": 100})
    assert [str(step) for step in BlueGreen().forward(now, GREEN)] == [
        "start g",
        "wait until g is ready, at most 60 s",
        "send 100 % to g",
        "drain b, at most 30 s",
        "drain a, at most 30 s",
        "stop a",
    ]
    assert [str(step) for step in BlueGreen().back(State(), GREEN)] == [
        "send none to anybody",
        "drain g, at most 30 s",
        "stop g",
    ]
