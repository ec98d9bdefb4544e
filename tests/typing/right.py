"""Wirings that are right, with the types a reader would expect."""

from collections.abc import Mapping
from typing import assert_type

from gates import (
    Check,
    Compare,
    CoverageReport,
    Findings,
    MaxFindings,
    MinCoverage,
    NewFindings,
    NoDrop,
    Passed,
    QualityGate,
    TestReport,
    Verdict,
    Verification,
    Verified,
    all_passed,
)
from pipeline import Artifact, FanOut, Pipeline, Result, Stage, Tree, Work
from stages.delivery.deploy import Deploy
from stages.delivery.envoy import Envoy
from stages.delivery.haproxy import HAProxy
from stages.delivery.local import LocalProcesses
from stages.delivery.model import Deployment
from stages.delivery.shadow import Shadow
from stages.delivery.strategy import BlueGreen, Canary
from stages.environment import PythonEnvironment
from stages.image import BuildImage, Image
from stages.pytest import UnitTests
from stages.source import WorkingCopy


class Report(Result):
    lines: int


class Count(Stage[Report]):
    source: Stage[Tree]
    deep: bool = False

    async def run(self, work: Work) -> Report:
        tree = work[self.source]
        assert_type(tree, Tree)
        return Report(lines=tree.files)


class Wrap(Stage[Report]):
    parts: tuple[Stage[Report], ...]

    async def run(self, work: Work) -> Report:
        return Report(lines=sum(work[part].lines for part in self.parts))


class Counts(FanOut[Report, Report]):
    source: Stage[Tree]

    async def parts(self, work: Work) -> Mapping[str, Stage[Report]]:
        return {"all": Count(source=self.source)}

    async def join(self, work: Work, parts: Mapping[str, Report]) -> Report:
        assert_type(parts["all"], Report)
        return Report(lines=sum(part.lines for part in parts.values()))


Wrap(parts=(Counts(source=WorkingCopy()), Count(source=WorkingCopy())))


def short(report: Report) -> Verdict:
    return all_passed_or(report.lines < 10)


def all_passed_or(good: bool) -> Verdict:
    from gates.verdict import failed, passed

    return passed("short", "short") if good else failed("short", "long", wanted="short")


def anything(result: Result) -> Verdict:
    """A rule for every result is a rule for each of them: rules are contravariant."""
    return all_passed_or(good=bool(result.summary()))


source = WorkingCopy()
environment = PythonEnvironment(source=source)
unit = UnitTests(source=source, environment=environment)
count = Count(source=source)
wrap = Wrap(parts=(count, Count(source=source, deep=True)))
image = BuildImage(layers=(source,), entrypoint=("python",))
gate = QualityGate(artifact=image, checks=(Check(evidence=unit, rule=all_passed), Check(evidence=count, rule=short)))
deploy = Deploy(release=gate, target=LocalProcesses(name="x"), router=HAProxy(name="x", port=8080))
envoy = Envoy(name="x", port=8080)
for strategy in (BlueGreen(), Canary(), Shadow(router=envoy), Shadow(router=envoy, then=BlueGreen(), share=50)):
    Deploy(release=gate, target=LocalProcesses(name="x"), router=envoy, strategy=strategy)
verified = Verification(deployment=deploy, checks=(Check(evidence=count, rule=anything),))

assert_type(gate, QualityGate[Image])
assert_type(verified, Verification[Deployment])
stage_of_image: Stage[Artifact] = image  # stages are covariant in what they return
release: Stage[Passed[Image]] = gate
deployment: Stage[Verified[Deployment]] = verified
coverage: Stage[CoverageReport]
findings: Stage[Findings]


def rules(coverage: Stage[CoverageReport], findings: Stage[Findings], tests: Stage[TestReport]) -> tuple[Stage[Verdict], ...]:
    return (
        Check(evidence=coverage, rule=MinCoverage(total=90)),
        Compare(evidence=coverage, baseline=coverage, rule=NoDrop()),
        Check(evidence=findings, rule=MaxFindings()),
        Compare(evidence=findings, baseline=findings, rule=NewFindings()),
        Check(evidence=tests, rule=all_passed),
    )


pipeline = Pipeline("right", source=source, unit=unit, count=count, many=(count, wrap), gate=gate, deploy=deploy)
