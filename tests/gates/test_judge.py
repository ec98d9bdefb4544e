"""The judge: what it weighs, what it never takes for good news, and that it is seldom wrong."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gates.eprocess import Counts
from gates.judge import Advice, Business, ErrorRate, Judge, SlowAnswers, Trial
from gates.window import Histogram, Share, Tick, Window
from pipeline.errors import WiringError

ERRORS = Judge(measures=(ErrorRate(),), warm_up=0, at_least=0)


def window(requests: int, errors: int = 0) -> Window:
    return Window(requests=requests, errors=errors)


def tick(old: Window | None, new: Window | None, seconds: float = 1.0) -> Tick:
    return Tick(seconds=seconds, old=old, new=new)


def after(trial: Trial, *ticks: Tick) -> Trial:
    for one in ticks:
        trial = trial.after(one)
    return trial


def test_more_errors_than_before_abort_with_the_evidence_in_a_sentence() -> None:
    trial = after(ERRORS.begin(), *[tick(window(950, 5), window(50, 2))] * 30)
    assert trial.advice is Advice.ABORT
    assert trial.said().startswith(
        "abort after 30 s: errors: 60 of 1,500 (4.00%), before 150 of 28,500 (0.53%), 7.6 times as many"
    )
    assert "that would be seen at most once in" in trial.said()


def test_that_nobody_asks_is_said_only_where_nobody_did_all_the_time_that_nothing_is_known() -> None:
    judge = Judge(measures=(SlowAnswers(), ErrorRate()), warm_up=0, blind=5)
    trial = after(judge.begin(), *[tick(window(0), window(0))] * 5)
    assert "missing: requests: nobody asked either release for 5 s; " in trial.said()
    for other in (tick(window(500), window(500)), tick(None, window(0))):
        for ticks in ([other] * 4 + [tick(window(0), window(0))], [tick(window(0), window(0)), *[other] * 4]):
            assert "missing: metrics, for 5 s; " in after(judge.begin(), *ticks).said()


def test_as_few_errors_as_before_promote_once_that_is_sure() -> None:
    good = tick(window(950, 5), window(50, 0))
    early, late = after(ERRORS.begin(), *[good] * 2), after(ERRORS.begin(), *[good] * 40)
    assert (early.advice, late.advice) == (Advice.HOLD, Advice.PROMOTE)
    assert "evidence that errors do no harm" in early.said()


@pytest.mark.parametrize(
    "silence",
    [
        tick(window(0), window(0)),
        tick(window(1000), window(0)),
        tick(window(0), window(5)),
        tick(None, window(1000)),
        tick(window(1000), None),
        tick(None, None),
    ],
)
def test_silence_never_promotes(silence: Tick) -> None:
    trial = ERRORS.begin()
    for _ in range(1000):
        trial = trial.after(silence)
        assert trial.advice is not Advice.PROMOTE
    assert trial.advice is Advice.INCONCLUSIVE


def test_a_measure_that_is_not_known_any_more_stops_the_promotion_also_where_nobody_tells_how_long_answers_took() -> None:
    judge = Judge(measures=(Business(of="refunds"),), warm_up=0, at_least=20, blind=30)
    known = Window(requests=500, errors=0, business={"refunds": Share(part=5, of=500)})
    trial = after(judge.begin(), *[tick(known, known)] * 19)
    assert after(trial, tick(known, known)).advice is Advice.PROMOTE
    assert after(trial, tick(window(500), window(500))).advice is Advice.HOLD
    assert after(trial, *[tick(window(500), window(500))] * 30).advice is Advice.INCONCLUSIVE


def test_what_is_unknown_for_too_long_is_inconclusive_and_said() -> None:
    good, unknown = tick(window(950, 5), window(50, 0)), tick(window(950, 5), None)
    trial = after(ERRORS.begin(), *[good] * 40, *[unknown] * 5)
    assert trial.advice is Advice.HOLD  # it would have been promoted by what was seen before
    assert after(trial, good).advice is Advice.PROMOTE
    blind = after(trial, *[unknown] * 25)
    assert blind.advice is Advice.INCONCLUSIVE
    assert blind.said().startswith("inconclusive after 70 s: missing: metrics, for 30 s; ")


def test_evidence_that_was_strong_enough_once_counts_although_the_rest_was_unknown_or_good() -> None:
    bad, good = tick(window(950, 5), window(50, 10)), tick(window(950, 5), window(50, 0))
    trial = after(ERRORS.begin(), *[bad] * 5)
    assert trial.advice is Advice.ABORT
    assert after(trial, *[good] * 5, *[tick(None, None)] * 60).advice is Advice.ABORT


def test_the_first_seconds_of_the_new_release_are_not_weighed() -> None:
    cold = tick(window(950, 5), window(50, 25))
    assert after(Judge(measures=(ErrorRate(),), warm_up=5).begin(), *[cold] * 5).advice is Advice.HOLD
    assert after(Judge(measures=(ErrorRate(),), warm_up=4).begin(), *[cold] * 5).advice is Advice.ABORT


def test_each_step_has_to_be_seen_to_do_no_harm_anew_and_forgets_nothing_that_speaks_against_the_release() -> None:
    good, odd = tick(window(950, 5), window(50, 0)), tick(window(950, 5), window(50, 2))
    trial = after(ERRORS.begin(), *[good] * 40)
    assert trial.advice is Advice.PROMOTE
    assert trial.next_step().advice is Advice.HOLD
    suspect = after(ERRORS.begin(), *[odd] * 3)
    assert suspect.next_step().evidence[0].worse == suspect.evidence[0].worse


def test_a_step_that_takes_too_long_is_inconclusive() -> None:
    few = tick(window(95), window(1))
    trial = after(replace(ERRORS, at_most=50.0).begin(), *[few] * 50)
    assert trial.advice is Advice.INCONCLUSIVE
    assert trial.next_step().advice is Advice.HOLD
    assert "50 requests more to the new release" in trial.said()


def test_a_step_lasts_as_long_as_a_request_may_hang() -> None:
    good = tick(window(950, 5), window(50, 0))
    trial = after(replace(ERRORS, at_least=60.0).begin(), *[good] * 59)
    assert trial.advice is Advice.HOLD
    assert "missing: 1 s with this share" in trial.said()
    assert trial.after(good).advice is Advice.PROMOTE


def test_where_nobody_asks_it_is_not_metrics_that_are_missing() -> None:
    trial = after(Judge(measures=(ErrorRate(), SlowAnswers()), warm_up=0).begin(), *[tick(window(0), window(0))] * 30)
    assert trial.advice is Advice.INCONCLUSIVE
    assert "missing: requests: nobody asked either release for 30 s; " in trial.said()


@pytest.mark.parametrize(("floor", "advice"), [(10.0, Advice.PROMOTE), (1.0, Advice.ABORT)])
def test_answers_that_are_quick_on_both_sides_are_not_slow_where_the_new_ones_are_a_little_later(
    floor: float, advice: Advice
) -> None:
    """Half as long again, as of a process that is rarely asked: 6 ms in place of 4."""
    bounds = (1.0, 2.0, 4.0, 6.0, 10.0, 20.0)
    warm = Window(requests=1000, errors=0, latency=Histogram(bounds=bounds, counts=(0, 500, 460, 40, 0, 0, 0)))
    cold = Window(requests=100, errors=0, latency=Histogram(bounds=bounds, counts=(0, 20, 60, 20, 0, 0, 0)))
    judge = Judge(measures=(SlowAnswers(floor=floor),), warm_up=0, at_least=0)
    assert after(judge.begin([warm]), *[tick(warm, cold)] * 60).advice is advice


def test_the_measure_that_counts_most_against_a_release_is_named() -> None:
    judge = Judge(measures=(Business(of="refunds"), ErrorRate()), warm_up=0)
    fine = {"refunds": Share(part=5, of=500)}
    old, new = (Window(requests=500, errors=errors, business=fine) for errors in (2, 40))
    assert "no worse, that (errors above all) would be seen" in after(judge.begin(), *[tick(old, new)] * 5).said()


def test_answers_that_are_all_alike_can_be_seen_to_be_no_slower() -> None:
    judge = Judge(measures=(SlowAnswers(),), warm_up=0, at_least=0)
    old, new = answers(950, 0, 0, 0, 0, 0), answers(50, 0, 0, 0, 0, 0)
    assert after(judge.begin([old]), *[tick(old, new)] * 30).advice is Advice.PROMOTE
    slower = answers(25, 25, 0, 0, 0, 0)
    assert after(judge.begin([old]), *[tick(old, slower)] * 30).advice is Advice.ABORT


def test_a_few_requests_promote_nothing_however_good_they_are() -> None:
    trial = after(replace(ERRORS, floor=10_000).begin(), *[tick(window(950, 50), window(100, 0))] * 60)
    assert trial.advice is Advice.HOLD
    assert "4,000 requests more to the new release" in trial.said()


def test_what_happens_to_both_in_the_same_moment_is_nobodys_fault() -> None:
    """A database that is away for ten seconds: half of all requests fail, on both sides."""
    calm, storm = tick(window(950, 5), window(50, 0)), tick(window(950, 475), window(50, 26))
    assert after(ERRORS.begin(), *[calm] * 5, *[storm] * 10, *[calm] * 5).advice is not Advice.ABORT


BOUNDS = (10.0, 20.0, 50.0, 100.0, 200.0)


def answers(*counts: int) -> Window:
    return Window(requests=sum(counts), errors=0, latency=Histogram(bounds=BOUNDS, counts=counts))


def test_answers_that_take_longer_than_the_old_releases_abort() -> None:
    judge = Judge(measures=(SlowAnswers(),), warm_up=0)
    old, slow = answers(100, 500, 300, 50, 0, 0), answers(0, 5, 25, 15, 5, 0)
    trial = after(judge.begin([old]), *[tick(old, slow)] * 10)
    assert trial.advice is Advice.ABORT
    assert "answers slower than p95" in trial.said()
    same = answers(5, 26, 16, 3, 0, 0)
    assert after(judge.begin([old]), *[tick(old, same)] * 60).advice is Advice.PROMOTE


def test_latency_that_is_not_measured_or_by_other_bounds_is_unknown() -> None:
    judge = Judge(measures=(SlowAnswers(),), warm_up=0)
    old = answers(100, 500, 300, 50, 0, 0)
    other = Window(requests=50, errors=0, latency=Histogram(bounds=(1.0,), counts=(50, 0)))
    for new in (window(50), other):
        assert after(judge.begin([old]), *[tick(old, new)] * 30).advice is Advice.INCONCLUSIVE


def test_business_that_goes_wrong_more_often_aborts_and_business_that_is_not_told_is_unknown() -> None:
    judge = Judge(measures=(Business(of="orders given up"),), warm_up=0)

    def orders(part: int, of: int) -> Window:
        return Window(requests=of, errors=0, business={"orders given up": Share(part=part, of=of)})

    assert after(judge.begin(), *[tick(orders(50, 950), orders(15, 50))] * 10).advice is Advice.ABORT
    assert after(judge.begin(), *[tick(orders(50, 950), orders(2, 50))] * 100).advice is Advice.PROMOTE


def test_one_bad_measure_among_several_aborts() -> None:
    judge = Judge(measures=(ErrorRate(), SlowAnswers()), warm_up=0)
    old, new = answers(100, 500, 300, 50, 0, 0), answers(5, 26, 16, 3, 0, 0)
    failing = new.model_copy(update={"errors": 10})
    assert after(judge.begin([old]), *[tick(old, failing)] * 10).advice is Advice.ABORT


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Judge(measures=()), "without measures finds nothing wrong"),
        (lambda: Judge(alpha=0.0), "alpha is 0"),
        (lambda: Judge(beta=1.0), "beta is 1"),
        (lambda: Judge(measures=(ErrorRate(tolerated=2.0, harm=2.0),)), "errors tolerates 2 times as many"),
    ],
)
def test_a_judge_that_could_not_judge_is_refused(make: object, said: str) -> None:
    with pytest.raises(WiringError, match=said):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    "make",
    [
        lambda: window(1, 2),
        lambda: window(-1),
        lambda: Window(requests=float("nan"), errors=0),  # type: ignore[arg-type]
        lambda: Share(part=2, of=1),
        lambda: Histogram(bounds=(2.0, 1.0), counts=(0, 0, 0)),
        lambda: Histogram(bounds=(1.0,), counts=(0,)),
        lambda: Histogram(bounds=(math.nan,), counts=(0, 0)),
        lambda: tick(None, None, seconds=0.0),
    ],
)
def test_windows_that_cannot_be_are_refused(make: object) -> None:
    with pytest.raises(ValidationError):
        make()  # type: ignore[operator]


@given(st.lists(st.integers(0, 50), min_size=3, max_size=12), st.floats(0.01, 0.99))
def test_the_bound_of_a_quantile_is_the_one_that_comes_nearest(counts: list[int], part: float) -> None:
    histogram = Histogram(bounds=tuple(float(number + 1) for number in range(len(counts) - 1)), counts=tuple(counts))
    bound = histogram.bound(part)
    distances = {
        one: abs(histogram.above(one) / histogram.total - (1 - part))
        for one in histogram.bounds
        if histogram.total and histogram.above(one) < histogram.total
    }
    assert (bound is None) == (not distances)
    if bound is not None:
        assert distances[bound] == min(distances.values())


def canary(rng: random.Random, lift: float, ticks: int) -> Iterator[Tick]:
    for _ in range(ticks):
        yield tick(window(950, _failing(rng, 950, 0.02)), window(50, _failing(rng, 50, 0.02 * lift)))


def _failing(rng: random.Random, requests: int, often: float) -> int:
    return sum(rng.random() < often for _ in range(requests))


def test_of_releases_that_are_no_worse_few_are_aborted_and_of_bad_ones_few_are_not() -> None:
    """300 rollouts of each kind; of those that are no worse one in a hundred may be aborted, and seven would be chance."""
    judge = Judge(measures=(ErrorRate(budget=0.0),), warm_up=0)
    aborted = dict[float, int]()
    for lift in (1.0, 4.0):
        ends = [after(judge.begin(), *canary(random.Random(seed), lift, 40)).reached for seed in range(300)]
        aborted[lift] = sum(reached >= 1 / judge.alpha for reached in ends)
    assert aborted[1.0] <= 9
    assert aborted[4.0] >= 290


def test_counts_of_a_trial_add_up() -> None:
    trial = after(ERRORS.begin(), tick(window(10, 1), window(5, 2)), tick(window(20, 0), window(5, 1)))
    assert trial.evidence[0].counts == Counts(k0=1, n0=30, k1=3, n1=10)
