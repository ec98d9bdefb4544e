"""Strategies: what holds for every state they begin from."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gates.judge import Judge
from pipeline import WiringError
from stages.delivery.envoy import Envoy
from stages.delivery.haproxy import HAProxy
from stages.delivery.local import LocalProcesses
from stages.delivery.model import Address, Group, State
from stages.delivery.probe import CommandProbe, HttpProbe
from stages.delivery.rolling import Rolling
from stages.delivery.rollout import chosen
from stages.delivery.shadow import Shadow
from stages.delivery.step import Again, Compare, Drain, Rest, Retire, Split, Start, Step, Stop, WaitReady, Weigh
from stages.delivery.strategy import BlueGreen, Canary, Recreate, Strategy

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
    resting = frozenset(draw(st.lists(st.sampled_from([name for name in "xyz" + GREEN if name not in names]), unique=True)))
    return State(groups=groups, weights={**dict.fromkeys(names, 0), **dict(zip(serving, shares, strict=False))}, resting=resting)


def after(state: State, step: Step) -> State:
    """What a step makes of a state; refuses what no system could do, or what would cost a request."""
    match step:
        case Again(group):
            assert group in state.groups or group in state.resting, "starts again what nobody knows"
            return started(state, group, {})
        case Start(group, counts):
            return started(state, group, dict(counts))
        case Retire(group, counts, weights):
            assert all(dict(weights).get(name) for name in state.groups if name in dict(weights)), "retires to nobody"
            leaving = chosen(state.groups[group].instances, dict(counts))
            assert len(leaving) == sum(dict(counts).values()), "retires what does not run"
            left = tuple(one for one in state.groups[group].instances if one not in leaving)
            assert left or not dict(weights).get(group), "traffic to a group of which nothing is left"
            state = after(state, Split(weights))
            return replace(state, groups={**state.groups, group: Group(group, left)})
        case Rest(group):
            assert not state.weights.get(group), "ends a group that serves"
            running = {name: found for name, found in state.groups.items() if name != group}
            return replace(state, groups=running, resting=state.resting | {group})
        case WaitReady(group):
            assert group in state.groups
        case Split(weights):
            assert all(name in state.groups for name, _ in weights), "traffic to a group that does not run"
            assert sum(share for _, share in weights) in {0, 100}
            return replace(state, weights={**dict.fromkeys(state.weights, 0), **dict(weights)})
        case Weigh(group, against):
            assert all(state.weights.get(name) for name in (group, *against)), "weighs a group that gets no traffic"
        case Compare(group, against):
            assert not state.weights.get(group), "compares a group that gets traffic"
            assert group in state.groups
            assert all(state.weights.get(name) for name in against)
        case Drain(group, _):
            assert not state.weights.get(group), "drains a group that gets new requests"
        case Stop(group):
            assert not state.weights.get(group), "stops a group that serves"
            groups = {name: found for name, found in state.groups.items() if name != group}
            shares = {name: share for name, share in state.weights.items() if name != group}
            return State(groups=groups, weights=shares, resting=state.resting - {group})
    return state


def started(state: State, group: str, counts: dict[str, int]) -> State:
    """With so many instances of the group in each zone, those it has among them; one at least."""
    have = state.groups[group].instances if group in state.groups else ()
    wanted = counts or dict.fromkeys(state.zones or ("",), 1)
    more = [
        Address(host=f"{group}{zone}", port=number + 1, zone=zone)
        for zone, count in wanted.items()
        for number in range(sum(one.zone == zone for one in have), count)
    ]
    groups = {**state.groups, group: Group(group, (*have, *more))}
    return replace(state, groups=groups, resting=state.resting - {group})


def simulated(state: State, steps: tuple[Step, ...]) -> list[State]:
    found = [state]
    for step in steps:
        found.append(after(found[-1], step))
    return found


MIRRORS = Envoy(name="x", port=1)

SERVING = [
    BlueGreen(ready=7, drain=7),
    Canary(ready=7, drain=7),
    Canary(shares=(100,), ready=7, drain=7),
    Canary(shares=(3, 50, 99, 100), ready=7, drain=7),
    Rolling(ready=7, drain=7),
    Rolling(max_surge=0, max_unavailable="100%", by_zone=True, judge=Judge(), ready=7, drain=7),
    Shadow(router=MIRRORS, then=BlueGreen(ready=7, drain=7), ready=7, drain=7),
    Shadow(router=MIRRORS, then=Canary(ready=7, drain=7), ready=7, drain=7),
]
"""Strategies that promise that somebody serves all the time."""

STRATEGIES = st.sampled_from(
    [*SERVING, Recreate(ready=7, drain=7), Shadow(router=MIRRORS, then=Recreate(ready=7, drain=7), ready=7, drain=7)]
)


@given(states(), STRATEGIES)
def test_forward_ends_with_green_serving_everything(now: State, strategy: Strategy) -> None:
    end = simulated(now, strategy.forward(now, GREEN))[-1]
    assert {name: share for name, share in end.weights.items() if share} == {GREEN: 100}
    assert GREEN in end.groups


@given(states(), STRATEGIES)
def test_forward_waits_until_green_is_ready_before_it_gets_traffic(now: State, strategy: Strategy) -> None:
    steps = strategy.forward(now, GREEN)
    first = next(number for number, step in enumerate(steps) if isinstance(step, Split) and dict(step.weights).get(GREEN))
    ready = next(number for number, step in enumerate(steps) if isinstance(step, WaitReady) and step.group == GREEN)
    assert ready < first
    assert GREEN in now.groups or any(isinstance(step, Start) and step.group == GREEN for step in steps[:ready])


@given(states(), STRATEGIES)
def test_forward_and_back_drain_every_group_before_they_stop_it(now: State, strategy: Strategy) -> None:
    for steps in (strategy.forward(now, GREEN), strategy.back(now, GREEN)):
        for number, step in enumerate(steps):
            if isinstance(step, Stop):
                assert Drain(step.group, 7) in steps[:number]


@given(states(), st.sampled_from(SERVING))
def test_somebody_serves_at_every_moment_once_somebody_did(now: State, strategy: Strategy) -> None:
    if now.serving:
        assert all(state.serving for state in simulated(now, strategy.forward(now, GREEN)))


@given(states(), STRATEGIES)
def test_what_served_before_stays_warm(now: State, strategy: Strategy) -> None:
    end = simulated(now, strategy.forward(now, GREEN))[-1]
    kept = {*end.groups, *end.resting}
    assert set(now.serving) <= kept
    if GREEN not in now.serving:
        assert kept == {*now.serving, GREEN}


@given(states())
def test_two_releases_never_run_at_once_where_they_are_recreated(now: State) -> None:
    """But for those that did before."""
    blue = [group for group in now.serving if group != GREEN]
    if blue and GREEN not in now.groups:
        for state in simulated(now, Recreate().forward(now, GREEN)):
            assert GREEN not in state.groups or set(state.groups) == {GREEN}
        begun = simulated(now, Recreate().forward(now, GREEN))[-1]
        for state in simulated(begun, Recreate().back(now, GREEN)):
            assert GREEN not in state.groups or not set(blue) & set(state.groups)


@given(states(), STRATEGIES)
def test_the_release_that_serves_already_stops_nothing(now: State, strategy: Strategy) -> None:
    if GREEN in now.serving:
        assert not [step for step in strategy.forward(now, GREEN) if isinstance(step, Stop)]


@given(states(), STRATEGIES, st.data())
def test_the_way_back_restores_the_shares_from_any_point(now: State, strategy: Strategy, data: st.DataObject) -> None:
    points = simulated(now, strategy.forward(now, GREEN))
    point = data.draw(st.sampled_from(points))
    if not set(now.serving) <= {*point.groups, *point.resting}:
        return
    end = simulated(point, strategy.back(now, GREEN))[-1]
    assert {name: share for name, share in end.weights.items() if share} == {n: s for n, s in now.weights.items() if s}
    assert (GREEN in end.groups) == (GREEN in now.groups)


@given(states(), STRATEGIES)
def test_a_group_that_ran_before_is_never_stopped_on_the_way_back(now: State, strategy: Strategy) -> None:
    assert not [step for step in strategy.back(now, GREEN) if isinstance(step, Stop) and step.group in now.groups]


@given(states(), st.sampled_from([(5, 100), (1, 2, 99, 100)]))
def test_a_canary_grows_by_its_shares_and_is_weighed_before_each_next_one(now: State, shares: tuple[int, ...]) -> None:
    steps = Canary(shares=shares).forward(now, GREEN)
    blue = [group for group in now.serving if group != GREEN]
    splits = [step for step in steps if isinstance(step, Split)]
    assert [dict(step.weights)[GREEN] for step in splits] == (list(shares) if blue else [100])
    grows = [step for step in steps if isinstance(step, Split | Weigh)]
    assert [type(step) for step in grows] == ([Split, Weigh] * (len(shares) - 1) + [Split] if blue else [Split])
    for split in splits:
        rest = {group: share for group, share in split.weights if group != GREEN}
        wanted = {
            group: (100 - dict(split.weights)[GREEN]) * now.weights[group] / sum(now.weights[one] for one in blue)
            for group in blue
        }
        assert all(abs(rest.get(group, 0) - wanted[group]) < 1 for group in blue)


@given(states())
def test_green_is_in_shadow_before_it_is_started_to_serve_and_gone_when_it_is(now: State) -> None:
    steps = Shadow(router=MIRRORS, then=BlueGreen()).forward(now, GREEN)
    names = [str(step) for step in steps]
    if now.serving and GREEN not in now.serving:
        assert isinstance(steps[2], Compare)
        assert names[0] == "start g-shadow"
        assert names.index("stop g-shadow") < names.index("start g")
        assert steps[5:] == BlueGreen().forward(now, GREEN)
    else:
        assert steps == BlueGreen().forward(now, GREEN)


@pytest.mark.parametrize("share", [0, 101])
def test_a_share_of_copies_that_is_none_is_refused(share: int) -> None:
    with pytest.raises(WiringError, match=rf"Shadow\.share is {share}"):
        Shadow(router=MIRRORS, share=share)


@pytest.mark.parametrize("shares", [(), (50,), (0, 100), (50, 50, 100), (60, 50, 100), (100, 101)])
def test_shares_that_do_not_grow_to_a_hundred_are_refused(shares: tuple[int, ...]) -> None:
    with pytest.raises(WiringError, match=r"Canary\.shares are"):
        Canary(shares=shares)


def test_a_judge_that_never_looks_is_refused() -> None:
    with pytest.raises(WiringError, match=r"Canary\.tick is 0"):
        Canary(tick=0)


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


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: BlueGreen(ready=-1), "BlueGreen.ready is -1"),
        (lambda: BlueGreen(ready=float("nan")), "BlueGreen.ready is nan"),
        (lambda: BlueGreen(ready="60"), "BlueGreen.ready is '60'"),  # type: ignore[arg-type]
        (lambda: Canary(drain=float("nan")), "Canary.drain is nan"),
        (lambda: Canary(shares=("5", 100)), "Canary.shares are"),  # type: ignore[arg-type]
        (lambda: Canary(shares=5), "Canary.shares are 5"),  # type: ignore[arg-type]
        (lambda: Rolling(max_surge=1.5), "Rolling.max_surge is 1.5"),  # type: ignore[arg-type]
        (lambda: HAProxy(name="app", port=8080.5), "HAProxy app: the port is 8080.5"),  # type: ignore[arg-type]
        (lambda: HAProxy(name="app", port="8080"), "HAProxy app: the port is '8080'"),  # type: ignore[arg-type]
        (lambda: HttpProbe(every=float("nan")), "HttpProbe.every is nan"),
        (lambda: HttpProbe(failures=1.5), "HttpProbe.failures is 1.5"),  # type: ignore[arg-type]
        (lambda: HttpProbe(within=0), "HttpProbe: every 1 s, within 0 s, 3 failures"),
        (lambda: HttpProbe(every=float("inf")), "HttpProbe: every inf s"),
        (lambda: HttpProbe(every=0.0001), "from 0.001 to 86,400 seconds"),
        (lambda: HttpProbe(statuses=(200,)), "with (200,)"),  # type: ignore[arg-type]
        (lambda: HttpProbe(statuses=[200, 299]), "with [200, 299]"),  # type: ignore[arg-type]
        (lambda: HttpProbe(statuses=200), "with 200"),  # type: ignore[arg-type]
        (lambda: HttpProbe(statuses=(200.5, 299)), "with (200.5, 299)"),  # type: ignore[arg-type]
        (lambda: HttpProbe(5), "HttpProbe: 5"),  # type: ignore[arg-type]
        (lambda: CommandProbe((1, 2)), "CommandProbe.command is (1, 2)"),  # type: ignore[arg-type]
        (lambda: CommandProbe("true"), "CommandProbe.command is 'true'"),  # type: ignore[arg-type]
        (lambda: HAProxy(name="app", port=8080, timeout=float("nan")), "HAProxy.timeout is nan"),
        (lambda: LocalProcesses(name="app", patience=-1), "LocalProcesses.patience is -1"),
        (lambda: Judge(at_least=float("nan")), "Judge.at_least is nan"),
        (lambda: Judge(floor=-1), "Judge.floor is -1"),
        (lambda: Judge(at_least=100, at_most=5), "at most 5 s"),
    ],
)
def test_a_number_that_is_none_or_below_zero_is_refused_where_it_is_written(wrong: Callable[[], object], said: str) -> None:
    with pytest.raises(WiringError, match=re.escape(said)):
        wrong()
