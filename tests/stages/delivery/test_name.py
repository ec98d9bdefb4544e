"""The names of targets and routers are names of directories."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline import WiringError
from stages.delivery.docker import Docker
from stages.delivery.envoy import Envoy
from stages.delivery.haproxy import HAProxy
from stages.delivery.local import LocalProcesses


@pytest.mark.parametrize(
    "kind", [LocalProcesses, Docker, lambda name: HAProxy(name=name, port=1), lambda name: Envoy(name=name, port=1)]
)
@pytest.mark.parametrize("name", ["", ".", "..", "../evil", "team/app", "a\nb", " a", "a ", "-a", "a" * 101])
def test_a_name_that_is_none_or_leads_elsewhere_is_refused(kind: Any, name: str) -> None:
    with pytest.raises(WiringError, match=r"\.name is "):
        kind(name=name)


@pytest.mark.parametrize("name", ["app", "the app", "camera-counting", "v1.2", "straße", "a" * 100])
def test_names_of_directories_are_taken(name: str) -> None:
    assert LocalProcesses(name=name).name == name
