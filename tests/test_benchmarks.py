"""The benchmarks measure what they say: graphs, orders of work and durations by hand, and each bench at its smallest."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import random
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import packages_distributions
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import cancel, delivery, faults, hashing, journal, judge, kills, makespan, noop, peer, project, scheduling
from benchmarks.__main__ import page, section, sections
from benchmarks.baselines import Series, argo, flagger, is_high, kayenta
from benchmarks.figure import ROOT, Figure, seconds
from benchmarks.graph import SHAPES, WIDTH, Graph, Shape, below, layered
from benchmarks.makespan import Case
from pipeline.history import RunHistory, StageHistory

SEEDS = st.integers(min_value=0, max_value=2**32)
WORKERS = st.sampled_from(makespan.WORKERS)


@given(count=st.integers(min_value=1, max_value=300), seed=SEEDS)
def test_each_task_of_a_layer_takes_up_to_three_of_the_layer_before(count: int, seed: int) -> None:
    graph = layered(count, seed=seed)
    assert len(graph) == count
    for number, inputs in enumerate(graph):
        layer = number // WIDTH
        assert len(set(inputs)) == len(inputs)
        assert 1 <= len(inputs) <= 3 if layer else not inputs
        assert all(one // WIDTH == layer - 1 for one in inputs)


@given(count=st.integers(min_value=1, max_value=150), seed=SEEDS, shape=st.sampled_from(SHAPES))
def test_a_graph_is_the_same_each_time_and_takes_only_what_is_before(count: int, seed: int, shape: Shape) -> None:
    graph = shape(count, random.Random(seed))
    assert graph == shape(count, random.Random(seed))
    assert len(graph) >= count
    assert all(one < number for number, inputs in enumerate(graph) for one in inputs)
    assert {(one, number) for one, users in enumerate(below(graph)) for number in users} == {
        (one, number) for number, inputs in enumerate(graph) for one in inputs
    }


def assert_it_can_be_done(one: Case, table: makespan.Timetable, workers: int) -> None:
    assert table.keys() == set(range(len(one.graph)))
    for number, inputs in enumerate(one.graph):
        began, ended = table[number]
        assert ended == began + one.seconds[number]
        assert all(table[source][1] <= began for source in inputs)
    changes = sorted([(end, -1) for _, end in table.values()] + [(begin, 1) for begin, _ in table.values()])
    at_work = 0
    for _, change in changes:  # at one moment those that end come first
        at_work += change
        assert at_work <= workers


@given(seed=SEEDS, workers=WORKERS, measured=st.booleans())
def test_the_order_of_work_that_is_simulated_can_be_done_and_wastes_no_worker(seed: int, workers: int, measured: bool) -> None:
    one = makespan.case(seed)
    bound = makespan.lower_bound(one, workers)
    ours = makespan.scheduled(makespan.pipeline_of(one.graph), one, workers, measured=measured)
    for table in (ours, *(makespan.listed(one, rule, workers) for rule in makespan.rules(one))):
        assert_it_can_be_done(one, table, workers)
        took = makespan.makespan(table)
        assert bound * (1 - 1e-9) <= took
        assert took <= (2 - 1 / workers) * bound * (1 + 1e-9)  # Graham: none that leaves no worker idle takes longer


DIAMOND = Case(graph=((), (), (0,), (0, 1)), seconds=(2.0, 1.0, 3.0, 1.0))


def test_bounds_and_rules_are_as_by_hand() -> None:
    assert makespan.ways(DIAMOND) == [5.0, 2.0, 3.0, 1.0]
    assert (makespan.lower_bound(DIAMOND, 1), makespan.lower_bound(DIAMOND, 2)) == (7.0, 5.0)
    assert list(makespan.rules(DIAMOND)) == [[5.0, 2.0, 3.0, 1.0], (2.0, 1.0, 3.0, 1.0), [2, 1, 0, 0]]


@pytest.mark.parametrize(("rank", "starts"), [((1, 2, 3, 4), [1, 0, 4, 3]), ((4, 3, 2, 1), [0, 2, 3, 6])])
def test_one_worker_takes_what_is_ready_by_rank(rank: tuple[int, ...], starts: list[int]) -> None:
    table = makespan.listed(DIAMOND, rank, 1)
    assert [table[number][0] for number in range(4)] == starts


def test_what_lockgate_does_first_is_on_the_longest_way() -> None:
    graph: Graph = ((), (), (), (2,))  # two that are alone, and a way of two
    one = Case(graph=graph, seconds=(3.0, 3.0, 1.0, 5.0))
    assert makespan.makespan(makespan.scheduled(makespan.pipeline_of(graph), one, 2)) == 6.0
    assert makespan.makespan(makespan.listed(one, one.seconds, 2)) == 9.0  # the longest task first


def test_orders_of_work_are_compared() -> None:
    known, first = makespan.measure(graphs=4)
    assert known.holds
    assert "12 of 12 within 5 %" in known.detail
    assert first.value >= known.value * 0.9


def test_a_whole_run_is_measured_without_what_comes_before_it() -> None:
    run = scheduling.ours(layered(60))
    assert run.keys() == {"build", "plan", "run"}
    assert min(run.values()) > 0


def test_a_size_that_would_take_too_long_is_not_measured_and_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "ours", lambda graph: {"build": 0.0, "plan": 0.0, "run": 1.0 * len(graph)})
    many, few, ratio = scheduling.sizes(1, 40, 1_000)
    assert (many.value, few.value) == (1e6, 1e6)
    assert not ratio.holds
    assert ratio.detail.startswith("not measured: at that rate it would take 1000 s")


def test_a_size_that_takes_too_long_is_given_up_and_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    def ours(graph: Graph, *, timeout: float | None = None) -> dict[str, float]:
        if timeout is not None:
            raise subprocess.TimeoutExpired("a run", timeout)
        return {"build": 0.0, "plan": 0.0, "run": 1e-3 * len(graph)}

    monkeypatch.setattr(scheduling, "ours", ours)
    *_, ratio = scheduling.sizes(1, 40, 1_000)
    assert (ratio.holds, ratio.detail) == (False, "given up after 60 s")


def test_peers_that_are_not_there_are_said_not_to_be_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(peer, "BIN", tmp_path)
    figures = list(scheduling.compared(layered(2)))
    assert len(figures) == len(scheduling.PEERS)
    assert {figure.detail for figure in figures} == {peer.MISSING}
    assert [figure.holds for figure in figures if figure.limit] == [False] * 4


def test_a_run_with_nothing_to_do_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(peer, "BIN", tmp_path)
    against_floor, *peers = noop.of_size(3, 1e9, 1, {"doit": ("with_doit", ("doit",), 2.0)})
    assert against_floor.holds
    assert against_floor.value > 0
    assert [figure.detail for figure in peers] == [peer.MISSING] * 2


def test_a_run_that_had_something_to_do_is_not_taken_for_one_that_had_not(tmp_path: Path) -> None:
    root = tmp_path / "project"
    project.write(root, layered(2))
    run = [sys.executable, "-m", "pipeline", "run", "-C", str(root), "--engine", "host"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    seconds(run, env)
    seconds([*run, "--again", "steps[0]"], env)
    with pytest.raises(RuntimeError, match="had something to do"):
        noop.check(root)


def test_a_task_of_ninja_waits_for_those_it_takes() -> None:
    rows = ["rule step", "  command = true", "build out/0: step ", "build out/1: step out/0", "build out/2: step out/0 out/1", ""]
    assert peer.ninja(((), (0,), (0, 1)), "true").split("\n") == rows


@pytest.mark.skipif(shutil.which("ninja") is None, reason="ninja is not installed")
def test_ninja_is_given_the_whole_graph(tmp_path: Path) -> None:
    peer.lay(tmp_path / "graph", layered(60), command="touch $out")
    subprocess.run(["ninja"], cwd=tmp_path / "graph", check=True, capture_output=True)
    assert len(list((tmp_path / "graph" / "out").iterdir())) == 60
    assert len(json.loads((tmp_path / "graph" / "graph.json").read_text())) == 60


@pytest.mark.parametrize(("value", "shown"), [(0.12345, "0.123 s"), (12_345.6, "12,346 s"), (float("inf"), "inf s")])
def test_a_figure_is_shown_to_three_digits_or_whole(value: float, shown: str) -> None:
    assert f"| {shown} |" in Figure("it", value, "s").row()


def test_versions_of_all_peers_are_told() -> None:
    names = [row.split(" ")[0] for row in peer.versions().split(", ")]
    assert names == ["dagster", "dask", "doit", "ninja", "prefect", "snakemake"]


def test_files_of_many_sizes_add_up() -> None:
    sizes = hashing.sizes(400, 1_000_000)
    assert (len(sizes), sum(sizes)) == (400, 1_000_000)
    assert min(sizes) < 500
    assert max(sizes) > 25_000


def test_files_are_hashed_beside_sha256sum() -> None:
    stored, alone = hashing.measure(files=8, size=100_000, pairs=1)
    assert stored.value > 0
    assert alone.value > 0


def test_events_are_counted_and_folded() -> None:
    figures: list[Figure] = list(journal.measure(events=70, writers=3, each=5, stages=4))
    assert [figure.unit for figure in figures] == ["/s", "/s", "", "s"]
    assert figures[2].holds


def test_a_process_that_cannot_write_says_so(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    ready, told = context.Barrier(1), context.SimpleQueue()
    journal.writer(tmp_path / "not there" / "journal.db", "run", 1, ready, told)
    began, ended, why = told.get()
    assert began <= ended
    assert "unable to open" in why


def test_killed_runs_are_resumed_and_what_was_done_is_counted() -> None:
    within = faults.whole()
    for case in (
        faults.Case("sends", "effect.done", 1),
        faults.Case("opens", "effect.intended", 2),
        faults.Case("", "", 3, within),
    ):
        found = faults.run(case)
        assert (found.twice, found.lost, found.wrong, found.stuck) == (0, 0, 0, 0)
        assert found.killed or not case.point


def test_what_was_done_twice_is_lost_or_wrong_does_not_pass(tmp_path: Path) -> None:
    faults.lay(tmp_path, 5)
    code, said = faults.call(tmp_path, "run")
    assert code == 0, said
    fine = faults.looked(tmp_path, 5, killed=True, asked=False, stuck=0)
    assert (fine.twice, fine.lost, fine.wrong) == (0, 0, 0)
    with (tmp_path / "did").open("a") as file:
        file.write("sends\nopens\ntook back opens\n")
    (tmp_path / "told").write_text("1\n999\n")
    found = faults.looked(tmp_path, 6, killed=True, asked=False, stuck=0)
    assert (found.twice, found.lost) == (1, 1)
    assert found.wrong == 8


def test_runs_that_are_asked_to_stop_leave_nothing_behind() -> None:
    with ThreadPoolExecutor(4) as threads:  # they wait most of the time
        assert [one.wrong for one in threads.map(partial(cancel.cancelled, "host"), range(4))] == [()] * 4


def test_what_a_run_that_was_asked_to_stop_leaves_behind_is_seen(tmp_path: Path) -> None:
    (tmp_path / "tmp" / "lockgate-action-x").mkdir(parents=True)
    (tmp_path / "said").write_text("it failed")
    (tmp_path / "did").write_text("opened\n")
    run = RunHistory(id="r", exit=1, stages={"given": StageHistory(name="given", state="passed")})
    child = subprocess.Popen(["sleep", "60"], env={"MARK": str(tmp_path)})
    try:
        assert cancel.processes_of(tmp_path) == [child.pid]
    finally:
        child.kill()
        child.wait()
    assert list(cancel.misses(tmp_path, 1, [child.pid], run)) == [
        "exit code 1: it failed",
        "1 processes left",
        "lockgate-action-x left",
        "the effect was not taken back",
        "recorded as failed",
        "it was not cleaned up",
    ]


def test_what_was_not_measured_now_stays_on_the_page_as_it_was() -> None:
    before = page({"noop": section([Figure("a", 1.0, "s", 2.0)], "then"), "startup": section([], "then")})
    assert before.index("## startup") < before.index("## noop")
    after = sections(page(sections(before) | {"startup": section([Figure("b", 3.0, "s", 2.0)], "now")}))
    assert after["noop"] == sections(before)["noop"]
    assert after["startup"].startswith("now\n\n| what")
    assert "| b | 3 s | at most 2 | **no** |" in after["startup"]
    assert page(sections(before)) == before


def rollout(old: tuple[int, int], new: tuple[int, int], *, slow: float = 90.0, ticks: int = 60) -> Series:
    """The same in each tick of ten seconds: requests and errors of both sides, and the latency of the new one."""
    columns = [*old, 90.0, *new, slow]
    return Series(10.0, *(np.array([value] * ticks) for value in columns))


@pytest.mark.parametrize(
    ("series", "found"),
    [
        (rollout((950, 5), (50, 0)), (None, None, None)),
        (rollout((950, 5), (50, 1)), (6, 30, None)),  # 98 % succeed: five minutes in which less than 99 % do
        (rollout((950, 5), (50, 3)), (6, 30, 6)),  # 94 %: one minute in which less than 95 % do
        (rollout((950, 5), (50, 0), slow=100.0), (6, None, None)),
        (rollout((950, 5), (50, 0), slow=600.0), (6, 30, None)),
        (rollout((950, 5), (-1, -1)), (None, None, None)),
    ],
)
def test_baselines_decide_as_they_are_documented(series: Series, found: tuple[int | None, ...]) -> None:
    assert (kayenta(series), flagger(series), argo(series)) == found


def test_the_shift_is_high_where_its_interval_is_above_the_tolerance() -> None:
    """Thirty values from 0 to 1 on either side: a shift of 0.9 is one beyond doubt, of 0.2 it is not, and less is never High."""
    old = np.linspace(0.0, 1.0, 30)
    assert is_high(old + 0.9, old)
    assert not is_high(old + 0.2, old)
    assert not is_high(old - 0.9, old)


def test_simulated_canaries_are_the_same_each_time_and_bad_ones_are_aborted() -> None:
    bad, fine = (judge.simulated(judge.Scenario(100, lift=lift), 3) for lift in (20.0, 1.0))
    assert bad == judge.simulated(judge.Scenario(100, lift=20.0), 3)
    assert all(one.aborted["Lockgate"] <= 60 for one in bad)
    assert all(one.aborted["Lockgate"] == math.inf for one in fine)


@pytest.mark.long
def test_after_a_killed_deployment_nothing_is_lost_and_all_is_as_it_should_be() -> None:
    found = list(kills.measure(seeds=1, strategies=("blue-green", "canary"), every=7))
    assert [figure.value for figure in found] == [0] * 10, "\n".join(map(str, found))
    assert [figure.detail for figure in found[::5]] == ["3 runs", "3 runs"]
    assert [figure.detail.partition(";")[0] for figure in found[3::5]] == ["3 were killed", "3 were killed"]


@pytest.mark.long
def test_deployments_under_load_lose_nothing_and_their_figures_are_told() -> None:
    """Behind Envoy, which does all that HAProxy does, and copies."""
    found = {figure.name: figure for figure in delivery.measure(switches=3, rate=200, requests=100, routers=("Envoy",))}
    assert [figure.value for name, figure in found.items() if "lost" in name] == [0] * 9
    assert all(figure.value >= 0 for figure in found.values())
    assert "may not go on: abort after" in next(
        figure.detail for name, figure in found.items() if "the tick that decides" in name
    )


def locked(lock: str) -> set[str]:
    lines = (ROOT / "locks" / lock).read_text().splitlines()
    return {line.partition("==")[0].partition("[")[0].strip() for line in lines if re.match(r"[a-z0-9]", line)}


def test_all_can_be_measured_with_no_more_than_is_installed_for_it() -> None:
    only_tests = locked("test.lock") - locked("bench.lock")
    assert "hypothesis" in only_tests
    modules = {
        name for name, of in packages_distributions().items() if {re.sub("[-_.]+", "-", one).lower() for one in of} <= only_tests
    }
    assert "hypothesis" in modules
    code = f"import sys; sys.modules.update(dict.fromkeys({sorted(modules)!r})); import benchmarks.__main__"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
