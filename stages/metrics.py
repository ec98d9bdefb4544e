"""Code metrics: cyclomatic complexity and duplication of Python."""

from __future__ import annotations

import json
import re
from pathlib import Path

from gates.metrics import CodeMetrics, Duplicate, FunctionMetric
from pipeline import Action, Blob, Stage, StageFailed, Tree, Work
from pipeline.condition import matches
from stages.ruff import REPORT, RUFF, ruff_action
from stages.sarif import findings_from_sarif, unreadable
from stages.scripts import capture
from stages.scripts import duplicates as program
from stages.versions import version

COMPLEX = re.compile(r"^`(?P<name>.+)` is too complex \((?P<complexity>\d+) > 0\)$")
FIGURES = "figures.json"


class Metrics(Stage[CodeMetrics]):
    """The complexity of every function (ruff's C901, whatever comments silence) and lines that stand in two places.

    Of the Python files of `source` below `paths`. `smallest` is how many lines of code in a row count as a
    duplicate. A file that is no Python fails the stage.
    """

    source: Stage[Tree]
    tool: Stage[Tree] = RUFF
    paths: tuple[str, ...] = ("src",)
    smallest: int = 8

    async def run(self, work: Work) -> CodeMetrics:
        source, tool = work[self.source], work[self.tool]
        files = tuple(
            entry.path for entry in work.store.entries(source) if is_python(entry.path, self.paths) and entry.kind != "link"
        )
        name = f"{version(work.store, tool, 'ruff')} and lockgate"
        if not files:
            return CodeMetrics(tool=name, files=0, lines=0, functions=(), duplicates=())
        keep = work.store.put_file(Path(capture.__file__))
        figures = await work.execute(figures_action(source, work.store.put_file(Path(program.__file__)), self.smallest, files))
        lines, found = from_figures(figures.require().output(FIGURES).read())
        checked = (await work.execute(ruff_action(source, tool, keep, REPORT, complexity_command(files)))).require(1)
        return CodeMetrics(
            tool=name,
            files=len(files),
            lines=lines,
            functions=functions(checked.output(REPORT).read(), frozenset(files)),
            duplicates=found,
        )


def is_python(path: str, paths: tuple[str, ...]) -> bool:
    return path.endswith(".py") and any(place == "." or matches(path, place) for place in paths)


def complexity_command(files: tuple[str, ...]) -> tuple[str, ...]:
    """Ruff, told to take every function for too complex."""
    rule = ("--isolated", "--select=C901", "--config=lint.mccabe.max-complexity=0", "--ignore-noqa", "--no-respect-gitignore")
    return ("check", f"--output-file={{root}}/{REPORT}", "--output-format=sarif", *rule, *files)


def figures_action(source: Tree, script: Blob, smallest: int, files: tuple[str, ...]) -> Action:
    return Action(
        argv=("python", "{root}/duplicates.py", f"{{root}}/{FIGURES}", str(smallest), *files),
        inputs={"src": source, "duplicates.py": script},
        cwd="src",
        outputs=(FIGURES,),
    )


def functions(report: bytes, files: frozenset[str]) -> tuple[FunctionMetric, ...]:
    """The complexity of each function, from ruff's report. Raises StageFailed for one that says something else."""
    try:
        found = findings_from_sarif(report, files)
    except ValueError as error:
        raise unreadable("ruff", error) from error
    measured: list[FunctionMetric] = []
    for one in found:
        said = COMPLEX.match(one.message)
        if said is None:
            raise StageFailed(f"ruff says {one.message!r}", where=f"{one.path}:{one.line}", right="the complexity of a function")
        measured.append(FunctionMetric(path=one.path, line=one.line, name=said["name"], complexity=int(said["complexity"])))
    return tuple(sorted(measured, key=lambda metric: (metric.path, metric.line, metric.name)))


def from_figures(text: bytes) -> tuple[int, tuple[Duplicate, ...]]:
    """Lines and duplicates. Raises StageFailed for a report that is none."""
    try:
        report = json.loads(text)
        return int(report["lines"]), tuple(Duplicate(**one) for one in report["duplicates"])
    except (ValueError, KeyError, TypeError) as error:
        raise StageFailed(f"the report of duplicates cannot be read: {error}", right="what duplicates.py writes") from error
