"""Fixtures: homes of machines that share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.pipeline.remote.homes import Home

NewHome = Callable[[], Home]


@pytest.fixture
def new_home(tmp_path: Path) -> Iterator[NewHome]:
    """Makes a machine that has never run anything."""
    homes: list[Home] = []

    def new() -> Home:
        homes.append(Home(tmp_path / f"home-{len(homes)}"))
        return homes[-1]

    yield new
    for home in homes:
        home.close()
