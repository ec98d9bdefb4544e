"""Evidence of probing a deployed service, and the rule for it."""

from __future__ import annotations

from gates import verdict
from gates.verdict import Verdict
from gates.words import counted
from pipeline import Result


class Probe(Result):
    """One question to the service and its answer. `milliseconds` until the answer was complete."""

    name: str
    passed: bool
    said: str
    milliseconds: float = 0.0


class ProbeReport(Result):
    """What probing showed, in the order it was done."""

    url: str
    probes: tuple[Probe, ...]

    def summary(self) -> str:
        bad = sum(not probe.passed for probe in self.probes)
        return f"{counted(len(self.probes), 'probe')} of {self.url}{f', {bad} failed' if bad else ' passed'}"

    def concern(self) -> str:
        return all_probes_passed(self).concern()


def all_probes_passed(report: ProbeReport) -> Verdict:
    """Every probe passed, and there was one."""
    wanted = "every probe passes"
    if not report.probes:
        return verdict.error("all_probes_passed", f"{report.url} was not probed", wanted=wanted)
    facts = tuple(f"{probe.name}: {probe.said}" for probe in report.probes if not probe.passed)
    if facts:
        return verdict.failed("all_probes_passed", report.summary(), *facts, wanted=wanted)
    return verdict.passed("all_probes_passed", report.summary(), wanted=wanted)
