"""Assets of a web site: minified, compressed and named by their content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline import Action, ActionResult, Artifact, CommandFailed, Entry, Stage, StageFailed, Store, Tree, WiringError, Work
from stages.scripts import optimize


class Assets(Artifact):
    """The optimized files. `manifest` maps the names in the source to names by content; sizes in bytes, uncompressed."""

    tree: Tree
    manifest: dict[str, str]
    before: int
    after: int

    def summary(self) -> str:
        saved = 100 * (self.before - self.after) // self.before if self.before else 0
        return f"{len(self.manifest)} assets, {self.before:,} to {self.after:,} bytes ({saved} % saved)"


class OptimizeAssets(Stage[Assets]):
    """Minifies the CSS, JavaScript, HTML, JSON and SVG below `directory` of `source`, with the tools in `tool`.

    `tool` is `Tool(name="assets")`. Every file but the pages is renamed after its content, references in pages,
    style sheets, pictures and modules follow, and manifest.json beside them maps the names. Text is also compressed
    (.gz, .br) beside itself. `url` is where the directory is served; empty: its own name, as in /static.
    Fails for what cannot be parsed, with the file, for a circle of references, and for a directory without files.
    """

    source: Stage[Tree]
    tool: Stage[Tree]
    directory: str
    url: str = ""

    def __post_init__(self) -> None:
        if self.url and not self.url.startswith("/"):
            raise WiringError(f"OptimizeAssets.url is {self.url!r}", right="a path on the server, as in /static")

    async def run(self, work: Work) -> Assets:
        assets = below(work.store, work[self.source], self.directory)
        url = self.url or f"/{self.directory.rstrip('/').rpartition('/')[2]}"
        action = Action(
            argv=("python", "optimize.py", "in", "out", url),
            inputs={"in": assets, "optimize.py": work.store.put_file(Path(optimize.__file__))},
            tools={"site": work[self.tool]},
            env={"PYTHONPATH": "{root}/site"},
            outputs=("out", "summary.json"),
        )
        result = await work.execute(action)
        summary = _summary(result, self.directory)
        tree = result.require().output("out").tree
        manifest = json.loads(work.store.read(work.store.file(tree, optimize.MANIFEST)))
        return Assets(tree=tree, manifest=manifest, before=summary["before"], after=summary["after"])


def below(store: Store, source: Tree, directory: str) -> Tree:
    """The files below a directory of a tree, as a tree. Raises StageFailed when there are none."""
    start = directory.strip("/") + "/"
    found = [
        Entry(entry.path.removeprefix(start), entry.kind, entry.target, entry.size)
        for entry in store.entries(source)
        if entry.path.startswith(start)
    ]
    if not found:
        raise StageFailed(f"the source has no files below {directory!r}", right="the directory of the assets in the tree")
    return store.tree(found)


def _summary(result: ActionResult, directory: str) -> dict[str, Any]:
    """The sizes. Raises StageFailed for an asset that could not be optimized, CommandFailed without a summary."""
    try:
        summary: dict[str, Any] = json.loads(result.output("summary.json").read())
    except ValueError as error:
        raise CommandFailed(result.action.argv, result.exit_code, result.tail, expected="a summary in JSON") from error
    if "wrong" in summary:
        raise StageFailed(summary["wrong"], where=f"{directory}/{summary['file']}", right="an asset that browsers can read")
    return summary


class WithAssets(Stage[Tree]):
    """The source tree with the optimized assets in place of what `directory` held."""

    source: Stage[Tree]
    assets: Stage[Assets]
    directory: str

    async def run(self, work: Work) -> Tree:
        start = self.directory.strip("/")
        kept = [entry for entry in work.store.entries(work[self.source]) if not entry.path.startswith(f"{start}/")]
        return work.store.overlay({"": work.store.tree(kept), start: work[self.assets].tree})
