"""One SARIF log of all scans of a run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from gates import Finding, Findings, Severity, SizeReport
from pipeline import Blob, Result, Store, StoreError
from pipeline.history import RunHistory, StageHistory
from pipeline.reports.sarif import merged


def scan(store: Store, tool: str) -> Findings:
    """What a scanner found, with its report."""
    log = {"version": "2.1.0", "runs": [{"tool": {"driver": {"name": tool}}, "results": [{"ruleId": "R1"}]}]}
    found = Finding(rule="R1", severity=Severity.HIGH, path="a.py", line=1, message="m", fingerprint="f")
    return Findings(tool=tool, subject="files", targets=1, findings=(found,), report=store.put(json.dumps(log).encode()))


def run(store: Store, **results: Result | None) -> RunHistory:
    """A run with these results of its stages; None: one that has none."""
    made = RunHistory(id="r")
    for name, result in results.items():
        kept = store.put(result.model_dump_json().encode()).digest if result else ""
        made.stages[name] = StageHistory(name=name, result=kept)
    return made


@dataclass(frozen=True)
class Known:
    """Stages that are known to scan nothing, and those that the pipeline does not have any more; nothing is known of others."""

    no_scans: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()

    def may_scan(self, stage: StageHistory) -> bool:
        return stage.name not in self.no_scans

    def may_run(self, name: str) -> bool:
        return name not in self.gone


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_the_scans_of_a_run_are_one_log_and_each_is_named_by_its_stage(store: Store) -> None:
    size = SizeReport(subject="image", total=1, parts={})
    of = run(store, lint=scan(store, "ruff"), size=size, gone=None, again=scan(store, "ruff"))
    found = json.loads(merged(of, store, Known()))
    assert found["version"] == "2.1.0"
    assert [one["automationDetails"]["id"] for one in found["runs"]] == ["lint/", "again/"]
    assert [one["results"] for one in found["runs"]] == [[{"ruleId": "R1"}]] * 2


def test_a_report_that_is_gone_is_never_read_as_no_findings(store: Store) -> None:
    findings = scan(store, "ruff")
    of = run(store, types=scan(store, "mypy"), lint=findings)
    store.path(findings.report).unlink()
    with pytest.raises(StoreError, match="what lint found in run r is not there any more: it was evicted") as caught:
        merged(of, store, Known())
    assert caught.value.next == "python -m pipeline run types lint; python -m pipeline report --format sarif"


def test_of_what_is_gone_only_scans_are_missed_and_parts_are_made_again_with_their_whole(store: Store) -> None:
    of = run(store, lint=scan(store, "ruff"))
    of.stages["database"] = StageHistory(name="database", result="0" * 64)
    assert len(json.loads(merged(of, store, Known(("database", "each[b]"))))["runs"]) == 1
    of.stages["each[b]"] = StageHistory(name="each[b]", result="2" * 64, part_of="each")
    assert len(json.loads(merged(of, store, Known(("database", "each[b]"))))["runs"]) == 1
    of.stages["each[a]"] = StageHistory(name="each[a]", result="1" * 64, part_of="each")
    with pytest.raises(StoreError, match=r"what each\[a\] found") as caught:
        merged(of, store, Known(("database", "each[b]")))
    assert caught.value.next.startswith("python -m pipeline run lint each; ")


def test_where_the_pipeline_does_not_have_a_scan_any_more_no_command_is_named_that_would_leave_it_out(store: Store) -> None:
    of = run(store, types=scan(store, "mypy"), lint=scan(store, "ruff"))
    store.path(Blob(digest=of.stages["lint"].result, size=0)).unlink()
    with pytest.raises(StoreError, match="what lint found in run r") as caught:
        merged(of, store, Known(gone=("lint",)))
    assert (caught.value.next, "lint cannot scan anew: the pipeline has no such stage now" in str(caught.value)) == ("", True)


def test_a_damaged_report_is_said_to_be_damaged(store: Store) -> None:
    findings = scan(store, "ruff")
    of = run(store, lint=findings)
    place = store.path(findings.report)
    place.chmod(0o644)
    place.write_bytes(b"{}")
    with pytest.raises(StoreError, match="damaged on disk"):
        merged(of, store, Known())
