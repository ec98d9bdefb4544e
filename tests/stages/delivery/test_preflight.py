"""Preflight: a port that somebody else has stops a delivery before anything is changed for it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace

import anyio
import pytest

from pipeline import Journal, Pipeline, Project, StageFailed, Store
from pipeline.engines.local import free_port
from stages.delivery.docker import Docker
from stages.delivery.envoy import Envoy, EnvoyRouter
from stages.delivery.haproxy import HAProxy
from stages.delivery.model import Address, Group
from stages.delivery.preflight import Preflight
from tests.conftest import RunStage, StageDidNotPass
from tests.pipeline.toys import Constant
from tests.running import run_pipeline
from tests.stages.delivery.conftest import need_envoy
from tests.stages.delivery.small import delivery, deployment


def preflight(port: int, host: str = "127.0.0.1") -> Preflight:
    return Preflight(router=HAProxy(name="app", host=host, port=port))


@pytest.fixture
def taken() -> Iterator[int]:
    """A port somebody else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_free_port_is_clear(run_stage: RunStage) -> None:
    port = free_port()
    assert run_stage(preflight(port)).summary() == f"127.0.0.1:{port} is free for HAProxy"


def test_a_port_that_somebody_else_has_stops_what_comes_after(
    taken: int, project: Project, store: Store, journal: Journal
) -> None:
    check = preflight(taken)
    migration = Constant(value=1, after=(check,))
    outcome, found = run_pipeline(Pipeline("x", check=check, migration=migration), project, store, journal)
    assert "migration" not in found
    why = outcome.failed["check"]
    assert f"HAProxy could not listen on 127.0.0.1:{taken}: Address already in use" in why
    assert f"ss -atnp 'sport = :{taken}'" in why


def test_an_address_of_another_machine_is_not_clear(run_stage: RunStage) -> None:
    with pytest.raises(StageDidNotPass, match=r"could not listen on 192\.0\.2\.1:8080: Cannot assign requested address"):
        run_stage(preflight(8080, "192.0.2.1"))


def test_the_router_that_serves_there_already_does_not_stand_in_its_own_way(
    project: Project, store: Store, journal: Journal, run_stage: RunStage
) -> None:
    port = free_port()
    outcome, _ = run_pipeline(delivery(deployment(port, "one"), "one"), project, store, journal)
    assert outcome.failed == {}
    assert run_stage(preflight(port)).summary() == f"HAProxy listens on 127.0.0.1:{port}"


def test_a_target_is_asked_what_runs_where_it_is_named(
    project: Project, store: Store, journal: Journal, run_stage: RunStage
) -> None:
    port = free_port()
    deploy = deployment(port, "one")
    assert run_pipeline(delivery(deploy, "one"), project, store, journal)[0].failed == {}
    found = run_stage(replace(preflight(port), target=deploy.target))
    assert found.summary() == f"HAProxy listens on 127.0.0.1:{port}; 1 release on the target"
    nowhere = Docker(name="app", host="unix:///nowhere/docker.sock")
    with pytest.raises(StageDidNotPass, match=r"unix:///nowhere/docker\.sock"):
        run_stage(replace(preflight(port), target=nowhere))


def test_a_router_that_is_to_listen_elsewhere_needs_that_place(
    taken: int, project: Project, store: Store, journal: Journal, run_stage: RunStage
) -> None:
    outcome, _ = run_pipeline(delivery(deployment(free_port(), "one"), "one"), project, store, journal)
    assert outcome.failed == {}
    with pytest.raises(StageDidNotPass, match="Address already in use"):
        run_stage(preflight(taken))


def test_a_router_of_another_kind_that_this_project_runs_is_not_clear_and_not_taken_for_it(
    project: Project, store: Store, journal: Journal
) -> None:
    need_envoy()
    port = free_port()
    outcome, _ = run_pipeline(delivery(deployment(port, "one"), "one"), project, store, journal)
    assert outcome.failed == {}
    config = Envoy(name="app", port=port)
    check = Preflight(router=config)
    outcome, _ = run_pipeline(Pipeline("x", check=check), project, store, journal)
    assert "HAProxy runs where Envoy app is to" in outcome.failed["check"]
    assert "stages.delivery.down" in outcome.failed["check"]
    envoy = EnvoyRouter(config=config, ready="/readyz", state=project.home / "state" / "router" / "app")
    one = Group("one", (Address(host="127.0.0.1", port=port),))
    with pytest.raises(StageFailed, match="HAProxy runs where Envoy app is to"):
        anyio.run(envoy.split, {"one": 100}, {"one": one})
    outcome, _ = run_pipeline(delivery(deployment(port, "two"), "two"), project, store, journal)
    assert outcome.failed == {}
