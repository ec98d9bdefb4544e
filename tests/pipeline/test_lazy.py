"""Packages whose names load when they are used."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

import gates
import pipeline


@pytest.mark.parametrize("package", [pipeline, gates])
def test_every_public_name_is_there_and_listed(package: ModuleType) -> None:
    names = package.__all__
    assert set(names) <= set(dir(package))
    assert all(getattr(package, name) is not None for name in names)
    assert all(getattr(package, name).__name__ == name for name in names if isinstance(getattr(package, name), type))


@pytest.mark.parametrize("package", [pipeline, gates])
def test_a_name_that_is_not_there_is_an_ordinary_error(package: ModuleType) -> None:
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'Nothing'"):
        _ = package.Nothing


@pytest.mark.parametrize(("package", "heavy"), [("pipeline", "pipeline.data"), ("gates", "pydantic")])
def test_importing_the_package_loads_nothing_of_it(package: str, heavy: str) -> None:
    program = f"import sys, {package}; assert {heavy!r} not in sys.modules; {package}.__all__; {package}.__dir__()"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
