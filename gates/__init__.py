"""Judgement: evidence models, rules, verdicts and gates. Pure: no I/O, no clock, no subprocess.

Everything public is importable from here; names load when they are first used, as in `pipeline`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.lazy import lazily

if TYPE_CHECKING:
    from gates.check import Check as Check
    from gates.check import Compare as Compare
    from gates.check import Comparison as Comparison
    from gates.check import Rule as Rule
    from gates.compatibility import Cell as Cell
    from gates.compatibility import CompatibilityReport as CompatibilityReport
    from gates.compatibility import Compatible as Compatible
    from gates.compatibility import Version as Version
    from gates.coverage import ChangedLines as ChangedLines
    from gates.coverage import CoverageReport as CoverageReport
    from gates.coverage import FileCoverage as FileCoverage
    from gates.coverage import MinCoverage as MinCoverage
    from gates.coverage import NoDrop as NoDrop
    from gates.findings import Finding as Finding
    from gates.findings import Findings as Findings
    from gates.findings import MaxFindings as MaxFindings
    from gates.findings import NewFindings as NewFindings
    from gates.findings import Severity as Severity
    from gates.findings import no_findings as no_findings
    from gates.gate import GateClosed as GateClosed
    from gates.gate import Passed as Passed
    from gates.gate import QualityGate as QualityGate
    from gates.gate import Verification as Verification
    from gates.gate import Verified as Verified
    from gates.judge import Advice as Advice
    from gates.judge import Business as Business
    from gates.judge import ErrorRate as ErrorRate
    from gates.judge import Judge as Judge
    from gates.judge import Measure as Measure
    from gates.judge import SlowAnswers as SlowAnswers
    from gates.judge import Trial as Trial
    from gates.latency import LoadReport as LoadReport
    from gates.latency import NotSlower as NotSlower
    from gates.latency import WithinBudget as WithinBudget
    from gates.licences import AllowedLicences as AllowedLicences
    from gates.licences import LicenceReport as LicenceReport
    from gates.licences import Licensed as Licensed
    from gates.metrics import CodeMetrics as CodeMetrics
    from gates.metrics import Duplicate as Duplicate
    from gates.metrics import FunctionMetric as FunctionMetric
    from gates.metrics import MaxComplexity as MaxComplexity
    from gates.probes import Probe as Probe
    from gates.probes import ProbeReport as ProbeReport
    from gates.probes import all_probes_passed as all_probes_passed
    from gates.size import MaxGrowth as MaxGrowth
    from gates.size import MaxSize as MaxSize
    from gates.size import SizeReport as SizeReport
    from gates.tests import AllPassed as AllPassed
    from gates.tests import Case as Case
    from gates.tests import Status as Status
    from gates.tests import TestReport as TestReport
    from gates.tests import all_passed as all_passed
    from gates.validation import ValidationCheck as ValidationCheck
    from gates.validation import ValidationReport as ValidationReport
    from gates.validation import valid as valid
    from gates.verdict import Ruling as Ruling
    from gates.verdict import Verdict as Verdict
    from gates.window import Histogram as Histogram
    from gates.window import Share as Share
    from gates.window import Tick as Tick
    from gates.window import Window as Window

_HOMES = {
    "Check": "check", "Compare": "check", "Comparison": "check", "Rule": "check", "ChangedLines": "coverage",
    "CoverageReport": "coverage", "FileCoverage": "coverage", "MinCoverage": "coverage", "NoDrop": "coverage",
    "Finding": "findings", "Findings": "findings", "MaxFindings": "findings", "NewFindings": "findings",
    "no_findings": "findings", "Severity": "findings", "GateClosed": "gate", "Passed": "gate",
    "QualityGate": "gate", "Verification": "gate", "Verified": "gate", "Advice": "judge", "Business": "judge",
    "ErrorRate": "judge", "Judge": "judge", "Measure": "judge", "SlowAnswers": "judge", "Trial": "judge",
    "LoadReport": "latency", "NotSlower": "latency", "WithinBudget": "latency", "AllowedLicences": "licences",
    "LicenceReport": "licences", "Licensed": "licences", "CodeMetrics": "metrics", "Duplicate": "metrics",
    "Cell": "compatibility", "CompatibilityReport": "compatibility", "Compatible": "compatibility", "Version": "compatibility",
    "FunctionMetric": "metrics", "MaxComplexity": "metrics", "all_probes_passed": "probes", "Probe": "probes",
    "ProbeReport": "probes", "MaxGrowth": "size", "MaxSize": "size", "SizeReport": "size", "all_passed": "tests",
    "AllPassed": "tests", "Case": "tests", "Status": "tests", "TestReport": "tests", "valid": "validation",
    "ValidationCheck": "validation", "ValidationReport": "validation", "Ruling": "verdict", "Verdict": "verdict",
    "Histogram": "window", "Share": "window", "Tick": "window", "Window": "window",
}  # fmt: skip

__all__ = [
    "Advice",
    "AllPassed",
    "AllowedLicences",
    "Business",
    "Case",
    "Cell",
    "ChangedLines",
    "Check",
    "CodeMetrics",
    "Compare",
    "Comparison",
    "CompatibilityReport",
    "Compatible",
    "CoverageReport",
    "Duplicate",
    "ErrorRate",
    "FileCoverage",
    "Finding",
    "Findings",
    "FunctionMetric",
    "GateClosed",
    "Histogram",
    "Judge",
    "LicenceReport",
    "Licensed",
    "LoadReport",
    "MaxComplexity",
    "MaxFindings",
    "MaxGrowth",
    "MaxSize",
    "Measure",
    "MinCoverage",
    "NewFindings",
    "NoDrop",
    "NotSlower",
    "Passed",
    "Probe",
    "ProbeReport",
    "QualityGate",
    "Rule",
    "Ruling",
    "Severity",
    "Share",
    "SizeReport",
    "SlowAnswers",
    "Status",
    "TestReport",
    "Tick",
    "Trial",
    "ValidationCheck",
    "ValidationReport",
    "Verdict",
    "Verification",
    "Verified",
    "Version",
    "Window",
    "WithinBudget",
    "all_passed",
    "all_probes_passed",
    "no_findings",
    "valid",
]

if not TYPE_CHECKING:  # a checker knows the names from above, and that there are no others
    __getattr__, __dir__ = lazily(__name__, _HOMES)
