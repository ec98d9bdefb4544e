"""Bandit: security mistakes in Python."""

from __future__ import annotations

import json

from gates.findings import Findings
from pipeline import Action, Stage, StageFailed, Tree, Work
from stages.environment import Tool
from stages.sarif import findings_from_sarif, rules_of, scan, unreadable
from stages.versions import version

REPORT = "report.sarif"


class BanditTool(Tool):
    """Bandit, in the version Lockgate ships a lock for."""

    name: str = "bandit"


class Bandit(Stage[Findings]):
    """Bandit over `paths` of `source`; `config` is the path of its settings (`pyproject.toml`), if there are any.

    A file that Bandit cannot parse fails the stage: what was not looked at is not clean. Targets are files.
    """

    source: Stage[Tree]
    tool: Stage[Tree] = BanditTool()
    paths: tuple[str, ...] = ("src",)
    config: str = ""
    args: tuple[str, ...] = ()

    async def run(self, work: Work) -> Findings:
        tree, tool = work[self.source], work[self.tool]
        settings = ("-c", self.config) if self.config else ()
        result = (await work.execute(bandit_action(tree, tool, (*settings, *self.args, *self.paths)))).require(1)
        report = result.output(REPORT).read()
        try:
            found = findings_from_sarif(report, frozenset(entry.path for entry in work.store.entries(tree)))
            targets = looked_at(report)
        except ValueError as error:
            raise unreadable("bandit", error) from error
        if bool(found) != (result.exit_code == 1):
            raise StageFailed(
                f"bandit reports {len(found)} findings and ends with {result.exit_code}", right="1 with findings, else 0"
            )
        name, security = version(work.store, tool, "bandit"), rules_of(found)
        return scan(work.store, tool=name, subject="files", targets=targets, findings=found, security=security)


def bandit_action(source: Tree, tool: Tree, command: tuple[str, ...]) -> Action:
    return Action(
        argv=("python", "-m", "bandit", "-q", "-r", "-f", "sarif", "-o", f"{{root}}/{REPORT}", *command),
        inputs={"src": source},
        tools={"site": tool},
        env={"PYTHONPATH": "{root}/site", "NO_COLOR": "1"},
        cwd="src",
        outputs=(REPORT,),
    )


def looked_at(report: bytes) -> int:
    """How many files Bandit measured. Raises ValueError when its report does not say."""
    try:
        metrics = json.loads(report)["runs"][0]["properties"]["metrics"]
        return len(metrics.keys() - {"_totals"})
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"it has no metrics: {error}") from error
