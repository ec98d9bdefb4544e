"""Fixtures: one cluster and one cache for all tests, and a fresh coordinator for each.

They end with the last of these tests: a cluster with nothing to do takes a twentieth of a processor.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline.remote.servers import LOCKED, Nginx, nginx
from tests.pipeline.workers.clusters import Cluster, Coordinator, cluster


@pytest.fixture(scope="package")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    with nginx(tmp_path_factory.mktemp("nginx"), LOCKED) as server:
        yield server


@pytest.fixture(scope="package")
def shared_cluster(cache: Nginx, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("cluster"), cache.address) as found:
        yield found


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    made = Coordinator(tmp_path)
    yield made
    made.journal.close()
