"""A run as Markdown: the verdict first, then what failed, then everything. Pure."""

from __future__ import annotations

from pipeline.history import RunHistory, StageHistory

SIGNS = {
    "passed": "✅",
    "cached": "♻️",
    "skipped": "⏭️",
    "failed": "❌",
    "blocked": "⛔",
    "interrupted": "⚠️",
    "not reached": "·",
    "running": "▶️",
    "waiting": "…",
}
LIMIT = 1000 * 1024
"""GitHub drops a job summary of more than 1,024 KiB whole."""


def markdown(run: RunHistory) -> str:
    """The report; particulars are cut, with the count of what was left out, before it grows over the limit."""
    failed, found = [stage for stage in run.stages.values() if stage.state == "failed"], run.counts()
    counts = ", ".join(f"{found[state]} {state}" for state in SIGNS if found[state])
    lines = [f"# {run.pipeline}: {run.state}", "", f"{counts} in {run.seconds:.1f} s on {run.engine}, run `{run.id}`."]
    if run.about.get("commit"):
        lines[-1] += f" Commit `{run.about['commit'][:12]}`."
    if run.about.get("host"):
        lines[-1] += f" Machine `{run.about['host']}`."
    for stage in failed:
        lines += ["", f"## {SIGNS['failed']} {stage.name}", "", "```text", *fenced(stage), "```"]
    for stage in run.stages.values():
        lines += verdicts(stage)
    lines += ["", "## Stages", "", "| stage | | seconds | what |", "| --- | --- | ---: | --- |", *map(_row, run.stages.values())]
    lines += ["", "```mermaid", "graph LR", *_edges(run), "```", ""]
    text = "\n".join(lines).encode(errors="backslashreplace").decode()  # a file's name in an error may be no UTF-8
    if len(text.encode()) > LIMIT:
        cut = text.encode()[:LIMIT].decode(errors="ignore").rpartition("\n")[0]
        text = f"{cut}\n\n{len(text.encode()) - len(cut.encode()):,} bytes more: `python -m pipeline report --run {run.id}`\n"
    return text


def fenced(stage: StageHistory) -> list[str]:
    """What went wrong, as it may stand between code fences."""
    return [inside(line) for line in [*stage.error.splitlines(), *stage.tail.strip().splitlines()[-20:]]]


def inside(line: str) -> str:
    """A line as it may stand between code fences."""
    return line.replace("```", "'''")


def verdicts(stage: StageHistory) -> list[str]:
    if not stage.verdicts:
        return []
    lines = [
        "",
        f"## Verdicts of {stage.name}",
        "",
        "| | about | rule | evidence said | would have passed |",
        "| --- | --- | --- | --- | --- |",
    ]
    weighed = list(zip(stage.weighed(), stage.verdicts, strict=True))
    for name, verdict in weighed:
        sign = SIGNS["passed"] if verdict["ruling"] == "passed" else SIGNS["failed"]
        about, rule, said, wanted = (cell(text) for text in (name, verdict["rule"], verdict["said"], verdict["wanted"]))
        lines.append(f"| {sign} | {about} | {rule} | {said} | {wanted} |")
    for name, verdict in weighed:
        if verdict["ruling"] != "passed" and verdict["facts"]:
            who = f"{verdict['rule']} of {name}" if name else verdict["rule"]
            lines += ["", f"What {cell(who)} says no to:", "", "```text", *map(inside, verdict["facts"]), "```"]
    return lines


def cell(text: str) -> str:
    """`text` as it may stand in a cell of a table."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _row(stage: StageHistory) -> str:
    what = stage.summary or stage.error.partition("\n")[0] or stage.reason
    sign = "⚠️" if stage.concern and stage.state in ("passed", "cached") else SIGNS[stage.state]
    return f"| {cell(stage.name)} | {sign} {stage.state} | {stage.seconds:.1f} | {cell(what)} |"


def _edges(run: RunHistory) -> list[str]:
    number = {name: f"s{index}" for index, name in enumerate(run.stages)}
    boxes = [f'    {number[name]}["{name}"]' for name in run.stages]
    arrows = [
        f"    {number[source]} --> {number[s.name]}" for s in run.stages.values() for source in s.inputs if source in number
    ]
    return boxes + arrows
