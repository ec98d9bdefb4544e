"""A run as JUnit XML: every stage a test case, so that any CI system can show it. Pure."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from pipeline.history import RunHistory, StageHistory

SKIPPED = ("skipped", "blocked")
UNFINISHED = {
    "interrupted": "interrupted",
    "not reached": "the run ended before it began",
    "running": "it was running when the journal ends: the run was killed, or is still under way",
    "waiting": "it had not begun when the journal ends: the run was killed, or is still under way",
}
"""States without a result, and what is said of them: a run that was killed is never green."""


def junit(run: RunHistory) -> str:
    """One suite for the run; failed stages are failures, unfinished ones errors, skipped and blocked ones are skipped."""
    stages = list(run.stages.values())
    counts = {
        "tests": str(len(stages)),
        "failures": str(run.counts()["failed"]),
        "errors": str(sum(stage.state in UNFINISHED for stage in stages)),
        "skipped": str(sum(stage.state in SKIPPED for stage in stages)),
    }
    root = ET.Element("testsuites", {"name": "lockgate", **counts})
    suite = ET.SubElement(root, "testsuite", {"name": run.pipeline, **counts, "time": f"{run.seconds:.3f}"})
    for stage in stages:
        case = ET.SubElement(suite, "testcase", classname=run.pipeline, name=stage.name, time=f"{stage.seconds:.3f}")
        _detail(case, stage)
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode")


def _detail(case: ET.Element, stage: StageHistory) -> None:
    if stage.state == "failed":
        failure = ET.SubElement(case, "failure", message=printable(stage.error.partition("\n")[0]))
        against = [
            fact for verdict in stage.verdicts if verdict["ruling"] != "passed" for fact in (verdict["said"], *verdict["facts"])
        ]
        failure.text = printable("\n".join([stage.error, *against, stage.tail]))
    elif stage.state in SKIPPED:
        ET.SubElement(case, "skipped", message=printable(stage.reason))
    elif stage.state in UNFINISHED:
        ET.SubElement(case, "error", message=UNFINISHED[stage.state])


FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold (section 2.2): control characters, surrogates, U+FFFE and U+FFFF."""


def printable(text: str) -> str:
    """`text` without what XML cannot hold."""
    return FORBIDDEN.sub("", text)
