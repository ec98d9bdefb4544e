"""Python distributions: a wheel and an sdist built from a source tree, and the wheel installed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import Action, Artifact, Blob, Stage, StageFailed, Tree, Work
from stages.environment import uv_tree, uv_version
from stages.scripts import install
from stages.source import Provenance

if TYPE_CHECKING:
    from pipeline import Project

ZIP_EPOCH = 315532800
"""1980-01-01, the first date a ZIP archive can hold; the date of builds from a tree without history."""


class Distributions(Artifact):
    """A wheel and the sdist it was built from. `name` is normalized as package indexes do it."""

    name: str
    version: str
    wheel: Blob
    wheel_name: str
    sdist: Blob
    sdist_name: str

    def summary(self) -> str:
        return f"{self.name} {self.version}: wheel of {self.wheel.size:,} bytes, sdist of {self.sdist.size:,}"


class BuildDistributions(Stage[Distributions]):
    """`python -m build` on a private copy of `source`, with the `build` and the backend that `environment` holds.

    The sdist is built first and the wheel from it, without network and dated by `provenance`: equal trees
    give equal files. Fails with the backend's words when it fails, and when it leaves anything but one of each.
    """

    source: Stage[Tree]
    environment: Stage[Tree]
    provenance: Stage[Provenance] | None = None

    async def run(self, work: Work) -> Distributions:
        committed = work[self.provenance].committed if self.provenance else 0
        result = await work.execute(build_action(work[self.source], work[self.environment], max(committed, ZIP_EPOCH)))
        dist = result.require().output("dist").tree
        return distributions({entry.path: Blob(digest=entry.target, size=entry.size) for entry in work.store.entries(dist)})


def build_action(source: Tree, environment: Tree, epoch: int) -> Action:
    """The command; `epoch` is the date of everything in the archives, in seconds."""
    return Action(
        argv=("python", "-m", "build", "--no-isolation", "--outdir", "{root}/dist", "."),
        inputs={"src": source},
        tools={"site": environment},
        env={"PYTHONPATH": "{root}/site", "PYTHONHASHSEED": "0", "SOURCE_DATE_EPOCH": str(epoch), "NO_COLOR": "1"},
        cwd="src",
        outputs=("dist",),
    )


def distributions(files: dict[str, Blob]) -> Distributions:
    """What a build left, by file name. Raises StageFailed unless it is one wheel and one sdist of one version."""
    from packaging.utils import InvalidSdistFilename, InvalidWheelFilename, parse_sdist_filename, parse_wheel_filename

    wheels, sdists = ([name for name in sorted(files) if name.endswith(end)] for end in (".whl", ".tar.gz"))
    if len(wheels) != 1 or len(sdists) != 1:
        raise StageFailed(
            f"the build left {', '.join(sorted(files)) or 'nothing'}", where="dist", right="one wheel and one sdist"
        )
    try:
        name, version, *_ = parse_wheel_filename(wheels[0])
        same = parse_sdist_filename(sdists[0])
    except (InvalidWheelFilename, InvalidSdistFilename) as error:
        raise StageFailed(str(error), where="dist", right="file names as the packaging standards define them") from error
    if same != (name, version):
        raise StageFailed(f"{wheels[0]} and {sdists[0]} differ in name or version", where="dist", right="both of one version")
    return Distributions(
        name=name,
        version=str(version),
        wheel=files[wheels[0]],
        wheel_name=wheels[0],
        sdist=files[sdists[0]],
        sdist_name=sdists[0],
    )


class InstalledWheel(Stage[Tree]):
    """The files of the wheel as it is installed, without what it depends on: a tree for PYTHONPATH or for an image."""

    wheel: Stage[Distributions]

    def observe(self, project: Project) -> str:
        return uv_version()

    async def run(self, work: Work) -> Tree:
        built = work[self.wheel]
        action = Action(
            argv=("python", "install.py", "{root}/uv/uv", built.wheel_name, "site"),
            inputs={built.wheel_name: built.wheel, "install.py": work.store.put_file(Path(install.__file__))},
            tools={"uv": uv_tree(work.store)},
            env={"UV_CACHE_DIR": "{root}/.tmp/uv"},
            outputs=("site",),
        )
        return (await work.execute(action)).require().output("site").tree
