"""Actions of one run on a cluster, and what becomes of them when parts of it fail."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from pipeline import Pipeline
from pipeline.errors import EngineError, Exit
from pipeline.workers.bench import NOTHING
from pipeline.workers.cluster import Patience
from tests.pipeline.remote.servers import Adversary, Nginx, adversary, needs_nginx, respond
from tests.pipeline.workers.clusters import QUICK, Cluster, Coordinator, cluster, eventually, left_running
from tests.pipeline.workers.toys import HangsOnce, Makes, Sends, Weighs, Whispers

pytestmark = needs_nginx


def sending(tmp_path: Path) -> Pipeline:
    """A stage that waits to be let go, and a side effect after it."""
    makes = Makes(mark=str(tmp_path / "begun"), until=str(tmp_path / "go"))
    weighs = Weighs(of=makes)
    return Pipeline("thing", makes=makes, weighs=weighs, sends=Sends(of=(weighs,), to=str(tmp_path / "sent")))


def check_sent_once(coordinator: Coordinator, tmp_path: Path) -> None:
    """All stages passed, and the side effect took place once and here."""
    assert set(coordinator.states().values()) == {"passed"}
    assert (tmp_path / "sent").read_text() == "sent\n"
    assert coordinator.placed()["sends"] == ""


def test_results_are_those_of_a_run_on_one_machine(shared_cluster: Cluster, coordinator: Coordinator, tmp_path: Path) -> None:
    shared_cluster.have(2)
    makes = Makes(size=3_000_000)
    pipeline = Pipeline("thing", makes=makes, weighs=Weighs(of=makes))
    outcome, results = coordinator.run(pipeline, shared_cluster)
    alone = Coordinator(tmp_path / "alone")
    try:
        assert not outcome.failed
        assert alone.run(pipeline, None)[1] == results
        assert all(coordinator.placed().values())
        assert not any(alone.placed().values())

        def told(one: Coordinator) -> list[dict[str, object]]:
            return [
                {key: value for key, value in event.data.items() if key not in ("seconds", "worker")}
                for event in one.events("action.finished")
            ]

        assert told(coordinator) == told(alone)
        (log,) = (coordinator.project.home / "logs" / coordinator.run_id / "makes").glob("1-1.log")
        assert log.read_text() == "made here\n"
    finally:
        alone.journal.close()


def test_all_workers_get_work_and_what_was_made_somewhere_is_used_there(
    shared_cluster: Cluster, coordinator: Coordinator, tmp_path: Path
) -> None:
    shared_cluster.have(2)
    one = Makes(size=2_000_000, mark=str(tmp_path / "one"), until=str(tmp_path / "two"))
    two = Makes(size=2_000_001, mark=str(tmp_path / "two"), until=str(tmp_path / "one"))
    of_two = Weighs(of=two, after=(one,))
    of_one = Weighs(of=one, after=(of_two,))
    outcome, _ = coordinator.run(Pipeline("thing", one=one, two=two, of_two=of_two, of_one=of_one), shared_cluster)
    assert not outcome.failed
    placed = coordinator.placed()
    assert placed["one"] != placed["two"]
    assert (placed["of_one"], placed["of_two"]) == (placed["one"], placed["two"])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_is_lost_is_replaced_by_another_one(
    number: signal.Signals, shared_cluster: Cluster, coordinator: Coordinator, tmp_path: Path
) -> None:
    machines = shared_cluster.have(2)
    begun = tmp_path / "begun"

    def lose() -> None:
        eventually(begun.exists, "the action does not begin")
        (has_it,) = [one for one in machines if one.runs(begun)]
        os.kill(has_it.pid, number)
        eventually(lambda: coordinator_again(coordinator) or has_it.process.poll() is not None, "no other worker gets it")
        (tmp_path / "go").touch()
        lost.append(has_it)

    lost: list[object] = []
    with ThreadPoolExecutor() as beside:
        losing = beside.submit(lose)
        coordinator.run(sending(tmp_path), shared_cluster)
        losing.result()
    check_sent_once(coordinator, tmp_path)
    (again,) = coordinator.events("workers.again")
    assert coordinator.placed()["makes"] == again.data["worker"]
    for one in machines:
        if one in lost:
            shared_cluster.end(one)


def coordinator_again(coordinator: Coordinator) -> bool:
    return coordinator.journal.latest("makes", ("workers.again",)) is not None


def test_a_slow_worker_has_a_second_one_beside_it_and_what_it_did_is_ended(
    shared_cluster: Cluster, coordinator: Coordinator, tmp_path: Path
) -> None:
    shared_cluster.have(2)
    claim = tmp_path / "claim"
    pipeline = Pipeline("thing", hangs=HangsOnce(claim=str(claim)))
    claim.mkdir()
    coordinator.run(pipeline, shared_cluster)
    claim.rmdir()
    slow = QUICK.slow(coordinator.journal.durations(["hangs"])["hangs"])
    outcome, _ = coordinator.run(pipeline, shared_cluster, again=frozenset({"hangs"}))
    assert not outcome.failed
    (again,) = coordinator.events("workers.again")
    assert f"longer than {slow:.1f} s" in again.data["reason"]
    assert coordinator.placed()["hangs"] == again.data["worker"]
    eventually(lambda: not left_running(claim), "the slow one goes on")


def test_secrets_never_leave(
    shared_cluster: Cluster, coordinator: Coordinator, cache: Nginx, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines = shared_cluster.have(2)
    monkeypatch.setenv("A_SECRET", "never-to-be-seen")
    outcome, results = coordinator.run(Pipeline("thing", whispers=Whispers(), makes=Makes(size=11)), shared_cluster)
    assert (outcome.failed, results["whispers"].value) == ({}, len("never-to-be-seen\n"))
    assert (coordinator.placed()["whispers"], coordinator.placed()["makes"] != "") == ("", True)
    seen = [path for place in (cache.place, *(one.home for one in machines)) for path in place.rglob("*") if path.is_file()]
    assert seen
    assert not any(b"never-to-be-seen" in path.read_bytes() for path in seen)


def test_a_cluster_without_a_worker_of_the_run_s_platform_is_an_error(shared_cluster: Cluster, coordinator: Coordinator) -> None:
    shared_cluster.have(1)
    with pytest.raises(EngineError, match=r"workers can be asked; tcp://\S+: its platform is linux") as raised:
        coordinator.run(Pipeline("thing", makes=Makes()), shared_cluster, platform="plan9")
    assert raised.value.exit is Exit.UNUSABLE
    assert "on plan9" in raised.value.right


def test_a_scheduler_that_hangs_leaves_the_run_to_its_own_engine(
    shared_cluster: Cluster, coordinator: Coordinator, tmp_path: Path
) -> None:
    shared_cluster.have(1)
    begun = tmp_path / "begun"

    def stop() -> None:
        eventually(begun.exists, "the action does not begin")
        shared_cluster.scheduler.send_signal(signal.SIGSTOP)
        eventually(lambda: coordinator.journal.latest("", ("workers.off",)), "the run holds on to the scheduler")
        (tmp_path / "go").touch()

    try:
        with ThreadPoolExecutor() as beside:
            stopping = beside.submit(stop)
            coordinator.run(sending(tmp_path), shared_cluster)
            stopping.result()
    finally:
        shared_cluster.scheduler.send_signal(signal.SIGCONT)
    check_sent_once(coordinator, tmp_path)
    assert set(coordinator.placed().values()) == {""}
    (off,) = coordinator.events("workers.off")
    assert off.data == {"address": shared_cluster.address, "reason": "its scheduler does not answer: it hangs"}
    assert [event.stage for event in coordinator.events("workers.failed")] == ["makes"]


def test_a_scheduler_that_dies_leaves_the_run_to_its_own_engine_and_nothing_running(
    cache: Nginx, coordinator: Coordinator, tmp_path: Path
) -> None:
    with cluster(tmp_path / "cluster", cache.address) as lone:
        with pytest.raises(EngineError, match=r"no worker has joined within 1 s") as raised:
            coordinator.run(sending(tmp_path), lone, patience=Patience(connect=1, beat=0.1))
        assert raised.value.next == f"dask worker {lone.address} --nthreads 2"
        (machine,) = lone.have(1)
        begun = tmp_path / "begun"

        def kill() -> None:
            eventually(begun.exists, "the action does not begin")
            lone.scheduler.kill()
            begun.unlink()
            eventually(
                lambda: coordinator.journal.latest("makes", ("workers.failed",)) and begun.exists(), "it is not executed here"
            )
            eventually(lambda: machine.process.poll() is not None or not machine.runs(begun), "the worker goes on")
            (tmp_path / "go").touch()

        with ThreadPoolExecutor() as beside:
            killing = beside.submit(kill)
            coordinator.run(sending(tmp_path), lone)
            killing.result()
        check_sent_once(coordinator, tmp_path)
        assert set(coordinator.placed().values()) == {""}
        with pytest.raises(EngineError, match="no scheduler answers") as raised:
            coordinator.run(sending(tmp_path), lone, patience=Patience(connect=0.3), again=frozenset({"makes"}))
        assert raised.value.next == f"dask scheduler --port {lone.address.rpartition(':')[2]}"


@pytest.mark.parametrize("methods", [("GET",), ("HEAD", "PUT")], ids=["for workers", "for everybody"])
def test_without_the_cache_actions_are_executed_here(
    methods: tuple[str, ...], shared_cluster: Cluster, coordinator: Coordinator, tmp_path: Path
) -> None:
    shared_cluster.have(2)

    def fails(_server: Adversary, request: BaseHTTPRequestHandler) -> bool:
        refused = request.command in methods and NOTHING not in request.path
        if refused:
            request.rfile.read(int(request.headers["Content-Length"] or 0))
            respond(request, 500)
        return refused

    makes = Makes(size=99)
    coordinator.run(Pipeline("thing", makes=makes), None)
    with adversary(fails) as server:
        lent = replace(shared_cluster, cache=server.address)
        outcome, results = coordinator.run(Pipeline("thing", makes=makes, weighs=Weighs(of=makes)), lent)
    assert (outcome.failed, results["weighs"].value) == ({}, 99)
    assert coordinator.placed() == {"weighs": ""}
    (failed,) = coordinator.events("workers.failed")
    assert "was answered 500" in failed.data["reason"]
    assert len(coordinator.events("workers.again")) == (1 if methods == ("GET",) else 0)


def test_workers_that_cannot_write_get_no_more_and_the_action_is_executed_here(
    shared_cluster: Cluster, coordinator: Coordinator, tmp_path: Path
) -> None:
    machines = shared_cluster.have(2)
    with ExitStack() as broken:
        for one in machines:
            broken.enter_context(unwritable(one.home / "store"))
        outcome, _ = coordinator.run(Pipeline("thing", makes=Makes(size=12)), shared_cluster)
    assert (outcome.failed, coordinator.placed()) == ({}, {"makes": ""})
    assert len(coordinator.events("workers.again")) == len(machines) - 1
    (failed,) = coordinator.events("workers.failed")
    assert "/store: File exists" in failed.data["reason"]


@contextmanager
def unwritable(store: Path) -> Iterator[None]:
    """A file where the store is: that stops root too."""
    store.mkdir(exist_ok=True)
    store.rename(store.with_name("aside"))
    store.touch()
    try:
        yield
    finally:
        store.unlink()
        store.with_name("aside").rename(store)
