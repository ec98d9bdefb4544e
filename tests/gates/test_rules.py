"""Rules: what passes, what fails, and what is never a pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gates import (
    AllowedLicences,
    AllPassed,
    Case,
    ChangedLines,
    CodeMetrics,
    CoverageReport,
    Duplicate,
    FileCoverage,
    Finding,
    Findings,
    FunctionMetric,
    LicenceReport,
    Licensed,
    LoadReport,
    MaxComplexity,
    MaxFindings,
    MaxGrowth,
    MaxSize,
    MinCoverage,
    NewFindings,
    NoDrop,
    NotSlower,
    Probe,
    ProbeReport,
    Ruling,
    Severity,
    SizeReport,
    Status,
    TestReport,
    ValidationCheck,
    ValidationReport,
    Verdict,
    WithinBudget,
    all_passed,
    all_probes_passed,
    no_findings,
    valid,
    verdict,
)
from gates.licences import allows
from pipeline import Blob, Result, WiringError

BLOB = Blob(digest="0" * 64, size=0)


def report_of(*statuses: Status) -> TestReport:
    cases = tuple(
        Case(name=f"t{n}", file="f.py", status=status, seconds=0.1, message="boom\nmore") for n, status in enumerate(statuses)
    )
    return TestReport(tool="pytest", cases=cases, report=BLOB)


def coverage(*files: tuple[int, int], changed: ChangedLines | None = None) -> CoverageReport:
    made = [
        FileCoverage(path=f"f{n}.py", lines=lines, covered_lines=covered, branches=0, covered_branches=0)
        for n, (lines, covered) in enumerate(files)
    ]
    return CoverageReport(tool="coverage", files=tuple(made), changed=changed)


def findings(*severities: Severity, targets: int = 5) -> Findings:
    made = [
        Finding(rule=f"R{n}", severity=severity, path="f.py", line=n, message="m", fingerprint=f"p{n}")
        for n, severity in enumerate(severities)
    ]
    return Findings(tool="scanner 1", subject="files", targets=targets, findings=tuple(made), report=BLOB)


def changes(lines: int, covered: int, *missing: str) -> CoverageReport:
    """A well-covered report with so many changed lines."""
    return coverage((9, 9), changed=ChangedLines(base="m", lines=lines, covered=covered, missing=missing))


def load(**more: Any) -> LoadReport:
    base: dict[str, Any] = {"tool": "t", "seconds": 10.0, "requests": 100, "failed": 0, "wanted_rate": 10.0}
    times = {"p50": 5.0, "p90": 8.0, "p95": 10.0, "p99": 20.0, "longest": 30.0}
    return LoadReport(**{**base, **times, **more})


def licences(*expressions: str) -> LicenceReport:
    packages = [Licensed(name=f"p{n}", version="1", licence=one, stated=one) for n, one in enumerate(expressions)]
    return LicenceReport(tool="t", packages=tuple(packages))


def size(total: int, **parts: int) -> SizeReport:
    return SizeReport(subject="image", total=total, parts=parts)


def metrics(files: int = 1, complexity: int = 3, duplicated: int = 0) -> CodeMetrics:
    duplicates = (Duplicate(lines=duplicated, first="a:1", second="b:1"),) if duplicated else ()
    functions = (FunctionMetric(path="a", line=1, name="f", complexity=complexity),)
    return CodeMetrics(tool="t", files=files, lines=100, functions=functions, duplicates=duplicates)


def probes(*passed: bool) -> ProbeReport:
    return ProbeReport(url="http://x", probes=tuple(Probe(name=f"p{n}", passed=one, said="said") for n, one in enumerate(passed)))


def validation(*passed: bool) -> ValidationReport:
    checks = tuple(ValidationCheck(name=f"c{n}", passed=one, said=f"said {n}") for n, one in enumerate(passed))
    return ValidationReport(subject="image x", checks=checks)


P, F, E = Ruling.PASSED, Ruling.FAILED, Ruling.ERROR

CASES: list[tuple[str, Callable[[], Verdict], Ruling]] = [
    ("all tests passed", lambda: all_passed(report_of(Status.PASSED, Status.SKIPPED)), P),
    ("a test failed", lambda: all_passed(report_of(Status.PASSED, Status.FAILED)), F),
    ("a test could not run", lambda: all_passed(report_of(Status.PASSED, Status.ERROR)), F),
    ("a flaky test is no pass", lambda: all_passed(report_of(Status.PASSED, Status.FLAKY)), F),
    ("a flaky test is allowed by name", lambda: AllPassed(flaky=1)(report_of(Status.PASSED, Status.FLAKY)), P),
    ("no tests", lambda: all_passed(report_of()), E),
    ("only skipped tests", lambda: all_passed(report_of(Status.SKIPPED)), E),
    ("too few tests", lambda: AllPassed(at_least=3)(report_of(Status.PASSED)), E),
    ("zero tests cannot be asked for", lambda: AllPassed(at_least=0)(report_of()), E),
    ("coverage reached", lambda: MinCoverage(total=90)(coverage((10, 9))), P),
    ("coverage missed", lambda: MinCoverage(total=90)(coverage((10, 8))), F),
    ("one file missed", lambda: MinCoverage(each_file=50)(coverage((10, 10), (10, 4))), F),
    ("changed lines missed", lambda: MinCoverage(changed=90)(changes(4, 1)), F),
    ("changed lines covered", lambda: MinCoverage(changed=90)(changes(4, 4)), P),
    ("no changed lines", lambda: MinCoverage(changed=90)(changes(0, 0)), P),
    ("changes not known", lambda: MinCoverage(changed=90)(coverage((9, 9))), E),
    ("nothing measured", lambda: MinCoverage(total=0)(coverage()), E),
    ("no limit", lambda: MinCoverage()(coverage((9, 9))), E),
    ("no drop", lambda: NoDrop()(coverage((10, 9)), coverage((10, 9))), P),
    ("a drop", lambda: NoDrop()(coverage((10, 8)), coverage((10, 9))), F),
    ("an allowed drop", lambda: NoDrop(points=10)(coverage((10, 8)), coverage((10, 9))), P),
    ("a rise that is asked for", lambda: NoDrop(points=-10)(coverage((10, 10)), coverage((10, 9))), P),
    ("no rise where one is asked for", lambda: NoDrop(points=-10)(coverage((10, 9)), coverage((10, 9))), F),
    ("an empty baseline", lambda: NoDrop()(coverage((10, 8)), coverage()), E),
    ("an empty report against a baseline", lambda: NoDrop()(coverage(), coverage((10, 8))), E),
    ("nothing found", lambda: no_findings(findings()), P),
    ("something found", lambda: no_findings(findings(Severity.NOTE)), F),
    ("nothing scanned", lambda: no_findings(findings(targets=0)), E),
    ("below the limit", lambda: MaxFindings(severity=Severity.HIGH)(findings(Severity.MEDIUM)), P),
    ("at the limit", lambda: MaxFindings(severity=Severity.HIGH)(findings(Severity.HIGH)), F),
    ("as many as allowed", lambda: MaxFindings(severity=Severity.LOW, count=1)(findings(Severity.HIGH)), P),
    ("only known findings", lambda: NewFindings()(findings(Severity.HIGH), findings(Severity.HIGH)), P),
    ("a new finding", lambda: NewFindings()(findings(Severity.HIGH, Severity.HIGH), findings(Severity.HIGH)), F),
    ("nothing scanned, with baseline", lambda: NewFindings()(findings(targets=0), findings()), E),
    ("within budget", lambda: WithinBudget(p95=10, p99=20)(load()), P),
    ("too slow", lambda: WithinBudget(p95=9)(load()), F),
    ("too many errors", lambda: WithinBudget()(load(failed=1, errors=("1 x 500",))), F),
    ("allowed errors", lambda: WithinBudget(errors=0.01)(load(failed=1)), P),
    ("the rate was not held", lambda: WithinBudget()(load(wanted_rate=100.0)), F),
    ("no requests", lambda: WithinBudget()(load(requests=0)), E),
    ("too few requests", lambda: WithinBudget(requests=101)(load()), E),
    ("a time that is no number", lambda: WithinBudget(p95=10)(load(p95=float("nan"))), F),
    ("as fast as before", lambda: NotSlower()(load(), load()), P),
    ("slower than before", lambda: NotSlower()(load(p50=50.0), load()), F),
    ("slower, and no number", lambda: NotSlower()(load(p50=float("nan")), load()), F),
    ("too few answers before", lambda: NotSlower()(load(), load(requests=10)), E),
    ("too few answers now", lambda: NotSlower()(load(failed=90), load()), E),
    ("small enough", lambda: MaxSize(total=10)(size(10)), P),
    ("too large", lambda: MaxSize(total=10)(size(11, layer=11)), F),
    ("empty", lambda: MaxSize(total=10)(size(0)), E),
    ("not grown", lambda: MaxGrowth(ratio=1.1)(size(11), size(10)), P),
    ("grown", lambda: MaxGrowth(ratio=1.1)(size(12, a=12), size(10, a=10)), F),
    ("an empty baseline of size", lambda: MaxGrowth()(size(12), size(0)), E),
    ("allowed licences", lambda: AllowedLicences(frozenset({"MIT"}))(licences("MIT")), P),
    ("another licence", lambda: AllowedLicences(frozenset({"MIT"}))(licences("MIT", "GPL-3.0-only")), F),
    ("an unknown licence", lambda: AllowedLicences(frozenset({"MIT"}))(licences("")), F),
    ("an exception by name", lambda: AllowedLicences(frozenset({"MIT"}), frozenset({"p0"}))(licences("")), P),
    ("no packages", lambda: AllowedLicences(frozenset({"MIT"}))(licences()), E),
    ("simple code", lambda: MaxComplexity()(metrics()), P),
    ("complex code", lambda: MaxComplexity(each=2)(metrics()), F),
    ("repeated code", lambda: MaxComplexity()(metrics(duplicated=10)), F),
    ("no code", lambda: MaxComplexity()(metrics(files=0)), E),
    ("all probes passed", lambda: all_probes_passed(probes(True, True)), P),
    ("a probe failed", lambda: all_probes_passed(probes(True, False)), F),
    ("no probes", lambda: all_probes_passed(probes()), E),
    ("what it has to be", lambda: valid(validation(True, True)), P),
    ("one check of an artifact failed", lambda: valid(validation(True, False)), F),
    ("nothing of an artifact was checked", lambda: valid(validation()), E),
]  # fmt: skip


@pytest.mark.parametrize(("case", "judge", "ruling"), CASES, ids=[case for case, _, _ in CASES])
def test_a_rule_says(case: str, judge: Callable[[], Verdict], ruling: Ruling) -> None:
    verdict = judge()
    assert verdict.ruling is ruling
    assert verdict.said
    if ruling is not P:
        assert verdict.wanted, "what would have passed is missing"
    assert verdict.reusable() is (ruling is P)
    assert (verdict.concern() == "") is (ruling is P)


def test_the_particulars_of_a_failure_are_named() -> None:
    assert all_passed(report_of(Status.FAILED)).facts == ("f.py::t0: boom",)
    assert "f1.py: 40.00 %" in MinCoverage(each_file=50)(coverage((10, 10), (10, 4))).facts
    assert MaxFindings()(findings(Severity.CRITICAL)).facts == ("critical R0 f.py:0: m".replace(":0", ""),)


@given(st.lists(st.sampled_from(Status)))
def test_tests_pass_only_when_one_ran_and_none_did_badly(statuses: list[Status]) -> None:
    good = Status.PASSED in statuses and not {Status.FAILED, Status.ERROR, Status.FLAKY} & set(statuses)
    assert all_passed(report_of(*statuses)).passed is good


@given(st.lists(st.sampled_from(Severity)), st.sampled_from(Severity), st.integers(0, 3), st.integers(0, 2))
def test_findings_pass_only_within_the_limit_and_with_something_scanned(
    severities: list[Severity], limit: Severity, count: int, targets: int
) -> None:
    verdict = MaxFindings(severity=limit, count=count)(findings(*severities, targets=targets))
    assert verdict.passed is (targets > 0 and sum(one >= limit for one in severities) <= count)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)).map(lambda two: (max(two), min(two)))), st.floats(0, 100))
def test_total_coverage_is_judged_as_arithmetic_says(files: list[tuple[int, int]], limit: float) -> None:
    lines, covered = sum(one for one, _ in files), sum(two for _, two in files)
    assert MinCoverage(total=limit)(coverage(*files)).passed is (lines > 0 and 100 * covered / lines >= limit)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("MIT", True),
        ("MIT OR GPL-3.0-only", True),
        ("MIT AND GPL-3.0-only", False),
        ("(GPL-3.0-only OR MIT) AND Apache-2.0", True),
        ("GPL-3.0-only OR MIT AND Apache-2.0", True),
        ("GPL-2.0-only WITH Classpath-exception-2.0", True),
        ("GPL-2.0-only", False),
        ("", False),
        ("MIT OR", False),
        ("(MIT", False),
        ("MIT MIT", False),
        ("(MIT Apache-2.0", False),
        ("(MIT Apache-2.0)", False),
        ("AND", False),
    ],
)
def test_licence_expressions_are_read_as_spdx_says(expression: str, expected: bool) -> None:
    allowed = frozenset({"MIT", "Apache-2.0", "GPL-2.0-only WITH Classpath-exception-2.0"})
    assert allows(expression, allowed) is expected


def test_summaries_are_sentences() -> None:
    assert report_of(Status.PASSED, Status.FAILED).summary() == "2 tests: 1 passed, 1 failed"
    assert report_of().summary() == "no tests"
    assert findings(Severity.HIGH, targets=3).summary() == "1 high in 3 files"
    assert coverage((10, 9)).summary() == "90.0 % of lines and branches"
    assert licences("MIT", "").summary() == "2 packages under 2 licences"
    assert metrics().summary() == "100 lines, complexity at most 3, 0.0% duplicated"
    assert probes(True).summary() == "1 probe of http://x passed"
    assert load().summary().startswith("100 requests, 10/s, 0 failed, p50 5 ms")
    assert size(1000).summary() == "image: 1,000 bytes"
    assert validation(True, False).summary() == "image x: 1 of 2 checks passed"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (findings(Severity.LOW, targets=1).summary(), "1 low in 1 file"),
        (no_findings(findings(Severity.LOW, targets=1)).said, "scanner 1: 1 finding of note or worse in 1 file"),
        (NewFindings()(findings(Severity.HIGH), findings()).said, "scanner 1: 1 new finding of medium or worse in 5 files"),
        (MaxFindings(count=1)(findings()).wanted.partition(" of")[0], "at most 1 finding"),
        (report_of(Status.PASSED).summary(), "1 test: 1 passed"),
        (all_passed(report_of(Status.PASSED)).said, "1 test passed"),
        (all_passed(report_of(Status.FAILED)).said, "1 of 1 test failed"),
        (all_passed(report_of(Status.FLAKY, Status.PASSED)).said, "1 of 2 tests is flaky"),
        (licences("MIT").summary(), "1 package under 1 licence"),
        (AllowedLicences(frozenset())(licences("MIT", "MIT")).said, "2 of 2 packages are under licences that are not allowed"),
        (size(1).summary(), "image: 1 byte"),
    ],
)
def test_one_of_a_thing_is_said_as_one(said: str, expected: str) -> None:
    assert said == expected


def test_the_build_of_a_tool_is_in_the_evidence_and_not_in_what_is_said() -> None:
    found = findings(Severity.LOW, targets=1).model_copy(update={"tool": "trivy 0.76.0+sha256.1f889576636db062"})
    assert no_findings(found).said == "trivy 0.76.0: 1 finding of note or worse in 1 file"
    assert MaxFindings()(found.model_copy(update={"targets": 0})).said == "trivy 0.76.0 scanned nothing"
    assert "sha256.1f88" in found.model_dump_json()


def test_evidence_is_reused_only_when_it_is_good() -> None:
    assert report_of(Status.PASSED).reusable()
    assert not report_of(Status.FAILED).reusable()
    assert not report_of(Status.FLAKY).reusable()
    assert not report_of().reusable()
    assert validation(True).reusable()
    assert not validation(True, False).reusable()
    assert not validation().reusable()


@pytest.mark.parametrize(
    ("good", "bad", "empty", "concern", "fact"),
    [
        (report_of(Status.PASSED), report_of(Status.PASSED, Status.FAILED), report_of(), "1 of 2 tests failed", "f.py::t1: boom"),
        (findings(), findings(Severity.HIGH), findings(targets=0), "scanner 1: 1 finding of note or worse in 5 files", "high "),
        (probes(True), probes(True, False), probes(), "2 probes of http://x, 1 failed", ""),
        (validation(True), validation(True, False), validation(), "image x: 1 of 2 checks passed", "c1: said 1"),
    ],
)
def test_evidence_that_says_no_or_nothing_is_a_concern_where_no_gate_weighs_it(
    good: Result, bad: Result, empty: Result, concern: str, fact: str
) -> None:
    assert good.concern() == ""
    first, *facts = bad.concern().splitlines()
    assert (first, len(facts)) == (concern, 1)
    assert facts[0].startswith("  ")
    assert fact in facts[0]
    assert empty.concern()


def test_a_concern_names_twenty_facts_and_counts_the_rest() -> None:
    facts = [f"f{number}" for number in range(1022)]
    assert verdict.failed("rule", "it says no", *facts, wanted="none").concern().splitlines() == [
        "it says no",
        *(f"  f{number}" for number in range(20)),
        "  and 1,002 more",
    ]


NAN = float("nan")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: MaxSize(total=NAN), "MaxSize.total is nan"),  # type: ignore[arg-type]
        (lambda: MaxGrowth(ratio=NAN), "MaxGrowth.ratio is nan"),
        (lambda: MinCoverage(total=NAN), "MinCoverage.total is nan"),
        (lambda: MinCoverage(changed=-1), "MinCoverage.changed is -1"),
        (lambda: NoDrop(points=NAN), "NoDrop.points is nan"),
        (lambda: MaxSize(total="5"), "MaxSize.total is '5'"),  # type: ignore[arg-type]
        (lambda: WithinBudget(errors=NAN), "WithinBudget.errors is nan"),
        (lambda: NotSlower(grace=NAN), "NotSlower.grace is nan"),
        (lambda: MaxComplexity(each=NAN), "MaxComplexity.each is nan"),  # type: ignore[arg-type]
        (lambda: MaxFindings(count=-1), "MaxFindings.count is -1"),
        (lambda: NewFindings(count=NAN), "NewFindings.count is nan"),  # type: ignore[arg-type]
    ],
)
def test_a_limit_that_is_no_number_is_refused_as_nothing_would_be_above_it(wrong: Callable[[], object], said: str) -> None:
    with pytest.raises(WiringError, match=said):
        wrong()
