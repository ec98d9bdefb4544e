"""The SARIF of all scans of a run in one file (OASIS SARIF 2.1.0)."""

from __future__ import annotations

import json
import shlex
from typing import Any, Protocol

from pipeline.data import SCANNED, Blob
from pipeline.errors import StoreError
from pipeline.history import RunHistory, StageHistory
from pipeline.store import Store

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


class Scanned(Protocol):
    """What is known besides the journal of the stages of a run."""

    def may_scan(self, stage: StageHistory) -> bool:
        """Whether what the stage returned may have carried a SARIF report."""
        ...

    def may_run(self, name: str) -> bool:
        """Whether there still may be a stage of that name."""
        ...


def merged(run: RunHistory, store: Store, known: Scanned) -> str:
    """One log with the runs of every result of this run that carries a SARIF report.

    Raises StoreError when the result of a stage that may scan is gone, as an empty answer would read as no findings.
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
        elif known.may_scan(stage):
            gone.append(stage)
    if gone:
        raise _lost(run, store, scans, gone, known)
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": runs}, indent=2)


def _runs(name: str, store: Store) -> list[Any] | None:
    """The SARIF runs of the result of that digest, none where it carries no report; None where it is gone, or its report is."""
    if not store.has_object(name):
        return None
    result = json.loads(store.read(Blob(digest=name, size=0)))
    if not isinstance(result, dict) or not result.keys() >= SCANNED:
        return []
    report = Blob(**result["report"])
    return list(json.loads(store.read(report))["runs"]) if store.has_object(report.digest) else None


def _lost(run: RunHistory, store: Store, scans: list[StageHistory], gone: list[StageHistory], known: Scanned) -> StoreError:
    """Says how to scan anew, unless that would leave out what there is no stage for any more."""
    lost = [stage.name for stage in gone if not known.may_run(stage.part_of or stage.name)]
    again = dict.fromkeys(shlex.quote(stage.part_of or stage.name) for stage in (*scans, *gone))
    if lost:
        anew, command = f"{', '.join(lost)} cannot scan anew: the pipeline has no such stage now", ""
    else:
        anew = "what follows scans the files as they are now"
        command = f"python -m pipeline run {' '.join(again)}; python -m pipeline report --format sarif"
    names = ", ".join(stage.name for stage in gone)
    return StoreError(
        f"what {names} found in run {run.id} is not there any more: it was evicted, or removed as damaged, or never kept here",
        where=str(store.root),
        right=f"the evidence of every scan, as nothing else tells that nothing was found; {anew}",
        next=command,
    )
