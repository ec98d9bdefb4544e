"""Which engine a run uses, and why; cheap, without importing any."""

from __future__ import annotations

import errno
import importlib.util
import os
import socket
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import EngineError
from pipeline.project import Project
from pipeline.store import Store

if TYPE_CHECKING:
    from pipeline.engine import Engine

RUNNER = "_EXPERIMENTAL_DAGGER_RUNNER_HOST"
ABSENT = os.strerror(errno.ENOENT).lower()
"""What `refusal` says of a socket that is not there."""


@dataclass(frozen=True)
class Choice:
    """The engine by name, and the reason as it is shown and journalled."""

    name: str
    reason: str


def choose(asked: str, environment: Mapping[str, str]) -> Choice:
    """`asked` is host, dagger or auto. Raises EngineError when dagger is asked for and cannot be had."""
    if asked == "host":
        return Choice("host", "as asked")
    found = runner(environment)
    if asked == "dagger":
        if found is None:
            named = environment.get(RUNNER, "")
            raise EngineError(
                f"no Dagger engine can be reached: {lacking(environment)}",
                right="an engine that answers there, or the variable unset"
                if named
                else f"a runner in {RUNNER}, a running container runtime, or an engine on {local_engine()}",
                next="python -m pipeline doctor",
            )
        if importlib.util.find_spec("dagger") is None:
            raise EngineError("the Dagger SDK is not installed", next="pip install 'dagger-io>=0.20.1,<0.22'")
        return Choice("dagger", found)
    if found is None:
        return Choice("host", lacking(environment))
    if importlib.util.find_spec("dagger") is None:
        return Choice("host", f"{found}, but the Dagger SDK is not installed")
    return Choice("dagger", found)


def runner(environment: Mapping[str, str]) -> str | None:
    """Where a Dagger engine is to be had, in words; None where there is none."""
    if environment.get("DAGGER_SESSION_PORT"):
        return "this process runs inside a Dagger session"
    named = environment.get(RUNNER, "")
    if named.startswith("unix://") and not answers(Path(named.removeprefix("unix://"))):
        return None  # the CLI would try for ten minutes
    if named:
        return f"{RUNNER} is {named}"
    if answers(local_engine()):
        return f"an engine listens on {local_engine()}"
    for place in container_sockets(environment):
        if answers(place):
            return f"a container runtime answers on {place}"
    return None


def lacking(environment: Mapping[str, str]) -> str:
    """What was tried where `runner` finds none, and why it does not do."""
    named = environment.get(RUNNER, "")
    if named:
        why = refusal(Path(named.removeprefix("unix://")))
        return f"nothing answers at {named}, which {RUNNER} names: {why}"
    places = dict.fromkeys([local_engine(), *container_sockets(environment)])
    refused = [f"{place}: {why}" for place in places if (why := refusal(place)) not in ("", ABSENT)]
    return "; ".join(refused) or "no Dagger runner is configured and no container runtime answers"


def local_engine() -> Path:
    """The socket an engine started on this machine listens on by default."""
    return Path("/run/dagger/engine.sock")


def container_sockets(environment: Mapping[str, str]) -> list[Path]:
    """Where Docker and Podman listen."""
    host = environment.get("DOCKER_HOST", "")
    named = [Path(host.removeprefix("unix://"))] if host.startswith("unix://") else []
    run = Path(environment.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}"))
    return [*named, Path("/var/run/docker.sock"), run / "docker.sock", run / "podman/podman.sock"]


def answers(place: Path) -> bool:
    """Whether something accepts connections on a Unix socket."""
    return not refusal(place)


def refusal(place: Path) -> str:
    """Why a Unix socket cannot be used, in the system's words; empty where something accepts connections."""
    try:
        if not stat.S_ISSOCK(place.stat().st_mode):
            return "not a socket"
        with socket.socket(socket.AF_UNIX) as handle:
            handle.settimeout(0.5)
            handle.connect(str(place))
        return ""
    except OSError as error:
        return (error.strerror or str(error)).lower()


def platform_of(name: str, project: Project) -> str:
    """The platform string of an engine before it is opened, for planning."""
    if name == "host":
        from pipeline.engines.platform import host_platform

        return host_platform()
    return f"image:{default_image(project)}"


def default_image(project: Project) -> str:
    """The image of actions that name none: the project's, or the slim Python image of the running version."""
    import sys

    return project.settings.image or f"python:{sys.version_info[0]}.{sys.version_info[1]}-slim"


def open_engine(name: str, project: Project, store: Store) -> Engine:
    """The engine, not yet entered."""
    if name == "host":
        from pipeline.engines.host import HostEngine

        return HostEngine(store, project.home, project.secret)
    from pipeline.engines.dagger import DaggerEngine

    return DaggerEngine(store, project.home, project.secret, image=default_image(project))
