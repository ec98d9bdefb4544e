"""`run` in this process: signals that come before there is anything to stop."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio.from_thread
import pytest

from pipeline import Journal
from pipeline.cli import main
from pipeline.history import one

PIPELINE = """
from pathlib import Path
from pipeline import Pipeline
from tests.pipeline.toys import *
pipeline = Pipeline("thing", counted=Counted(of=Constant(value=1), file=Path(__file__).with_name("counter")))
"""


@pytest.fixture(autouse=True)
def hung_up() -> Iterator[None]:
    """A hangup is heard, also where the tests were started by nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    (root / "pyproject.toml").write_text("[tool.pipeline]\nengine = 'host'\nfile = 'interrupted_early.py'\n")
    (root / "interrupted_early.py").write_text(PIPELINE)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "modules", {**sys.modules})
    return root


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_interrupted_while_its_engine_opens_starts_no_stage(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def last_step() -> tuple[str, ...]:
        os.kill(os.getpid(), number)
        for _ in range(20):
            anyio.from_thread.run_sync(lambda: None)  # the event loop goes round, and hears of it
        return ()

    monkeypatch.setattr("pipeline.engines.host.best_level", last_step)
    assert main.main(["-C", str(root), "run"]) == 130
    assert not (root / "counter").exists()
    journal = Journal(root / ".pipeline" / "journal.db")
    found = one(journal, "")
    started, ends = (list(journal.events(kind=kind)) for kind in ("stage.started", "run.finished"))
    journal.close()
    assert found is not None
    assert (found.state, len(started), len(ends)) == ("interrupted", 0, 1)


def test_who_asked_not_to_be_hung_up_is_not(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.engines.host.sweep", lambda: os.kill(os.getpid(), signal.SIGHUP))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what nohup does
    try:
        assert main.main(["-C", str(root), "run"]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (root / "counter").read_text() == "counted\n"
