"""The SARIF of all scans of a run in one file (OASIS SARIF 2.1.0)."""

from __future__ import annotations

import json
from typing import Any

from pipeline.data import Blob
from pipeline.history import RunHistory
from pipeline.store import Store

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def merged(run: RunHistory, store: Store) -> str:
    """One log with the runs of every result of this run that carries a SARIF report.

    Raises StoreError when a report is not in the store any more: an empty answer would read as no findings.
    """
    runs: list[Any] = []
    for stage in run.stages.values():
        if stage.result:
            found = _runs(json.loads(store.read(Blob(digest=stage.result, size=0))), store)
            runs += [one | {"automationDetails": {"id": f"{stage.name}/"}} for one in found]  # one tool may scan twice
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": runs}, indent=2)


def _runs(result: Any, store: Store) -> list[Any]:
    """The SARIF runs of a result that has a `report` and `findings`."""
    if not isinstance(result, dict) or not {"report", "findings"} <= result.keys():
        return []
    found = json.loads(store.read(Blob(**result["report"])))
    return list(found["runs"])
