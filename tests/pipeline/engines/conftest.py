"""Where coverage is measured, it is measured in the sandbox too: it runs as a process without site-packages."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pipeline.engines import host

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def measured_sandbox(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    if os.environ.get("COVERAGE_PROCESS_CONFIG") or ("coverage" in sys.modules and os.environ.get("COV_CORE_SOURCE")):
        data = f"--data-file={ROOT / '.coverage'}"
        script = tmp_path_factory.mktemp("launcher") / "launcher.py"
        script.write_text(host.IMPORTED)
        settings = f"--rcfile={ROOT / 'pyproject.toml'}"
        launcher = (sys.executable, "-m", "coverage", "run", "--parallel-mode", data, settings, str(script), host.LAUNCHER[-1])
        monkeypatch.setattr(host, "LAUNCHER", launcher)
