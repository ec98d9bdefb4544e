"""Ruff: linting and formatting of Python."""

from __future__ import annotations

import re
from pathlib import Path

from gates.findings import Findings
from pipeline import Action, Blob, Stage, Tree, Work
from stages.environment import Tool
from stages.sarif import findings_from_sarif, inside, rules_of, scan, unreadable
from stages.scripts import capture
from stages.versions import version

SHOWN = "shown.txt"
REPORT = "report.sarif"
BANDITS = re.compile(r"S\d+")
"""The rules that are about security: flake8-bandit's."""


class RuffTool(Tool):
    """Ruff, in the version Lockgate ships a lock for."""

    name: str = "ruff"


RUFF = RuffTool()


class Lint(Stage[Findings]):
    """`ruff check` over `paths` of `source`, with the settings the source holds; every violation is a finding.

    A file that cannot be parsed is a finding too; wrong settings or a crash fail the stage. Targets are the
    files ruff checks.
    """

    source: Stage[Tree]
    tool: Stage[Tree] = RUFF
    paths: tuple[str, ...] = (".",)
    args: tuple[str, ...] = ()

    async def run(self, work: Work) -> Findings:
        command = ("check", f"--output-file={{root}}/{REPORT}", "--output-format=sarif", *self.args, *self.paths)
        return await ruff(work, work[self.source], work[self.tool], command, self.paths)


class Formatted(Stage[Findings]):
    """`ruff format --check` over `paths` of `source`; every file that it would change is a finding."""

    source: Stage[Tree]
    tool: Stage[Tree] = RUFF
    paths: tuple[str, ...] = (".",)
    args: tuple[str, ...] = ()

    async def run(self, work: Work) -> Findings:
        command = ("format", "--check", "--output-format=sarif", *self.args, *self.paths)
        found = await ruff(work, work[self.source], work[self.tool], command, self.paths)
        first = {finding.path: finding for finding in reversed(found.findings)}  # ruff tells every place; one a file says enough
        return scan(work.store, tool=found.tool, subject=found.subject, targets=found.targets, findings=first.values())


async def ruff(work: Work, source: Tree, tool: Tree, command: tuple[str, ...], paths: tuple[str, ...]) -> Findings:
    """Run ruff twice: for the files it looks at, and for what it says of them."""
    keep = work.store.put_file(Path(capture.__file__))
    shown = (await work.execute(ruff_action(source, tool, keep, SHOWN, ("check", "--show-files", *paths)))).require()
    result = (await work.execute(ruff_action(source, tool, keep, REPORT, command))).require(1)
    files = frozenset(entry.path for entry in work.store.entries(source))
    try:
        found = findings_from_sarif(result.output(REPORT).read(), files)
    except ValueError as error:
        raise unreadable("ruff", error) from error
    targets = looked_at(shown.output(SHOWN).read(), files)
    name, security = version(work.store, tool, "ruff"), frozenset(filter(BANDITS.fullmatch, rules_of(found)))
    return scan(work.store, tool=name, subject="files", targets=targets, findings=found, security=security)


def ruff_action(source: Tree, tool: Tree, keep: Blob, output: str, command: tuple[str, ...]) -> Action:
    """A command of ruff in the source's directory; what it writes to standard output is kept unless it writes the file itself."""
    itself = any(argument.startswith("--output-file") for argument in command)
    return Action(
        argv=("python", "{root}/capture.py", "-" if itself else f"{{root}}/{output}", "-", "{root}/site/bin/ruff", *command),
        inputs={"src": source, "capture.py": keep},
        tools={"site": tool},
        env={"RUFF_NO_CACHE": "true", "NO_COLOR": "1"},
        cwd="src",
        outputs=(output,),
    )


def looked_at(shown: bytes, files: frozenset[str]) -> int:
    """How many of the files ruff names there are, without settings: those alone are nothing to look at."""
    named = {inside(line.strip(), files) for line in shown.decode(errors="replace").splitlines()}
    return len({path for path in named & files if not path.endswith(".toml")})
