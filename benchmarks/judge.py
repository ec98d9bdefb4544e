"""The judge against Kayenta, Flagger and Argo Rollouts, on simulated canaries: false alarms, and how soon faults are found.

A canary has 5 % of the traffic for ten minutes, in ticks of ten seconds. Errors are 0.5 % of the requests on the old release,
times 1 to 1.3 by the hour, and requests go up and down with it; answers take a median of 50 ms (lognormal, sigma 0.5). What is
promised is held against the worst of the kinds of traffic in which nothing is wrong: by chance alone, errors that vary more, cold
caches, metrics that are missing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.baselines import Series, argo, flagger, kayenta
from benchmarks.figure import Figure
from gates.judge import Advice, ErrorRate, Judge, SlowAnswers
from gates.window import Histogram, Tick, Window

RATES = (5, 20, 100, 1000)
LIFTS = (1.25, 1.5, 2.0, 5.0, 20.0)
SHIFTS = (1.25, 1.5, 2.0)
SECONDS, TICKS, BEFORE, SHARE, ERRORS = 10.0, 60, 30, 0.05, 0.005
BOUNDS = tuple(round(10 * 10 ** (number / 10), 3) for number in range(24))
"""Milliseconds, ten to a decade from 10 ms to 2 s."""

PROMISED, VARIED = 0.01, 0.015
"""Of releases that are no worse, the part that may be aborted; and where counts vary more than by chance."""

PEERS = {"Kayenta": kayenta, "Flagger": flagger, "Argo Rollouts": argo}
WHO = ("Lockgate", *PEERS)


@dataclass(frozen=True)
class Scenario:
    """Requests a second of both sides, and what is wrong with the new one: errors `lift` times, answers `shift` times as long."""

    rate: float
    lift: float = 1.0
    shift: float = 1.0
    variation: float = 0.0
    """Squared coefficient of variation of the rate of errors, of each side in each tick on its own."""
    cold: float = 1.0
    """How many times as many errors the new release has in its first ten seconds."""
    missing: float = 0.0
    """The part of ticks in which nothing is known of the new release."""


NULLS = {
    "by chance alone": Scenario(0),
    "errors vary by 45 %": Scenario(0, variation=0.2),
    "cold caches": Scenario(0, cold=10.0),
    "every fifth tick unknown": Scenario(0, missing=0.2),
}


@dataclass(frozen=True)
class Found:
    """After how many seconds each decided that the canary is bad, infinity where it did not; and whether it ever went on."""

    aborted: dict[str, float]
    promoted: bool


Case: TypeAlias = tuple[str, int]
"""What is wrong, and requests a second."""


def measure(*, seeds: int = 2_000) -> Iterator[Figure]:
    nulls = {(name, rate): replace(one, rate=rate) for name, one in NULLS.items() for rate in RATES}
    faults = {(f"errors x {lift:g}", rate): Scenario(rate, lift=lift) for lift in LIFTS for rate in RATES}
    faults |= {(f"answers x {shift:g}", rate): Scenario(rate, shift=shift) for shift in SHIFTS for rate in RATES}
    with ProcessPoolExecutor(2) as processes:
        done = processes.map(simulated, [*nulls.values(), *faults.values()], repeat(seeds))
        found = dict(zip([*nulls, *faults], done, strict=True))
    false = {case: {who: share(found[case], who) for who in WHO} for case in nulls}
    yield from _false_alarms(false)
    yield from _times(found, false, faults)
    worst = max(sum(one.promoted for one in found[case]) / seeds for case, fault in faults.items() if fault.lift >= 2)
    yield Figure("errors that are harm (x 2 and more), promoted: the worst", 100 * worst, "%", 100 * JUDGE.beta)


def _false_alarms(false: dict[Case, dict[str, float]]) -> Iterator[Figure]:
    for name, scenario in NULLS.items():
        worst = max(false[name, rate]["Lockgate"] for rate in RATES)
        told = "; ".join(
            f"{rate}/s: " + ", ".join(f"{who} {100 * part:.1f} %" for who, part in false[name, rate].items()) for rate in RATES
        )
        limit = VARIED if scenario.variation else PROMISED
        yield Figure(f"nothing wrong, {name}: aborted", 100 * worst, "%", 100 * limit, detail=told)


def _parts_of(alarms: dict[str, float]) -> str:
    return ", ".join(f"{who} {100 * part:.1f} %" for who, part in alarms.items())


def _times(found: dict[Case, list[Found]], false: dict[Case, dict[str, float]], faults: Iterable[Case]) -> Iterator[Figure]:
    sooner: list[str] = []
    for name, rate in faults:
        ones, alarms = found[name, rate], false["by chance alone", rate]
        times = {who: statistics.median(one.aborted[who] for one in ones) for who in WHO}
        sooner += [
            f"{who} on {name} at {rate}/s"
            for who in PEERS
            if times[who] < times["Lockgate"] and alarms[who] <= alarms["Lockgate"]
        ]
        promoted = sum(one.promoted for one in ones) / len(ones)
        told = [f"{100 * share(ones, 'Lockgate'):.0f} % aborted, {100 * promoted:.1f} % promoted"]
        told += [f"{who} {_time(times[who])} ({100 * share(ones, who):.0f} %)" for who in PEERS]
        yield Figure(f"{name}, {rate} requests/s: median time to abort", times["Lockgate"], "s", detail="; ".join(told))
    yield Figure("faults that another finds sooner with no more false alarms", len(sooner), "", 0, detail="; ".join(sooner))


def simulated(scenario: Scenario, seeds: int) -> list[Found]:
    return [one(scenario, seed) for seed in range(seeds)]


def share(found: list[Found], who: str) -> float:
    return sum(one.aborted[who] < math.inf for one in found) / len(found)


def _time(seconds: float) -> str:
    return "-" if seconds == math.inf else f"{seconds:.0f} s"


def one(scenario: Scenario, seed: int) -> Found:
    """One rollout, seen by all of them for ten minutes.

    What is promoted goes on with the same share; with a larger one what is wrong would be seen sooner.
    """
    rng = np.random.default_rng([seed, round(scenario.rate), round(100 * scenario.lift), round(100 * scenario.shift)])
    trial = JUDGE.begin(window(rng, _side(rng, scenario, number, 1.0)) for number in range(-BEFORE, 0))
    rows, aborted, promoted = [], math.inf, False
    for number in range(TICKS):
        old = window(rng, _side(rng, scenario, number, 1 - SHARE))
        new = window(rng, _side(rng, scenario, number, SHARE, new=True), scenario.shift)
        lost = rng.random() < scenario.missing
        rows.append((*_row(old), *((-1, -1, -1.0) if lost else _row(new))))
        if aborted < math.inf:
            continue
        trial = trial.after(Tick(seconds=SECONDS, old=old, new=None if lost else new))
        if trial.advice is Advice.ABORT:
            aborted = SECONDS * (number + 1)
        if trial.advice is Advice.PROMOTE:
            promoted, trial = True, trial.next_step()
    series = Series(SECONDS, *(np.array(column) for column in zip(*rows, strict=True)))
    others = {who: (SECONDS * found if (found := decide(series)) else math.inf) for who, decide in PEERS.items()}
    return Found({"Lockgate": aborted, **others}, promoted)


JUDGE = Judge(measures=(ErrorRate(budget=0.0), SlowAnswers()))


def _side(rng: np.random.Generator, scenario: Scenario, number: int, part: float, *, new: bool = False) -> tuple[int, int]:
    """Requests and errors of one side in one tick."""
    hour = math.sin(2 * math.pi * number / 200)
    requests = int(rng.poisson(scenario.rate * SECONDS * part * (1 + 0.3 * hour)))
    often = ERRORS * (1.15 + 0.15 * hour)
    if scenario.variation:
        often *= rng.gamma(1 / scenario.variation, scenario.variation)
    if new:
        often *= scenario.lift * (scenario.cold if number == 0 else 1.0)
    return requests, int(rng.binomial(requests, min(often, 1.0)))


def window(rng: np.random.Generator, side: tuple[int, int], shift: float = 1.0) -> Window:
    requests, errors = side
    counts = tuple(map(int, rng.multinomial(requests - errors, _parts(shift))))
    latency = Histogram.model_construct(bounds=BOUNDS, counts=counts)  # what is built by hand need not be checked
    return Window.model_construct(requests=requests, errors=errors, latency=latency, business={})


def _row(of: Window) -> tuple[int, int, float]:
    bound = of.latency.bound(0.95) if of.latency is not None else None
    return of.requests, of.errors, bound or 0.0


def _parts(shift: float) -> NDArray[Any]:
    """The part of answers in each bucket."""
    if shift not in PARTS:
        below = [0.5 * (1 + math.erf(math.log(bound / (50 * shift)) / 0.5 / math.sqrt(2))) for bound in BOUNDS]
        PARTS[shift] = np.diff([0.0, *below, 1.0])
    return PARTS[shift]


PARTS: dict[float, NDArray[Any]] = {}
