"""Fixtures of the machine's tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import Project, Store
from pipeline.settings import Settings
from tests.postgres import Server, install


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory, shared_home: Path) -> Iterator[Server]:
    """A server for all tests of a worker, each of which has a schema of its own there.

    For root it runs as another user, whom pytest locks out of its own directories whenever another session begins.
    """
    project = Project(root=tmp_path_factory.mktemp("postgres"), home=shared_home, settings=Settings())
    with tempfile.TemporaryDirectory(prefix="lockgate-postgres-") as place:
        found = Server(install(project, Store(shared_home / "store"), Path(place, "site")), Path(place))
        found.start()
        try:
            yield found
        finally:
            found.stop()
