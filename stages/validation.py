"""Validation of distributions: that they can be published and imported."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator

from gates.validation import ValidationCheck, ValidationReport
from pipeline import ROOT, Action, CommandFailed, Entry, Stage, Store, Tree, Work
from stages.wheel import Distributions


class ValidateDistributions(Stage[ValidationReport]):
    """Whether distributions can be published and used: metadata, versions, and an import of every module.

    `twine` is `Tool(name="twine")`, `installed` the wheel as `InstalledWheel` lays it out, `environment` what it depends
    on. Each top-level module is imported by a fresh interpreter that sees these two and nothing else.
    """

    distributions: Stage[Distributions]
    installed: Stage[Tree]
    environment: Stage[Tree]
    twine: Stage[Tree]

    async def run(self, work: Work) -> ValidationReport:
        built, installed = work[self.distributions], work[self.installed]
        checks = [await _metadata(work, built, work[self.twine])]
        checks += versions(built, wheel_metadata(work.store, installed), sdist_metadata(work.store.read(built.sdist)))
        modules = top_level(work.store.entries(installed))
        if not modules:
            checks.append(ValidationCheck(name="import", passed=False, said="the wheel installs no module"))
        for module in modules:
            checks.append(await _import(work, module, installed, work[self.environment]))
        return ValidationReport(subject=f"{built.name} {built.version}", checks=tuple(checks))


def twine_action(built: Distributions, twine: Tree) -> Action:
    return Action(
        argv=("python", "-m", "twine", "--no-color", "check", "--strict", f"dist/{built.wheel_name}", f"dist/{built.sdist_name}"),
        inputs={f"dist/{built.wheel_name}": built.wheel, f"dist/{built.sdist_name}": built.sdist},
        tools={"site": twine},
        env={"PYTHONPATH": "{root}/site", "COLUMNS": "200", "TERM": "dumb"},
    )


async def _metadata(work: Work, built: Distributions, twine: Tree) -> ValidationCheck:
    """What twine says of the metadata. Raises CommandFailed when it says nothing of both files."""
    action = twine_action(built, twine)
    result = (await work.execute(action)).require(1)
    spoken = [line.strip() for line in result.tail.splitlines() if line.strip()]
    if sum(line.startswith("Checking dist/") for line in spoken) != 2 or (result.exit_code and "FAILED" not in result.tail):
        raise CommandFailed(action.argv, result.exit_code, result.tail, expected="twine's word on both files")
    bad = [line for line in spoken if not line.endswith("PASSED")]
    said = "twine finds no fault in the wheel or the sdist" if result.exit_code == 0 else " ".join(bad)[:500]
    return ValidationCheck(name="metadata", passed=result.exit_code == 0, said=said)


def wheel_metadata(store: Store, installed: Tree) -> bytes:
    """The METADATA of an installed wheel; empty when there is none."""
    paths = [entry.path for entry in store.entries(installed) if entry.path.endswith(".dist-info/METADATA")]
    return store.read(store.file(installed, paths[0])) if len(paths) == 1 else b""


def sdist_metadata(data: bytes) -> bytes:
    """The PKG-INFO at the top of an sdist; empty when there is none, or no archive."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for member in tar:
                if member.isfile() and member.name.count("/") == 1 and member.name.endswith("/PKG-INFO"):
                    content = tar.extractfile(member)
                    return content.read() if content else b""
    except (tarfile.TarError, EOFError, OSError):
        return b""
    return b""


def versions(built: Distributions, wheel: bytes, sdist: bytes) -> Iterator[ValidationCheck]:
    """Whether the metadata in both files names the project and version that their file names do."""
    from email.parser import BytesParser

    from packaging.utils import canonicalize_name
    from packaging.version import InvalidVersion, Version

    for kind, text in (("wheel", wheel), ("sdist", sdist)):
        found = BytesParser().parsebytes(text)
        name, version = str(found["Name"] or ""), str(found["Version"] or "")
        try:
            same = bool(text) and canonicalize_name(name) == built.name and Version(version) == Version(built.version)
        except InvalidVersion:
            same = False
        said = f"its metadata says {name or 'no name'} {version or 'no version'}, its file name {built.name} {built.version}"
        yield ValidationCheck(name=f"version of the {kind}", passed=same, said=said)


def top_level(entries: tuple[Entry, ...]) -> tuple[str, ...]:
    """The modules a wheel installs: packages with modules in them, and modules beside them."""
    found = set()
    for entry in entries:
        top, slash, rest = entry.path.partition("/")
        name = top if slash else top.partition(".")[0]
        is_module = (rest if slash else top).endswith((".py", ".so"))
        if is_module and name.isidentifier():
            found.add(name)
    return tuple(sorted(found))


async def _import(work: Work, module: str, installed: Tree, environment: Tree) -> ValidationCheck:
    action = Action(
        argv=("python", "-c", f"import {module}"),
        tools={"wheel": installed, "environment": environment},
        env={"PYTHONPATH": f"{ROOT}/wheel:{ROOT}/environment"},
    )
    result = await work.execute(action)
    last = (result.tail.strip().splitlines() or [f"exit code {result.exit_code}"])[-1].replace(ROOT, "")
    said = f"{module} is imported in a clean environment" if result.exit_code == 0 else last
    return ValidationCheck(name=f"import {module}", passed=result.exit_code == 0, said=said)
