"""The SARIF of all scans of a run in one file (OASIS SARIF 2.1.0)."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from typing import Any

from pipeline.data import Blob
from pipeline.errors import StoreError
from pipeline.history import RunHistory, StageHistory
from pipeline.stage import Stage
from pipeline.store import Store

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"

SCAN = {"report", "findings"}
"""The fields of a result that carries a SARIF report."""


def merged(run: RunHistory, store: Store, may_scan: Callable[[str], bool]) -> str:
    """One log with the runs of every result of this run that carries a SARIF report.

    `may_scan` is asked of stages whose result is gone. Raises StoreError when one of them may, as an empty answer would read
    as no findings.
    """
    runs: list[Any] = []
    scans, gone = list[StageHistory](), list[StageHistory]()
    for stage in run.stages.values():
        if not stage.result:
            continue
        found = _runs(stage.result, store)
        if found is not None:
            runs += [one | {"automationDetails": {"id": f"{stage.name}/"}} for one in found]  # one tool may scan twice
            scans += [stage] if found else []
        elif may_scan(stage.name):
            gone.append(stage)
    if gone:
        raise _lost(run, store, scans, gone)
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": runs}, indent=2)


def is_scan(stage: Stage[Any]) -> bool:
    """Whether what the stage returns carries a SARIF report."""
    return getattr(stage.result_type(), "model_fields", {}).keys() >= SCAN


def _runs(name: str, store: Store) -> list[Any] | None:
    """The SARIF runs of the result of that digest, none where it carries no report; None where it is gone, or its report is."""
    if not store.has_object(name):
        return None
    result = json.loads(store.read(Blob(digest=name, size=0)))
    if not isinstance(result, dict) or not result.keys() >= SCAN:
        return []
    report = Blob(**result["report"])
    return list(json.loads(store.read(report))["runs"]) if store.has_object(report.digest) else None


def _lost(run: RunHistory, store: Store, scans: list[StageHistory], gone: list[StageHistory]) -> StoreError:
    names = ", ".join(stage.name for stage in gone)
    again = dict.fromkeys(shlex.quote(stage.part_of or stage.name) for stage in (*scans, *gone))
    return StoreError(
        f"what {names} found in run {run.id} is not there any more: it was evicted, or removed as damaged, or never kept here",
        where=str(store.root),
        right="the evidence of every scan, as nothing else tells that nothing was found; "
        "pruning takes evidence that said no, whenever it was made",
        next=f"python -m pipeline run {' '.join(again)}; python -m pipeline report --format sarif",
    )
