"""Where deployments are kept that tests and benchmarks look into: the same place as a stage's."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline import Project, Store
from pipeline.engines.local import isolated_python
from stages.delivery.local import LocalTarget


def state(project: Project, kind: str, name: str = "app") -> Path:
    place = project.home / "state" / kind / name
    place.mkdir(parents=True, exist_ok=True)
    return place


def local_target(project: Project, store: Store, name: str = "app") -> LocalTarget:
    return LocalTarget(
        state=state(project, "deploy", name),
        store=store,
        python=isolated_python(project.home / "python"),
        secret=lambda variable: os.environ[variable],
        patience=10.0,
    )
