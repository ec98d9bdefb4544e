"""A pipeline for a project that has none: what is detected, and the file written from it. Pure."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOCK = "delivery.lock"
BUILD_LOCK = "delivery-build.lock"

FOR_TESTS = ("test", "tests", "testing", "dev")
"""How projects name what their tests need, as an extra or a dependency group; the first that is there counts."""


@dataclass(frozen=True, kw_only=True)
class Detected:
    """What a project has. Paths are relative; empty where there is nothing."""

    name: str
    sources: str
    """`src`, or `.` where modules lie in the project's own directory."""
    code: tuple[str, ...]
    """What of it is the project's own code: neither tests nor the pipeline."""
    tests: str
    lock: str
    """A lock with hashes that holds pytest."""
    build_requires: tuple[str, ...]
    build_lock: str
    dependencies: tuple[str, ...]
    """What names the project's own dependencies, those of its tests with them, to `uv pip compile`."""
    types: bool
    """Whether mypy is configured."""


def detect(root: Path) -> Detected:
    """Look at the project's files. Raises ValueError when pyproject.toml is no TOML."""
    path = root / "pyproject.toml"
    document: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    project = document.get("project", {})
    locks = {
        file.name: file.read_text(errors="replace") for pattern in ("*.lock", "*.txt") for file in sorted(root.glob(pattern))
    }
    hashed = {name: text for name, text in locks.items() if "--hash=sha256:" in text}
    sources = "src" if (root / "src").is_dir() else "."
    tests = next((name for name in ("tests", "test") if (root / name).is_dir()), "")
    return Detected(
        name=identifier(str(project.get("name") or root.name)),
        sources=sources,
        code=("src",) if sources == "src" else _code(root, tests),
        tests=tests,
        lock=_holding(hashed, "pytest"),
        build_requires=tuple(document.get("build-system", {}).get("requires", ())),
        build_lock=_holding(hashed, "build"),
        dependencies=_dependencies(document),
        types="mypy" in document.get("tool", {}),
    )


def _dependencies(document: dict[str, Any]) -> tuple[str, ...]:
    project = document.get("project", {})
    extra = next((name for name in FOR_TESTS if name in project.get("optional-dependencies", {})), None)
    group = next((name for name in FOR_TESTS if name in document.get("dependency-groups", {})), None)
    named = ("pyproject.toml", *(("--extra", extra) if extra else ())) if extra or project.get("dependencies") else ()
    return (*named, *(("--group", group) if group else ()))


def _code(root: Path, tests: str) -> tuple[str, ...]:
    """Packages and modules of a project without `src`; the whole of it where there are none."""
    packages = {file.parent.name for file in root.glob("*/__init__.py")} - {tests}
    modules = {file.name for file in root.glob("*.py")} - {"delivery.py", "setup.py", "conftest.py"}
    return tuple(sorted(packages | modules)) or (".",)


def _tuple(words: tuple[str, ...]) -> str:
    """A tuple of strings as it is written in the file.

    >>> _tuple(("a", "b")), _tuple(("a",))
    ('("a", "b")', '("a",)')
    """
    return "(" + ", ".join(f'"{word}"' for word in words) + (",)" if len(words) == 1 else ")")


def identifier(name: str) -> str:
    """A name a pipeline may have.

    >>> identifier("My Project_2"), identifier("9 lives")
    ('my-project-2', 'p-9-lives')
    """
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "project"
    return plain if plain[0].isalpha() else f"p-{plain}"


def _holding(locks: dict[str, str], package: str) -> str:
    return next((name for name, text in locks.items() if re.search(rf"^{package}==", text, re.MULTILINE)), "")


def needed_locks(found: Detected) -> dict[str, tuple[str, ...]]:
    """Locks that have to be made, each with the requirements it is made from besides the project's own."""
    needed: dict[str, tuple[str, ...]] = {}
    if found.tests and not found.lock:
        needed[LOCK] = ("pytest",)
    if found.build_requires and not found.build_lock:
        needed[BUILD_LOCK] = ("build", *found.build_requires)
    return needed


def text(found: Detected) -> str:
    """The pipeline file."""
    tests_lock, build_lock = found.lock or LOCK, found.build_lock or BUILD_LOCK
    apart = ("delivery.py", *((tests_lock,) if found.tests else ()), *((build_lock,) if found.build_requires else ()))
    imports = ["from pipeline import Pipeline", "from stages.bandit import Bandit", "from stages.ruff import Lint"]
    lines = [
        "# The working copy, and each lock on its own, so that an edit runs only what it touches.",
        f"source = WorkingCopy(exclude={_tuple(apart)})",
    ]
    names, checks = (
        ["source"],
        ["Check(evidence=lint, rule=no_findings)", "Check(evidence=scan, rule=MaxFindings(severity=Severity.MEDIUM))"],
    )
    if found.tests:
        lines += [f'test_lock = WorkingCopy(include=("{tests_lock}",))']
        names += ["test_lock", "environment"]
    if found.build_requires:
        lines += [f'build_lock = WorkingCopy(include=("{build_lock}",))']
        names += ["build_lock", "build_environment"]
    lines += [""]
    if found.tests:
        imports += ["from stages.environment import PythonEnvironment", "from stages.pytest import UnitTests"]
        lines += [
            f'environment = PythonEnvironment(source=test_lock, lock="{tests_lock}")',
            f'unit = UnitTests(source=source, environment=environment, tests=("{found.tests}",), paths=("{found.sources}",))',
        ]
        names += ["unit"]
        checks.insert(0, "Check(evidence=unit, rule=all_passed)")
    lines += ["lint = Lint(source=source)", f"scan = Bandit(source=source, paths={_tuple(found.code)})"]
    names += ["lint", "scan"]
    if found.types and found.tests:
        imports += ["from stages.mypy import TypeCheck"]
        lines += [f"types = TypeCheck(source=source, environment=environment, paths={_tuple(found.code)})"]
        names += ["types"]
        checks.append("Check(evidence=types, rule=no_findings)")
    return _assemble(found, imports, lines, names, checks, build_lock)


def _assemble(found: Detected, imports: list[str], lines: list[str], names: list[str], checks: list[str], build_lock: str) -> str:
    rules = {"Check", "MaxFindings", "Severity", "no_findings"} | ({"all_passed"} if found.tests else set())
    listed = [f"    {check}," for check in checks]
    if found.build_requires:
        rules |= {"QualityGate"}
        imports += ["from stages.environment import PythonEnvironment", "from stages.wheel import BuildDistributions"]
        lines += [
            "",
            "# What passes the gate may be released.",
            f'build_environment = PythonEnvironment(source=build_lock, lock="{build_lock}")',
            "wheel = BuildDistributions(source=source, environment=build_environment)",
            "checks = (", *listed, ")",
            "gate = QualityGate(artifact=wheel, checks=checks)",
        ]  # fmt: skip
        names += ["wheel", "checks", "gate"]
    else:
        lines += ["", "checks = (", *listed, ")"]
        names += ["checks"]
    imports += [f"from gates import {', '.join(sorted(rules))}", "from stages.source import WorkingCopy"]
    return "\n".join(
        [
            f'"""The delivery pipeline of {found.name}: python -m pipeline run."""',
            "",
            *sorted(set(imports)),
            "",
            *lines,
            "",
            "pipeline = Pipeline(",
            f'    "{found.name}",',
            *(f"    {name}={name}," for name in names),
            ")",
            "",
        ]
    )
