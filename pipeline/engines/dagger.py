"""The Dagger engine: every action in a container of its own.

The SDK is imported here and only here, when a run opens the engine. One session serves the whole run.
An action is executed whenever this library asks for it: what need not be executed again was decided
before, so Dagger's own cache of commands is passed by (its cache of images and uploads is not).
"""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
import tarfile
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Self

import anyio

from pipeline.action import Action, ActionResult, Output
from pipeline.data import Blob, Tree
from pipeline.engine import Listener
from pipeline.engines.choose import RUNNER, answers, local_engine
from pipeline.engines.network import CERTIFICATES, network_environment
from pipeline.errors import EngineError
from pipeline.masking import Masker
from pipeline.service import Service, fill
from pipeline.store import Entry, Store

if TYPE_CHECKING:
    import dagger

WORK = "/work"
OUT, ANSWER = "/lockgate/out", "/lockgate/answer"
CLI = "_EXPERIMENTAL_DAGGER_CLI_BIN"
BASE = {
    "LANG": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONNOUSERSITE": "1",
    "HOME": f"{WORK}/.home",
    "TMPDIR": f"{WORK}/.tmp",
}
CONNECT = 60.0
"""Seconds until a session must be there; the CLI on its own would try for ten minutes."""
TAIL = 4096
FEW, SMALL = 32, 64 * 1024
"""Files and bytes up to which a tree travels within the query: an upload costs a third of a second, however small."""
HERE = Path(__file__).parent


class DaggerEngine:
    """Executes actions in containers. `image` is for actions that name none."""

    name = "dagger"

    def __init__(self, store: Store, home: Path, secret: Callable[[str], str], *, image: str) -> None:
        self._store, self._home, self._secret, self._image = store, home, secret, image
        self._stack = AsyncExitStack()
        self._client: dagger.Client | None = None

    @property
    def platform(self) -> str:
        return f"image:{self._image}"

    async def __aenter__(self) -> Self:
        try:
            import dagger
        except ImportError as error:
            raise EngineError("the Dagger SDK is not installed", next="pip install 'lockgate[dagger]'") from error
        log = self._stack.enter_context((self._home / "dagger.log").open("a", encoding="utf-8"))
        config = dagger.Config(log_output=log, retry=dagger.Retry(execute=False))
        where_to_find_it(os.environ)
        try:
            with anyio.fail_after(CONNECT):
                client = await self._stack.enter_async_context(dagger.Connection(config))
                version = await client.version()
        except (dagger.DaggerError, OSError, TimeoutError) as error:
            await self._stack.aclose()
            raise _unreachable(error, self._home / "dagger.log") from error
        _check_version(version)
        self._client = client
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stack.aclose()

    async def execute(self, action: Action, log: Path, listen: Listener) -> ActionResult:
        import dagger

        if self._client is None:
            raise EngineError("the engine was not entered", right="async with engine")
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="lockgate-", ignore_cleanup_errors=True) as place:
            try:
                if action.dockerfile:
                    await self._build(self._client, action, Path(place))
                else:
                    container = await anyio.to_thread.run_sync(self._container, self._client, action)
                    await _fetch(container, place)
            except dagger.DaggerError as error:
                raise self._not_executed(action, error) from error
            return await anyio.to_thread.run_sync(self._read, action, Path(place), log, listen, started)

    async def _build(self, client: dagger.Client, action: Action, place: Path) -> None:
        """Build the action's Dockerfile and leave in `place` what a command would have left; a build that fails is a result."""
        import dagger

        (context,), (output,) = action.inputs.values(), action.outputs
        if not isinstance(context, Tree):
            raise EngineError("the input of a Dockerfile is a file", right="a tree, the build's context")
        directory = client.host().directory(str(await anyio.to_thread.run_sync(self._store.shared, context)))
        archive = place / "files" / output
        archive.parent.mkdir(parents=True)
        code, said = 0, f"built {action.dockerfile}"
        try:
            await directory.docker_build(dockerfile=action.dockerfile).as_tarball().export(str(archive))
        except dagger.QueryError as error:
            code, said = 1, re.sub(r" \[traceparent:[^]]*\]", "", str(error))
        (place / "code").write_text(str(code))
        (place / "log").write_text(f"{said}\n")

    def _container(self, client: dagger.Client, action: Action) -> dagger.Container:
        """The container in which the command has run; nothing happens before something of it is asked for."""
        container = self._laid_out(client, action.image, action.inputs, action.tools)
        if action.network:
            container = _with_network(client, container)
        for path, cache in action.caches.items():
            container = container.with_mounted_cache(f"{WORK}/{path}", client.cache_volume(f"lockgate-{cache}"))
        ready = [_readiness(service) for service in action.services if service.ready]
        bound = self._services(client, action.services)
        container, found = _with_services(container, bound)
        container = _with_env(container, action.env, found)
        for variable, name in action.secrets.items():
            container = container.with_secret_variable(variable, client.set_secret(name, self._secret(name)))
        if ready:
            within = max(service.within for service in action.services)
            container = container.with_env_variable("LOCKGATE_READY", " ".join([f"{within:g}", *ready]))
        command = [fill(part, WORK, found) for part in action.argv]
        return container.with_env_variable("LOCKGATE_ATTEMPT", uuid.uuid4().hex).with_exec(
            ["sh", "/lockgate/run.sh", action.cwd, *action.outputs, "--", *command]
        )

    def _services(self, client: dagger.Client, services: tuple[Service, ...]) -> list[tuple[Service, dagger.Service]]:
        """The services, each of them bound to those before it."""
        bound: list[tuple[Service, dagger.Service]] = []
        for service in services:
            bound.append((service, self._service(client, service, bound)))
        return bound

    def _service(self, client: dagger.Client, service: Service, before: list[tuple[Service, dagger.Service]]) -> dagger.Service:
        container = self._laid_out(client, service.image, service.inputs, service.tools)
        container, found = _with_services(container, before)
        everywhere = "0.0.0.0"  # noqa: S104 # nosec B104 - inside a container of its own
        container = _with_env(container, {"PORT": str(service.port), "HOST": everywhere, **service.env}, found)
        container = container.with_env_variable("LOCKGATE_ATTEMPT", uuid.uuid4().hex)
        prepared = ["sh", "-c", f'unset LOCKGATE_ATTEMPT; mkdir -p {WORK}/.home {WORK}/.tmp; exec "$@"', "service"]
        return container.with_exposed_port(service.port).as_service(
            args=[*prepared, *(fill(part, WORK, found) for part in service.argv)]
        )

    def _laid_out(
        self, client: dagger.Client, image: str, inputs: Mapping[str, Tree | Blob], tools: Mapping[str, Tree]
    ) -> dagger.Container:
        container = (
            client.container()
            .from_(image or self._image)
            .with_new_file("/lockgate/run.sh", (HERE / "in_container.sh").read_text())
            .with_new_file("/lockgate/ready.py", (HERE / "ready.py").read_text())
            .with_workdir(WORK)
        )
        for path, content in {**inputs, **tools}.items():
            place = f"{WORK}/{path}"
            if isinstance(content, Tree):
                container = container.with_mounted_directory(place, self._directory(client, content))
            else:
                container = container.with_file(place, client.host().file(str(self._store.path(content))))
        return _with_env(container, BASE, {})

    def _directory(self, client: dagger.Client, tree: Tree) -> dagger.Directory:
        """A tree in the engine: a few small text files within the query, anything else as an upload."""
        entries = self._store.entries(tree) if tree.files <= FEW and tree.size <= SMALL else ()
        directory = client.directory()
        for entry in entries:
            text = _text(self._store, entry)
            if text is None:
                break
            mode = 0o755 if entry.kind == "executable" else 0o644
            directory = directory.with_new_file(entry.path, text, permissions=mode)
        else:
            if entries:
                return directory
        return client.host().directory(str(self._store.shared(tree)))

    def _not_executed(self, action: Action, error: Exception) -> EngineError:
        """The engine says little of a service that ended: name the services, and where their words are."""
        what = " ".join(action.argv[:4]) or action.dockerfile
        names = ", ".join(service.name for service in action.services)
        return EngineError(
            f"Dagger could not execute `{what}`{' beside ' + names if names else ''}: {_first(error)}",
            where=action.image or self._image,
            right="an image the engine can pull, with /bin/sh in it" + (f"; {names} listening on its port" if names else ""),
            next=f"see {self._home / 'dagger.log'}",
        )

    def _read(self, action: Action, place: Path, log: Path, listen: Listener, started: float) -> ActionResult:
        """What the command left, brought into the store; its log masked."""
        tail = _copy_log(place / "log", log, Masker([self._secret(name) for name in action.secrets.values()]), listen)
        outputs: dict[str, Output] = {}
        for path in action.outputs:
            found = place / "files" / path
            if found.exists():
                content = self._store.put_tree(found) if found.is_dir() else self._store.put_file(found)
                outputs[path] = Output(path, content, self._store)
        return ActionResult(
            action=action,
            exit_code=int((place / "code").read_text()),
            log=log,
            tail=tail.decode(errors="replace"),
            outputs=outputs,
            seconds=time.monotonic() - started,
            network="allowed" if action.network else "not enforced",
        )


async def _fetch(container: dagger.Container, place: str) -> None:
    """Run the command and bring what it left to `place`: by one line of text where that holds all, else as a directory."""
    answer = await container.file(ANSWER).contents()
    if not answer.strip():
        await container.directory(OUT).export(place)
        return
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(answer))) as archive:
        archive.extractall(place, filter="tar")  # nosec B202 - a filter is set, and it is our own action's


def _text(store: Store, entry: Entry) -> str | None:
    """The content of a file as text; None for a link and for other bytes, which a query cannot carry."""
    if entry.kind == "link":
        return None
    try:
        return store.read(Blob(digest=entry.target, size=entry.size)).decode()
    except UnicodeDecodeError:
        return None


def where_to_find_it(environment: os._Environ[str]) -> None:
    """Name the `dagger` on PATH, and an engine that listens on this machine, before the SDK downloads either."""
    program = shutil.which("dagger")
    if program is not None:
        environment.setdefault(CLI, program)
    if answers(local_engine()) and not environment.get("DAGGER_SESSION_PORT"):
        environment.setdefault(RUNNER, f"unix://{local_engine()}")


def _readiness(service: Service) -> str:
    """The URL that `ready.py` asks until the service is ready."""
    place = f"{service.name}:{service.port}"
    return f"postgresql://{place}" if service.ready == "postgresql" else f"http://{place}{service.ready}"


def _with_env(container: dagger.Container, env: Mapping[str, str], found: Mapping[str, str]) -> dagger.Container:
    for name, value in env.items():
        container = container.with_env_variable(name, fill(value, WORK, found))
    return container


def _with_services(
    container: dagger.Container, services: list[tuple[Service, dagger.Service]]
) -> tuple[dagger.Container, dict[str, str]]:
    """The container with the services bound to it, and the variables by which it finds them."""
    found: dict[str, str] = {}
    for service, running in services:
        container = container.with_service_binding(service.name, running)
        found |= service.address(service.name, service.port)
    return _with_env(container, found, {}), found


def _with_network(client: dagger.Client, container: dagger.Container) -> dagger.Container:
    """Proxies and indexes as variables; certificate authorities as files of the same name."""
    for name, value in network_environment(os.environ).items():
        if name in CERTIFICATES:
            if not Path(value).is_file():
                continue
            container = container.with_mounted_file(value, client.host().file(value))
        container = container.with_env_variable(name, value)
    return container


def _copy_log(source: Path, log: Path, masker: Masker, listen: Listener) -> bytes:
    """Copy a log in pieces, secrets masked; its last bytes."""
    tail = b""
    with source.open("rb") if source.exists() else io.BytesIO() as read, log.open("wb") as write:
        while piece := read.read(1 << 16):
            shown = masker.feed(piece)
            write.write(shown)
            listen(shown)
            tail = (tail + shown)[-TAIL:]
        rest = masker.end()
        write.write(rest)
        listen(rest)
    return (tail + rest)[-TAIL:]


def _check_version(engine: str) -> None:
    """SDK and engine speak to each other within one minor version. Raises EngineError otherwise."""
    sdk = metadata.version("dagger-io")
    if engine.lstrip("v").split(".")[:2] != sdk.split(".")[:2]:
        minor = ".".join(engine.lstrip("v").split(".")[:2])
        raise EngineError(
            f"the Dagger engine is {engine}, the SDK is {sdk}",
            right="one minor version for both",
            next=f"pip install 'dagger-io=={minor}.*', or start an engine v{sdk}",
        )


def _unreachable(error: Exception, log: Path) -> EngineError:
    return EngineError(
        f"no session with a Dagger engine: {_first(error)}",
        where=os.environ.get(RUNNER, "the engine the SDK starts"),
        right=f"a running engine in {RUNNER}; or a `dagger` program on PATH and a container runtime; or --engine host",
        next=f"python -m pipeline doctor; the engine's own words are in {log}",
    )


def _first(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
