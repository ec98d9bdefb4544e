"""Coverage: what the tests of one or several stages reached, and how much of what was changed."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gates.coverage import ChangedLines, CoverageReport, FileCoverage
from gates.tests import TestReport
from pipeline import Action, Blob, Project, Stage, StageFailed, Tree, Work
from pipeline.digest import of_text
from pipeline.repository import git
from stages.scripts import combine
from stages.versions import version

HUNK = re.compile(r"^@@ -\d+(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


class Coverage(Stage[CoverageReport]):
    """Lines and branches that the tests reached, all their data combined, by file of `source`.

    What a line has to be to count is read from the project's own settings of coverage.py. With `base`, the
    name of a branch or commit, also how many of the lines that differ from the merge base with it, committed
    or not. Fails when a test stage measured nothing, and when nothing in the data is a file of the source.
    """

    tests: tuple[Stage[TestReport], ...]
    source: Stage[Tree]
    environment: Stage[Tree]
    base: str = ""

    def observe(self, project: Project) -> str | None:
        if not self.base:
            return None
        return of_text(repr(changes(project.root, self.base)))

    async def run(self, work: Work) -> CoverageReport:
        data = measured(tuple(work[test] for test in self.tests))
        environment = work[self.environment]
        tool = version(work.store, environment, "coverage")
        action = json_action(data, work[self.source], environment, work.store.put_file(Path(combine.__file__)))
        output = (await work.execute(action)).require().output("coverage.json")
        try:
            lines = from_json(output.read())
        except ValueError as error:
            raise StageFailed(f"coverage's report cannot be read: {error}", right="a report of `coverage json`") from error
        found = changes(work.project.root, self.base) if self.base else None
        return CoverageReport(
            tool=tool,
            files=tuple(lines),
            changed=None if found is None else changed_lines(self.base, found, lines, statements(output.read())),
        )


def measured(reports: tuple[TestReport, ...]) -> tuple[Blob, ...]:
    """The data of the reports. Raises StageFailed when one has none: what was not measured is not covered."""
    data = tuple(report.coverage for report in reports)
    if not data or None in data:
        which = f"tests[{data.index(None)}]" if data else "an empty `tests`"
        raise StageFailed(f"{which} measured no coverage", right='tests with packages to measure, as in cover=("my_package",)')
    return tuple(blob for blob in data if blob is not None)


def json_action(data: tuple[Blob, ...], source: Tree, environment: Tree, program: Blob) -> Action:
    """Combine the data and report on them, in the project's directory and with its settings."""
    pieces = {f"data/{number}": blob for number, blob in enumerate(data)}
    return Action(
        argv=("python", "{root}/combine.py", "{root}/coverage.json", *(f"{{root}}/{piece}" for piece in pieces)),
        inputs={"src": source, "combine.py": program, **pieces},
        tools={"site": environment},
        env={"PYTHONPATH": "{root}/site"},
        cwd="src",
        outputs=("coverage.json",),
    )


def from_json(text: bytes) -> tuple[FileCoverage, ...]:
    """The files of a report of `coverage json`. Raises ValueError when it is none, or names no file."""
    files = _files(text)
    if not files:
        raise ValueError("it names no file")
    try:
        return tuple(
            FileCoverage(
                path=Path(path).as_posix(),
                lines=file["summary"]["num_statements"],
                covered_lines=file["summary"]["covered_lines"],
                branches=file["summary"].get("num_branches", 0),
                covered_branches=file["summary"].get("covered_branches", 0),
                missing=tuple(file["missing_lines"]),
            )
            for path, file in sorted(files.items())
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"a file of it lacks {error}") from error


def statements(text: bytes) -> dict[str, frozenset[int]]:
    """The lines of each file that can be covered."""
    return {path: frozenset([*file["executed_lines"], *file["missing_lines"]]) for path, file in _files(text).items()}


def _files(text: bytes) -> dict[str, Any]:
    try:
        files = json.loads(text)["files"]
        return dict(files.items())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not JSON with an object `files`: {error}") from error


Changes = Mapping[str, frozenset[int] | None]
"""Changed lines by file; None: the whole file is new."""


def changes(root: Path, base: str) -> Changes | None:
    """The lines that differ from the merge base with `base`, as they are numbered now; None when git cannot tell."""
    start = git(root, "merge-base", base, "HEAD")
    if start is None:
        return None
    shown = ("-U0", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames", "--src-prefix=a/", "--dst-prefix=b/")
    diff = git(root, "diff", *shown, "--relative", start, "--", ".")
    fresh = git(root, "ls-files", "--others", "--exclude-standard")
    if diff is None or fresh is None:
        return None
    return {**from_diff(diff), **dict.fromkeys(fresh.splitlines())}


def from_diff(text: str) -> dict[str, frozenset[int]]:
    """The lines that a unified diff without context adds or changes, by file."""
    found: dict[str, set[int]] = {}
    path, left = "", 0
    for line in text.split("\n"):
        if left and line[:1] in "+-":
            left -= 1
        elif line.startswith("+++ "):
            path = _path(line.removeprefix("+++ "))
        elif hunk := HUNK.match(line):
            removed, first, added = (int(part) if part is not None else 1 for part in hunk.groups())
            left = removed + added
            found.setdefault(path, set()).update(range(first, first + added))
    return {path: frozenset(lines) for path, lines in found.items() if lines}


def _path(text: str) -> str:
    """The path in a `+++` line: without prefix and, where git quoted it, without its quotes."""
    text = text.rstrip("\t")
    if text.startswith('"'):
        text = codecs.escape_decode(text[1:-1].encode())[0].decode(errors="replace")
    return text.removeprefix("b/")


def changed_lines(
    base: str, found: Changes, files: tuple[FileCoverage, ...], can_be: Mapping[str, frozenset[int]]
) -> ChangedLines:
    """Of the changed lines that can be covered: how many were."""
    lines, missing = 0, list[str]()
    for file, numbers in _changed(found, can_be):
        uncovered = numbers & frozenset(next(f.missing for f in files if f.path == file))
        lines += len(numbers)
        missing += [f"{file}:{number}" for number in sorted(uncovered)]
    return ChangedLines(base=base, lines=lines, covered=lines - len(missing), missing=tuple(missing))


def _changed(found: Changes, can_be: Mapping[str, frozenset[int]]) -> Iterator[tuple[str, frozenset[int]]]:
    for file, numbers in sorted(can_be.items()):
        if file in found:
            changed = found[file]
            yield file, numbers if changed is None else numbers & changed
