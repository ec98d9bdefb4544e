"""SARIF in and out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gates import Finding, MaxFindings, NewFindings, Ruling, Severity
from pipeline import Project
from stages.sarif import LARGEST, ImportSarif, by_score, findings_from_sarif, inside, scan, scored, to_sarif
from stages.source import WorkingCopy
from tests.conftest import RunStage, StageDidNotPass


def result(**more: Any) -> dict[str, Any]:
    place = {"physicalLocation": {"artifactLocation": {"uri": "src/a.py"}, "region": {"startLine": 3}}}
    return {"ruleId": "R1", "message": {"text": "bad"}, "locations": [place], **more}


def report(*results: Any, **run: Any) -> bytes:
    tool = {"driver": {"name": "thing", "version": "2", "rules": [{"id": "R1"}, {"id": "R2"}]}}
    return json.dumps({"version": "2.1.0", "runs": [{"tool": tool, "results": list(results), **run}]}).encode()


@pytest.mark.parametrize(
    ("more", "severity"),
    [
        ({}, Severity.MEDIUM),
        ({"level": "none"}, Severity.NOTE),
        ({"level": "note"}, Severity.LOW),
        ({"level": "error"}, Severity.HIGH),
        ({"level": "note", "properties": {"security-severity": "9.8"}}, Severity.CRITICAL),
        ({"level": "error", "properties": {"security-severity": 0}}, Severity.NOTE),
    ],
)
def test_severity_is_the_score_else_the_level(more: dict[str, Any], severity: Severity) -> None:
    assert findings_from_sarif(report(result(**more)))[0].severity is severity


def test_the_rule_says_how_severe_a_result_is_that_does_not() -> None:
    rules = [
        {"id": "R1", "properties": {"security-severity": "7.5"}},
        {"id": "R2", "defaultConfiguration": {"level": "note"}},
    ]
    found = findings_from_sarif(report(result(), result(ruleId="R2"), tool={"driver": {"name": "t", "rules": rules}}))
    assert [finding.severity for finding in found] == [Severity.HIGH, Severity.LOW]


def test_results_that_say_nothing_is_wrong_or_were_accepted_do_not_count() -> None:
    kept = result(suppressions=[{"kind": "external", "status": "rejected"}])
    gone = [
        result(kind="pass"),
        result(kind="notApplicable"),
        result(suppressions=[{"kind": "inSource"}]),
        result(baselineState="absent"),
    ]
    assert len(findings_from_sarif(report(kept, *gone))) == 1


def test_a_finding_on_another_line_is_the_same_and_a_second_one_is_not() -> None:
    moved = result()
    moved["locations"] = [{"physicalLocation": {"artifactLocation": {"uri": "src/a.py"}, "region": {"startLine": 90}}}]
    before, after = findings_from_sarif(report(result())), findings_from_sarif(report(moved, result()))
    assert before[0].fingerprint == after[0].fingerprint
    assert len({finding.fingerprint for finding in after}) == 2


def test_fingerprints_of_the_tool_are_used() -> None:
    one, other = (
        findings_from_sarif(report(result(message={"text": text}, partialFingerprints={"hash/v1": "x"}))) for text in "ab"
    )
    assert one[0].fingerprint == other[0].fingerprint


def test_absolute_places_become_paths_of_the_tree() -> None:
    files = frozenset({"src/a b.py", "a b.py"})
    assert inside("file:///tmp/x/root/src/src/a%20b.py", files) == "src/a b.py"
    assert inside("./src/a b.py", files) == "src/a b.py"
    assert inside("/elsewhere/c.py", files) == "elsewhere/c.py"


def test_what_is_written_is_read_again() -> None:
    found = tuple(
        Finding(rule="R1", severity=severity, path="a.py", line=line, message="ü", fingerprint=f"{line}")
        for line, severity in enumerate(Severity)
    )
    again = findings_from_sarif(to_sarif("thing 2", found, frozenset({"R1"})))
    assert [(f.rule, f.severity, f.path, f.line, f.message) for f in again] == [
        (f.rule, f.severity, f.path, f.line, f.message) for f in found
    ]
    assert to_sarif("thing 2", found) == to_sarif("thing 2", found)


def test_only_what_is_about_security_has_a_security_severity_and_all_has_a_level() -> None:
    found = [
        Finding(rule=rule, severity=Severity.HIGH, path="a.py", line=1, message="m", fingerprint=rule)
        for rule in ("F401", "S602")
    ]
    (run,) = json.loads(to_sarif("ruff 1", found, frozenset({"S602"})))["runs"]
    assert run["tool"]["driver"]["rules"] == [{"id": "F401"}, {"id": "S602", "properties": {"security-severity": "8.0"}}]
    unused, shell = run["results"]
    assert (unused["level"], unused.get("properties")) == ("error", None)
    assert (shell["level"], shell["properties"]) == ("error", {"security-severity": "8.0"})


def test_what_another_tool_calls_security_stays_that() -> None:
    plain, mine = result(), result(ruleId="R2", properties={"security-severity": "7.5"})
    assert scored(report(plain, mine)) == {"R2"}
    driver = {"name": "t", "rules": [{"id": "R1", "properties": {"security-severity": "5"}}]}
    assert scored(report(result(), result(ruleId="R2"), tool={"driver": driver})) == {"R1"}


HOSTILE = [
    b"",
    b"[]",
    b"null",
    b"{}",
    b"\xff\xfe",
    b'{"version": "2.1.0"}',
    b'{"version": "2.1.0", "runs": []}',
    b'{"version": "2.1.0", "runs": [1]}',
    b'{"version": "2.1.0", "runs": [{}]}',
    b'{"version": "2.1.0", "runs": [{"results": null}]}',
    b'{"version": "2.0.0", "runs": [{"results": []}]}',
    report(result())[:-9],
    report(1),
    report(result(level="worst")),
    report(result(level=1)),
    report(result(ruleId=[])),
    report(result(locations={})),
    report(result(locations=[{"physicalLocation": {"region": {"startLine": "3"}}}])),
    report(result(properties={"security-severity": "NaN"})),
    report(result(properties={"security-severity": "11"})),
    report(invocations=[{"executionSuccessful": False}]),
    report(invocations=[{"executionSuccessful": True, "toolExecutionNotifications": [{"level": "error"}]}]),
    b"[" * 100_000,
    b'{"version": "2.1.0", "runs": ' + b"[" * 100_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_what_cannot_be_trusted_is_refused_with_a_sentence(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w+ \w+") as refused:
        findings_from_sarif(text)
    assert type(refused.value) is ValueError


def test_a_report_that_is_too_large_is_refused_unread() -> None:
    with pytest.raises(ValueError, match="more than"):
        findings_from_sarif(bytes(LARGEST + 1))


values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3), st.lists, max_leaves=4)


@given(
    st.dictionaries(
        st.sampled_from(["ruleId", "message", "locations", "level", "kind", "suppressions", "partialFingerprints", "properties"]),
        values | st.dictionaries(st.sampled_from(["text", "security-severity", "physicalLocation"]), values),
    )
)
def test_any_result_is_read_or_refused(more: dict[str, Any]) -> None:
    text = json.dumps({"version": "2.1.0", "runs": [{"results": [{**result(), **more}]}]}).encode()
    try:
        found = findings_from_sarif(text)
    except ValueError:
        return
    to_sarif("thing", found)


@pytest.mark.parametrize(("score", "severity"), [(9.0, "CRITICAL"), ("7.0", "HIGH"), (4, "MEDIUM"), (0.1, "LOW"), (0.0, "NOTE")])
def test_scores_are_named_as_cvss_names_them(score: object, severity: str) -> None:
    assert by_score(score).name == severity


def write(project: Project, text: bytes) -> ImportSarif:
    (project.root / "src").mkdir(exist_ok=True)
    (project.root / "src" / "a.py").write_text("")
    (project.root / "report.sarif").write_bytes(text)
    return ImportSarif(source=WorkingCopy(), path="report.sarif")


def test_a_report_of_an_unknown_tool_is_evidence(project: Project, run_stage: RunStage) -> None:
    found = run_stage(write(project, report(result(level="error"), artifacts=[{}, {}])))
    assert (found.tool, found.targets, found.findings[0].path) == ("thing 2", 2, "src/a.py")
    assert MaxFindings()(found).ruling is Ruling.FAILED


def test_a_clean_report_that_does_not_say_what_it_looked_at_is_no_pass(project: Project, run_stage: RunStage) -> None:
    found = run_stage(write(project, report()))
    assert MaxFindings()(found).ruling is Ruling.ERROR


def test_a_report_that_is_none_fails_the_stage(project: Project, run_stage: RunStage) -> None:
    with pytest.raises(StageDidNotPass, match=r"report\.sarif: the report cannot be used: it is not JSON"):
        run_stage(write(project, b"{"))


def test_only_what_the_baseline_does_not_have_is_new(project: Project, run_stage: RunStage) -> None:
    before = run_stage(write(project, report(result())))
    after = run_stage(write(project, report(result(), result())))
    assert NewFindings()(before, before).passed
    assert NewFindings()(after, before).ruling is Ruling.FAILED


def test_evidence_is_the_same_however_the_tool_ordered_it(project: Project, run_stage: RunStage, store: Any) -> None:
    found = findings_from_sarif(report(result(), result(ruleId="R2")))
    made = [scan(store, tool="t 1", subject="files", targets=1, findings=one) for one in (found, found[::-1])]
    assert made[0] == made[1]
