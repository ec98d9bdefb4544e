"""mypy: static types of Python."""

from __future__ import annotations

import re
from pathlib import Path

from gates.findings import Finding, Findings, Severity
from pipeline import Action, Blob, Stage, StageFailed, Tree, Work
from stages.environment import Tool
from stages.sarif import fingerprint, scan, told_apart
from stages.scripts import capture
from stages.versions import version

ERROR = re.compile(r"^(?P<path>.+?):(?:(?P<line>\d+):(?:\d+:){0,3})? error: (?P<message>.*?)(?:  \[(?P<code>[a-z0-9-]+)\])?$")
CLEAN = re.compile(r"^Success: no issues found in (?P<targets>\d+) source files?$")
FOUND = re.compile(r"^Found (?P<errors>\d+) errors? in \d+ files? \(checked (?P<targets>\d+) source files?\)$")


class MypyTool(Tool):
    """mypy, in the version Lockgate ships a lock for."""

    name: str = "mypy"


class TypeCheck(Stage[Findings]):
    """`mypy --strict` over `paths` of `source`; what the code imports is looked up in `environment`.

    Every error is a finding of high severity. What keeps mypy from checking (a syntax error, a path that is
    not there) fails the stage. Targets are the source files mypy says it checked.
    """

    source: Stage[Tree]
    environment: Stage[Tree]
    tool: Stage[Tree] = MypyTool()
    paths: tuple[str, ...] = ("src",)
    args: tuple[str, ...] = ("--strict",)

    async def run(self, work: Work) -> Findings:
        keep = work.store.put_file(Path(capture.__file__))
        action = mypy_action(work[self.source], work[self.environment], work[self.tool], keep, (*self.args, *self.paths))
        result = (await work.execute(action)).require(1)
        try:
            targets, found = from_text(result.output("report.txt").read().decode(errors="replace"))
        except ValueError as error:
            raise StageFailed(
                f"mypy's report cannot be used: {error}", right="the errors and how many files were checked"
            ) from error
        if bool(found) != (result.exit_code == 1):
            raise StageFailed(f"mypy reports {len(found)} errors and ends with {result.exit_code}", right="1 with errors, else 0")
        return scan(
            work.store, tool=version(work.store, work[self.tool], "mypy"), subject="files", targets=targets, findings=found
        )


def mypy_action(source: Tree, environment: Tree, tool: Tree, keep: Blob, command: tuple[str, ...]) -> Action:
    return Action(
        argv=(
            "python", "{root}/capture.py", "{root}/report.txt", "-", "python", "-m", "mypy", "--cache-dir=/dev/null",
            "--no-pretty", "--hide-column-numbers", "--hide-error-context", "--show-error-codes", "--error-summary",
            "--no-color-output", *command,
        ),
        inputs={"src": source, "capture.py": keep},
        tools={"tool": tool, "site": environment},
        env={"PYTHONPATH": "{root}/tool:{root}/site"},
        cwd="src",
        outputs=("report.txt",),
    )  # fmt: skip


def from_text(text: str) -> tuple[int, tuple[Finding, ...]]:
    """The number of files checked, and the errors. Raises ValueError when its last line does not agree with the rest."""
    lines = [line for line in text.splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    if clean := CLEAN.match(last):
        return int(clean["targets"]), ()
    summary = FOUND.match(last)
    if summary is None:
        raise ValueError(f"it ends with {last!r}")
    found = [_finding(error) for line in lines[:-1] if (error := ERROR.match(line))]
    if len(found) != int(summary["errors"]):
        raise ValueError(f"it shows {len(found)} errors and counts {summary['errors']}")
    return int(summary["targets"]), tuple(told_apart(found))


def _finding(error: re.Match[str]) -> Finding:
    path, rule, message = error["path"], error["code"] or "error", error["message"]
    return Finding(
        rule=rule,
        severity=Severity.HIGH,
        path=path,
        line=int(error["line"] or 0),
        message=message,
        fingerprint=fingerprint(rule, path, message),
    )
