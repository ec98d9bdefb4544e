"""A run as JUnit XML: every stage a test case, so that any CI system can show it. Pure."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from pipeline.history import RunHistory, StageHistory


def junit(run: RunHistory) -> str:
    """One suite for the run; failed stages are failures, skipped and blocked ones are skipped."""
    stages = list(run.stages.values())
    failed = sum(stage.state == "failed" for stage in stages)
    idle = sum(stage.state in ("skipped", "blocked", "waiting") for stage in stages)
    root = ET.Element("testsuites", name="lockgate", tests=str(len(stages)), failures=str(failed), skipped=str(idle))
    suite = ET.SubElement(
        root,
        "testsuite",
        name=run.pipeline,
        tests=str(len(stages)),
        failures=str(failed),
        skipped=str(idle),
        time=f"{run.seconds:.3f}",
    )
    for stage in stages:
        case = ET.SubElement(suite, "testcase", classname=run.pipeline, name=stage.name, time=f"{stage.seconds:.3f}")
        _detail(case, stage)
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode")


def _detail(case: ET.Element, stage: StageHistory) -> None:
    if stage.state == "failed":
        failure = ET.SubElement(case, "failure", message=printable(stage.error.partition("\n")[0]))
        failure.text = printable(f"{stage.error}\n{stage.tail}")
    elif stage.state in ("skipped", "blocked", "waiting"):
        ET.SubElement(case, "skipped", message=printable(stage.reason))
    elif stage.state == "interrupted":
        ET.SubElement(case, "error", message="interrupted")


def printable(text: str) -> str:
    """`text` without the control characters that XML 1.0 cannot hold (section 2.2)."""
    return "".join(letter for letter in text if letter in "\t\n\r" or 0x20 <= ord(letter) <= 0xD7FF or ord(letter) >= 0xE000)
