"""The names of targets and routers are names of directories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline import WiringError
from stages.delivery.docker import Docker
from stages.delivery.envoy import Envoy
from stages.delivery.haproxy import HAProxy
from stages.delivery.local import LocalProcesses
from stages.delivery.tls import Tls


@pytest.mark.parametrize(
    "kind", [LocalProcesses, Docker, lambda name: HAProxy(name=name, port=1), lambda name: Envoy(name=name, port=1)]
)
@pytest.mark.parametrize("name", ["", ".", "..", "../evil", "team/app", "a\nb", " a", "a ", "-a", "a" * 101])
def test_a_name_that_is_none_or_leads_elsewhere_is_refused(kind: Any, name: str) -> None:
    with pytest.raises(WiringError, match=r"\.name is "):
        kind(name=name)


@pytest.mark.parametrize(
    "kind",
    [
        lambda port: HAProxy(name="app", port=port),
        lambda port: Envoy(name="app", port=port),
        lambda port: Tls(port=port, certificate=Path("c"), key=Path("k"), hosts=("localhost",)),
    ],
)
@pytest.mark.parametrize("port", [-1, 0, 65_536])
def test_what_is_no_port_is_refused(kind: Any, port: int) -> None:
    with pytest.raises(WiringError, match=f"the port is {port}"):
        kind(port)


def test_a_docker_daemon_that_could_be_anybodys_is_refused() -> None:
    with pytest.raises(WiringError, match=r"host is 'tcp://192\.0\.2\.1:2375'"):
        Docker(name="app", host="tcp://192.0.2.1:2375")


@pytest.mark.parametrize("name", ["app", "the app", "camera-counting", "v1.2", "straße", "a" * 100])
def test_names_of_directories_are_taken(name: str) -> None:
    assert LocalProcesses(name=name).name == name
