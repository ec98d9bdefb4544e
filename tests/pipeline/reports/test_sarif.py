"""One SARIF log of all scans of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gates import Finding, Findings, Severity, SizeReport
from pipeline import Result, Store, StoreError
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


def any_may(_: str) -> bool:
    """Whether a stage may be a scan: nothing is known of any."""
    return True


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_the_scans_of_a_run_are_one_log_and_each_is_named_by_its_stage(store: Store) -> None:
    size = SizeReport(subject="image", total=1, parts={})
    of = run(store, lint=scan(store, "ruff"), size=size, gone=None, again=scan(store, "ruff"))
    found = json.loads(merged(of, store, any_may))
    assert found["version"] == "2.1.0"
    assert [one["automationDetails"]["id"] for one in found["runs"]] == ["lint/", "again/"]
    assert [one["results"] for one in found["runs"]] == [[{"ruleId": "R1"}]] * 2


def test_a_report_that_is_gone_is_never_read_as_no_findings(store: Store) -> None:
    findings = scan(store, "ruff")
    of = run(store, types=scan(store, "mypy"), lint=findings)
    store.path(findings.report).unlink()
    with pytest.raises(StoreError, match="what lint found in run r is not there any more: it was evicted") as caught:
        merged(of, store, any_may)
    assert caught.value.next == "python -m pipeline run types lint; python -m pipeline report --format sarif"


def test_of_what_is_gone_only_scans_are_missed_and_parts_are_made_again_with_their_whole(store: Store) -> None:
    of = run(store, lint=scan(store, "ruff"))
    of.stages["database"] = StageHistory(name="database", result="0" * 64)
    assert len(json.loads(merged(of, store, lambda name: name != "database"))["runs"]) == 1
    of.stages["each[a]"] = StageHistory(name="each[a]", result="1" * 64, part_of="each")
    with pytest.raises(StoreError, match=r"what each\[a\] found") as caught:
        merged(of, store, lambda name: name != "database")
    assert caught.value.next.startswith("python -m pipeline run lint each; ")


def test_a_damaged_report_is_said_to_be_damaged(store: Store) -> None:
    findings = scan(store, "ruff")
    of = run(store, lint=findings)
    place = store.path(findings.report)
    place.chmod(0o644)
    place.write_bytes(b"{}")
    with pytest.raises(StoreError, match="damaged on disk"):
        merged(of, store, any_may)
