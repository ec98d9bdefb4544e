"""Wirings that are wrong. Every line that ends in `# wrong` must be refused by every type checker, and no other line."""

from collections.abc import Mapping

import gates
from gates import Check, Compare, MaxFindings, MinCoverage, NoDrop, QualityGate, Verification, all_passed
from pipeline import FanOut, Pipeline, Result, Stage, Tree, Work
from stages.delivery.deploy import Deploy, RunOnce
from stages.delivery.haproxy import HAProxy
from stages.delivery.local import LocalProcesses
from stages.delivery.shadow import Shadow
from stages.environment import PythonEnvironment
from stages.image import BuildImage
from stages.pytest import UnitTests
from stages.source import WorkingCopy


class Report(Result):
    lines: int


class Count(Stage[Report]):
    source: Stage[Tree]

    async def run(self, work: Work) -> Report:
        report: Report = work[self.source]  # wrong
        return report


class Lies(Stage[Report]):
    async def run(self, work: Work) -> Tree:  # wrong
        return Tree(digest="0" * 64, files=0, size=0)


class Strays(FanOut[Report, Report]):
    async def parts(self, work: Work) -> Mapping[str, Stage[Tree]]:  # wrong
        return {"a": WorkingCopy()}

    async def join(self, work: Work, parts: Mapping[str, Tree]) -> Report:  # wrong
        return Report(lines=0)


source = WorkingCopy()
environment = PythonEnvironment(source=source)
unit = UnitTests(source=source, environment=environment)
count = Count(source=source)
image = BuildImage(layers=(source,), entrypoint=("python",))
gate = QualityGate(artifact=image, checks=(Check(evidence=unit, rule=all_passed),))
target = LocalProcesses(name="x")
router = HAProxy(name="x", port=8080)
deploy = Deploy(release=gate, target=target, router=router)

Count(source=unit)  # wrong
Count()  # wrong
Count(source)  # wrong
Count(source=source, depth=1)  # wrong
Count(source=Tree(digest="0" * 64, files=0, size=0))  # wrong
count.source = source  # wrong
UnitTests(source=source, environment=environment, tests="tests")  # wrong
UnitTests(source=source, environment=unit)  # wrong
BuildImage(layers=(unit,), entrypoint=("python",))  # wrong
BuildImage(layers=[source], entrypoint=("python",))  # wrong
Check(evidence=unit, rule=MinCoverage(total=90))  # wrong
Check(evidence=count, rule=all_passed)  # wrong
Check(evidence=source, rule=MaxFindings())  # wrong
Compare(evidence=unit, baseline=unit, rule=NoDrop())  # wrong
QualityGate(artifact=image, checks=(unit,))  # wrong
QualityGate(artifact=source, checks=())  # wrong
Deploy(release=image, target=target, router=router)  # wrong
Deploy(release=deploy, target=target, router=router)  # wrong
Deploy(release=gate, target=router, router=target)  # wrong
Deploy(release=gate, target=target, router=router, strategy=Shadow(router=router))  # wrong
Shadow()  # wrong
Shadow(router=target)  # wrong
RunOnce(release=image, target=target, command=("migrate",))  # wrong
Verification(deployment=deploy, checks=(deploy,))  # wrong
Pipeline("wrong", unit="unit")  # wrong
Count(source=source).run(None)  # wrong
print(gates.Chek)  # wrong
