"""Lockgate's own pipeline: lint, types, tests, scans, wheel, gate. CI runs it as `python -m pipeline run`."""

from __future__ import annotations

from gates import AllPassed, Check, MaxComplexity, MaxFindings, QualityGate, Severity, no_findings, valid
from pipeline import Pipeline
from stages.bandit import Bandit
from stages.environment import PythonEnvironment, Tool
from stages.metrics import Metrics
from stages.mypy import TypeCheck
from stages.pytest import UnitTests
from stages.ruff import Formatted, Lint
from stages.source import SourceProvenance, WorkingCopy
from stages.trivy import TrivySecrets
from stages.validation import ValidateDistributions
from stages.wheel import BuildDistributions, InstalledWheel

PACKAGES = ("pipeline", "gates", "stages")

provenance = SourceProvenance()
shipped = WorkingCopy(include=(*PACKAGES, "pyproject.toml", "README.md", "LICENSE"))
tested = WorkingCopy(include=(*PACKAGES, "tests", "benchmarks", "pyproject.toml", "README.md", "LICENSE"))
locks = WorkingCopy(include=("locks",))

runtime = PythonEnvironment(source=locks, lock="locks/run.lock")
testing = PythonEnvironment(source=locks, lock="locks/check.lock")

# The tests of the machine and of the rules; those of the tools and engines need network and run by `./dev test`.
unit = UnitTests(
    source=tested, environment=testing, tests=("tests/pipeline", "tests/gates"), paths=(".",), args=("-k", "not dagger")
)
lint = Lint(source=tested)
formatted = Formatted(source=tested)
types = TypeCheck(source=tested, environment=testing, paths=PACKAGES)
metrics = Metrics(source=shipped, paths=PACKAGES)
bandit = Bandit(source=shipped, paths=PACKAGES, config="pyproject.toml")
secrets = TrivySecrets(source=shipped)

wheel = BuildDistributions(source=shipped, environment=testing, provenance=provenance)
installed = InstalledWheel(wheel=wheel)
valid_wheel = ValidateDistributions(distributions=wheel, installed=installed, environment=runtime, twine=Tool(name="twine"))

gate = QualityGate(
    artifact=wheel,
    checks=(
        Check(evidence=unit, rule=AllPassed(at_least=200)),
        Check(evidence=lint, rule=no_findings),
        Check(evidence=formatted, rule=no_findings),
        Check(evidence=types, rule=no_findings),
        Check(evidence=metrics, rule=MaxComplexity(each=13, duplicated=0.03)),
        Check(evidence=bandit, rule=MaxFindings(severity=Severity.MEDIUM)),
        Check(evidence=secrets, rule=no_findings),
        Check(evidence=valid_wheel, rule=valid),
    ),
)

pipeline = Pipeline(
    "lockgate",
    provenance=provenance,
    shipped=shipped,
    tested=tested,
    locks=locks,
    runtime=runtime,
    testing=testing,
    unit=unit,
    lint=lint,
    formatted=formatted,
    types=types,
    metrics=metrics,
    bandit=bandit,
    secrets=secrets,
    wheel=wheel,
    installed=installed,
    twine=valid_wheel.twine,
    valid_wheel=valid_wheel,
    checks=gate.checks,
    gate=gate,
)
