"""Nothing broken, empty or missing is ever a pass: neither as evidence put to a rule, nor as a stage."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

from gates import (
    AllowedLicences,
    AllPassed,
    Case,
    Check,
    CodeMetrics,
    CoverageReport,
    FileCoverage,
    Finding,
    Findings,
    LicenceReport,
    LoadReport,
    MaxComplexity,
    MaxFindings,
    MinCoverage,
    NewFindings,
    NoDrop,
    NotSlower,
    QualityGate,
    Ruling,
    Severity,
    Status,
    TestReport,
    Verdict,
    WithinBudget,
    all_passed,
    no_findings,
)
from pipeline import Artifact, Blob, Entry, Project, Result, Stage, Store, Tree, Work
from stages.bandit import Bandit
from stages.coverage import Coverage
from stages.environment import Tool
from stages.load import LoadTest
from stages.metrics import Metrics
from stages.mypy import TypeCheck
from stages.pip_audit import PipAudit
from stages.pytest import UnitTests
from stages.ruff import Formatted, Lint
from stages.source import WorkingCopy
from stages.trivy import TrivyConfig, TrivyImage, TrivySecrets
from tests.conftest import RunStage, StageDidNotPass
from tests.stages.test_load import APP, Answering

NOTHING = Blob(digest="0" * 64, size=0)


def tried(*statuses: Status) -> TestReport:
    cases = tuple(Case(name=f"test_{n}", file="a.py", status=status, seconds=0) for n, status in enumerate(statuses))
    return TestReport(tool="t", cases=cases, report=NOTHING)


def scanned(targets: int, *severities: Severity) -> Findings:
    found = tuple(
        Finding(rule="r", severity=severity, path="a", line=1, message="m", fingerprint=f"{n}")
        for n, severity in enumerate(severities)
    )
    return Findings(tool="t", subject="files", targets=targets, findings=found, report=NOTHING)


def loaded(requests: int, failed: int = 0) -> LoadReport:
    return LoadReport(tool="t", seconds=1, requests=requests, failed=failed, wanted_rate=0, p50=0, p90=0, p95=0, p99=0, longest=0)


COVERED = CoverageReport(tool="t", files=(FileCoverage(path="a.py", lines=1, covered_lines=1, branches=0, covered_branches=0),))
UNMEASURED = CoverageReport(tool="t", files=())

MATRIX: list[tuple[str, Callable[[], Verdict]]] = [
    ("no test", lambda: all_passed(tried())),
    ("all tests skipped", lambda: all_passed(tried(Status.SKIPPED))),
    ("a failed test", lambda: all_passed(tried(Status.PASSED, Status.FAILED))),
    ("a test that could not run", lambda: all_passed(tried(Status.PASSED, Status.ERROR))),
    ("a flaky test", lambda: all_passed(tried(Status.PASSED, Status.FLAKY))),
    ("nothing asked of tests", lambda: AllPassed(at_least=0, flaky=9)(tried())),
    ("nothing scanned", lambda: no_findings(scanned(0))),
    ("a negative number of targets", lambda: no_findings(scanned(-1))),
    ("nothing scanned, everything allowed", lambda: MaxFindings(severity=Severity.CRITICAL, count=99)(scanned(0))),
    ("nothing scanned, compared", lambda: NewFindings()(scanned(0), scanned(3, Severity.HIGH))),
    ("a finding", lambda: no_findings(scanned(1, Severity.NOTE))),
    ("no line measured", lambda: MinCoverage(total=0)(UNMEASURED)),
    ("no limit", lambda: MinCoverage()(COVERED)),
    ("no base", lambda: MinCoverage(changed=0)(COVERED)),
    ("no line measured, compared", lambda: NoDrop(points=100)(UNMEASURED, COVERED)),
    ("a baseline without lines", lambda: NoDrop(points=100)(COVERED, UNMEASURED)),
    ("no request", lambda: WithinBudget(errors=1, requests=0)(loaded(0))),
    ("only failed requests", lambda: WithinBudget(p99=1)(loaded(9, failed=9))),
    ("only failed requests, compared", lambda: NotSlower(requests=1)(loaded(9, failed=9), loaded(9))),
    ("no package", lambda: AllowedLicences(allowed=frozenset({"MIT"}))(LicenceReport(tool="t", packages=()))),
    ("no file measured", lambda: MaxComplexity()(CodeMetrics(tool="t", files=0, lines=0, functions=(), duplicates=()))),
]


@pytest.mark.parametrize("judged", [judged for _, judged in MATRIX], ids=[name for name, _ in MATRIX])
def test_no_rule_passes(judged: Callable[[], Verdict]) -> None:
    assert judged().ruling is not Ruling.PASSED


@pytest.fixture
def source(project: Project) -> Stage[Tree]:
    (project.root / "src").mkdir()
    (project.root / "src" / "a.py").write_text("number: int = 1\n")
    (project.root / "tests").mkdir()
    (project.root / "tests" / "test_it.py").write_text("def test_it() -> None: pass\n")
    (project.root / "requirements.lock").write_text("")
    (project.root / "app.py").write_text(APP)
    return WorkingCopy()


class Broken(Stage[Tree]):
    """The tree of a tool whose program does something else than it should. The version it claims is right."""

    does: str

    async def run(self, work: Work) -> Tree:
        store = work.store
        shell = store.put(f"#!/bin/sh\n{SHELL[self.does]}\n".encode())
        module = store.put(f"import os, sys\n{MODULE}\n{PYTHON[self.does]}\n".encode())
        metadata = store.put(b"Metadata-Version: 2.1\n")
        entries = [Entry(f"bin/{name}", "executable", shell.digest, shell.size) for name in ("ruff", "trivy")]
        names = ("pytest", "coverage", "mypy", "bandit", "locust", "pip_audit", "ruff")
        entries += [Entry(f"{name}/__main__.py", "file", module.digest, module.size) for name in names]
        entries += [Entry(f"{name}-1.dist-info/METADATA", "file", metadata.digest, metadata.size) for name in names]
        return store.tree(entries)


OUTPUTS = ("junit.xml", "report.sarif", "report.json", "load_stats.csv", "load_failures.csv", "load_exceptions.csv")
MODULE = f"""
def leave(text):
    for name in {OUTPUTS!r}:
        with open(os.path.join(os.environ["PYTHONPATH"].split("/root/")[0], "root", name), "w") as file:
            file.write(text)
"""
PYTHON = {
    "killed": "os.kill(os.getpid(), 9)",
    "silent": "",
    "claims findings": "sys.exit(1)",
    "unknown exit code": "sys.exit(66)",
    "empty report": "leave('')",
    "cut report": 'leave(\'{"runs": [{"resu\')',
    "wrong JSON": "leave('[1, {\"runs\": 7}]')\nprint('[]')",
    "wrong JSON and findings": "leave('{\"version\": 3}')\nprint('{}')\nsys.exit(1)",
}
LEAVE = """
for name in report.sarif report.json; do printf "%s" '{text}' > "$(dirname "$0")/../../$name"; done
printf "%s" '{text}'
"""
SHELL = {
    "killed": "kill -9 $$",
    "silent": "",
    "claims findings": "case $1 in check|format) exit 1;; *) exit 7;; esac",
    "unknown exit code": "exit 66",
    "empty report": LEAVE.replace("{text}", ""),
    "cut report": LEAVE.replace("{text}", '{"runs": [{"resu'),
    "wrong JSON": LEAVE.replace("{text}", '[1, {"runs": 7}]'),
    "wrong JSON and findings": LEAVE.replace("{text}", '{"version": 3}') + "\ncase $1 in check|format) exit 1;; *) exit 7;; esac",
}

STAGES: dict[str, Callable[[Stage[Tree], Stage[Tree]], Stage[Any]]] = {
    "UnitTests": lambda source, tool: UnitTests(source=source, environment=tool),
    "UnitTests with coverage": lambda source, tool: UnitTests(source=source, environment=tool, cover=("src",)),
    "Lint": lambda source, tool: Lint(source=source, tool=tool),
    "Formatted": lambda source, tool: Formatted(source=source, tool=tool),
    "TypeCheck": lambda source, tool: TypeCheck(source=source, environment=tool, tool=tool),
    "Bandit": lambda source, tool: Bandit(source=source, tool=tool),
    "TrivySecrets": lambda source, tool: TrivySecrets(source=source, tool=tool),
    "TrivyConfig": lambda source, tool: TrivyConfig(source=source, tool=tool),
    "TrivyImage": lambda source, tool: TrivyImage(image=source, scanners=("secret",), tool=tool),
    "PipAudit": lambda source, tool: PipAudit(source=source, tool=tool),
    "Metrics": lambda source, tool: Metrics(source=source, tool=tool),
    "LoadTest": lambda source, tool: LoadTest(source=source, environment=tool, service=Answering(source=source)),
}


@pytest.mark.parametrize("does", PYTHON)
@pytest.mark.parametrize("name", STAGES)
def test_a_tool_that_breaks_gives_no_evidence(name: str, does: str, source: Stage[Tree], run_stage: RunStage) -> None:
    broken = STAGES[name](source, Broken(does=does))
    broken = dataclasses.replace(broken, retry=dataclasses.replace(broken.retry, times=0))
    with pytest.raises(StageDidNotPass) as failed:
        run_stage(broken)
    assert list(failed.value.outcome.failed) == ["subject"]


def test_coverage_of_data_that_are_none_is_no_evidence(source: Stage[Tree], run_stage: RunStage) -> None:
    with pytest.raises(StageDidNotPass, match="exit code 1"):
        run_stage(Coverage(tests=(Unreadable(),), source=source, environment=Tool(name="pytest")))


class Unreadable(Stage[TestReport]):
    async def run(self, work: Work) -> TestReport:
        return tried(Status.PASSED).model_copy(update={"coverage": work.store.put(b"no database")})


class Thing(Artifact):
    tree: Tree


class Build(Stage[Thing]):
    source: Stage[Tree]

    async def run(self, work: Work) -> Thing:
        return Thing(tree=work[self.source])


def test_a_gate_stays_closed_when_the_evidence_cannot_be_had(source: Stage[Tree], run_stage: RunStage) -> None:
    check = Check(evidence=Lint(source=source, tool=Broken(does="silent")), rule=no_findings)
    with pytest.raises(StageDidNotPass):
        run_stage(QualityGate(artifact=Build(source=source), checks=(check,)))


def test_evidence_that_is_not_what_its_model_says_cannot_be_made(store: Store) -> None:
    models: tuple[type[Result], ...] = (TestReport, Findings, CoverageReport, LoadReport, LicenceReport, CodeMetrics)
    for model in models:
        for text in ("", "{", "[]", "{}", "null", json.dumps({"tool": 1})):
            with pytest.raises(ValueError, match="validation error"):
                model.model_validate_json(text)
