"""The Dagger engine: every action in a container of its own.

The SDK is imported here and only here, when a run opens the engine. One session serves the whole run.
An action is executed whenever this library asks for it: what need not be executed again was decided
before, so Dagger's own cache of commands is passed by (its cache of images and uploads is not).

Dagger's API has no switch for a container's network, but the Dockerfiles it builds have one. So an action
without network is the one `RUN --network=none` of a Dockerfile, and any other is a `with_exec`; both run
`in_container.sh`, which sees for itself whether there is a network.

A container that the engine starts in the very moment in which it is told to cancel may go on for good. So each
looks every second for a file of its own in a volume, and ends when that is there; not those in which a Dockerfile of
the project is built. For actions that were cut off the next container puts it there, and one that does nothing else
before the session ends. What is a volume of Dockerfiles is none of other containers, so there are two.
"""

from __future__ import annotations

import base64
import contextlib
import gc
import io
import json
import os
import posixpath
import re
import shlex
import shutil
import sys
import tarfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import AsyncExitStack
from importlib import metadata
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self, TextIO

import anyio

from pipeline import digest
from pipeline.action import Action, ActionResult, Network
from pipeline.data import Blob, Tree
from pipeline.engine import Listener
from pipeline.engines.choose import RUNNER, answers, local_engine
from pipeline.engines.cli_session import CliSession
from pipeline.engines.layout import check_layout
from pipeline.engines.log import Log
from pipeline.engines.network import CERTIFICATES, names_user, network_environment, passwords
from pipeline.engines.outputs import collect, led_to
from pipeline.errors import EngineError
from pipeline.scratch import Scratch, sweep
from pipeline.service import Service, fill
from pipeline.store import Entry, Store

if TYPE_CHECKING:
    import dagger

WORK = "/work"
OUT, ANSWER, SCRIPT, ENDED = "/lockgate/out", "/lockgate/answer", "/lockgate/command.sh", "/lockgate/ended"
AUTHORITIES = "/lockgate/authorities"
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
ENDS = 5.0
"""Seconds in which those that were cut off are told to end."""
FEW, SMALL = 32, 64 * 1024
"""Files of an action, and bytes of an input, that travel within the query: an upload costs a third of a second, however small."""
HERE = Path(__file__).parent


class Ending(NamedTuple):
    """By which name a container is told to end, one that no other has, and which others it tells."""

    name: str
    others: frozenset[str]

    def watched(self) -> str:
        """The command that has the container end once it is told. No child of whoever runs it, who may wait for all of those."""
        watching = f"while [ ! -e {ENDED}/{self.name} ]; do sleep 1 || exit; done; kill -9 0"
        return f"( {{ {watching}; }} > /dev/null 2>&1 < /dev/null & )"

    def told(self) -> str:
        """The command that tells them, leaves word that it did, and forgets those of an hour ago."""
        if not self.others:
            return ":"
        files = " && ".join(f"true > {ENDED}/{name}" for name in sorted(self.others))
        return f"({files} && mkdir -p {OUT} && true > {OUT}/told; find {ENDED} -type f -mmin +60 -delete) > /dev/null 2>&1"


class DaggerEngine:
    """Executes actions in containers. `image` is for actions that name none."""

    name = "dagger"

    def __init__(self, store: Store, home: Path, secret: Callable[[str], str], *, image: str) -> None:
        self._store, self._home, self._secret, self._image = store, home, secret, image
        self._stack = AsyncExitStack()
        self._client: dagger.Client | None = None
        self._cut_off: dict[bool, dict[str, str]] = {False: {}, True: {}}
        """Names and images of containers that may go on although they were cancelled, without a network and with one."""

    @property
    def platform(self) -> str:
        return f"image:{self._image}"

    async def __aenter__(self) -> Self:
        where_to_find_it(os.environ)
        async with AsyncExitStack() as stack:
            log = stack.enter_context((self._home / "dagger.log").open("a", encoding="utf-8"))
            with _kept():
                self._client = await self._connect(stack, log)
            self._stack = stack.pop_all()
        await anyio.to_thread.run_sync(sweep)
        await anyio.to_thread.run_sync(self._store.sweep)
        return self

    async def _connect(self, stack: AsyncExitStack, log: TextIO) -> dagger.Client:
        """A client in the session this process runs in, or in one of its own that opens while the SDK is imported."""
        program = None if os.environ.get("DAGGER_SESSION_PORT") else os.environ.get(CLI)
        try:
            session = await stack.enter_async_context(CliSession(program, log)) if program else None
            import dagger

            config = dagger.Config(log_output=log, retry=dagger.Retry(execute=False))
        except ImportError as error:
            raise EngineError("the Dagger SDK is not installed", next="pip install 'dagger-io>=0.20.1,<0.22'") from error
        except OSError as error:
            raise _unreachable(error, self._home / "dagger.log") from error
        try:
            with anyio.fail_after(CONNECT):
                with _environment(await session.address() if session else {}):
                    client: dagger.Client = await stack.enter_async_context(dagger.Connection(config))
                version = await client.version()
        except (dagger.DaggerError, OSError, TimeoutError) as error:
            raise _unreachable(error, self._home / "dagger.log") from error
        _check_version(version)
        return client

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            with anyio.CancelScope(shield=True), anyio.move_on_after(ENDS):
                async with anyio.create_task_group() as group:
                    for network in (network for network, names in self._cut_off.items() if names):
                        group.start_soon(self._end, network)
        finally:
            await self._stack.__aexit__(kind, error, trace)  # a session ends sooner after an error

    async def _end(self, network: bool) -> None:
        """Have containers end that were cut off, by one that only gives them the time to look."""
        import dagger

        image = next(iter(self._cut_off[network].values()))
        if self._client is not None:
            with contextlib.suppress(dagger.DaggerError, EngineError, OSError), Scratch() as scratch:  # the run has ended anyway
                await self._ran(self._client, Action(argv=("sleep", "1"), network=network, image=image), scratch.path)

    async def execute(self, action: Action, log: Path, listen: Listener) -> ActionResult:
        import dagger

        if self._client is None:
            raise EngineError("the engine was not entered", right="async with engine")
        started = time.monotonic()
        with Scratch() as scratch:
            place = scratch.path / "out"
            place.mkdir()
            try:
                if action.dockerfile:
                    await self._build(self._client, action, place)
                else:
                    await self._ran(self._client, action, place)
            except dagger.DaggerError as error:
                raise self._not_executed(action, error) from error
            return await anyio.to_thread.run_sync(self._read, action, place, log, listen, started)

    async def _ran(self, client: dagger.Client, action: Action, place: Path) -> None:
        """Run the command of an action in a container, and leave in `place` what came of it."""
        cut_off = self._cut_off[_reaches(action)]
        ending = Ending(uuid.uuid4().hex, frozenset(cut_off))
        container = await anyio.to_thread.run_sync(self._container, client, action, ending)
        try:
            await _fetch(container, place)
        except anyio.get_cancelled_exc_class():
            cut_off[ending.name] = action.image
            raise
        if (place / "told").exists():
            for name in ending.others:
                cut_off.pop(name, None)

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

    def _container(self, client: dagger.Client, action: Action, ending: Ending) -> dagger.Container:
        """The container in which the command has run; nothing happens before something of it is asked for."""
        check_layout(self._store, inputs=action.inputs, tools=action.tools, caches=action.caches)
        laid_out = self._laid_out(client, action.inputs, action.tools)
        with_its_kind = self._with_exec if _reaches(action) else self._with_run
        return with_its_kind(client, action, ending, laid_out)

    def _with_run(self, client: dagger.Client, action: Action, ending: Ending, context: dagger.Directory) -> dagger.Container:
        """The command as the one RUN of a Dockerfile, without network."""
        mounts = [f"--mount=type=bind,source=command.sh,target={SCRIPT}"]
        mounts.append(f"--mount=type=cache,id=lockgate-ended,target={ENDED}")
        if action.inputs or action.tools:
            mounts.append(f"--mount=type=bind,source={WORK[1:]},target={WORK},rw")
        for number, cache in enumerate(action.caches.values()):
            mounts.append(f"--mount=type=cache,id=lockgate-{digest.of_text(cache)},target={_cache(number)}")
        secrets: list[dagger.Secret] = []
        for variable, secret in action.secrets.items():
            known = digest.of_text(secret)
            mounts.append(f"--mount=type=secret,id={known},env={variable},required=true")
            secrets.append(client.set_secret(known, self._secret(secret)))
        run = f"RUN --network=none {' '.join(mounts)} {json.dumps(['sh', SCRIPT])}"
        context = context.with_new_file("command.sh", _script(action, ending, BASE, {}))
        context = context.with_new_file("Dockerfile", f"FROM {action.image or self._image}\n{run}\n")
        return context.docker_build(secrets=secrets)

    def _with_exec(self, client: dagger.Client, action: Action, ending: Ending, laid_out: dagger.Directory) -> dagger.Container:
        """The command in a container with a network and its services."""
        container = self._from(client, action.image, laid_out, mounted=bool(action.inputs or action.tools))
        for number, cache in enumerate(action.caches.values()):
            container = container.with_mounted_cache(_cache(number), client.cache_volume(f"lockgate-{cache}"))
        container, found = _with_services(container, self._services(client, action.services, ending))
        environment = BASE
        if action.network:
            container, more = _with_network(client, container)
            environment = BASE | more
        for variable, secret in action.secrets.items():
            known = client.set_secret(digest.of_text(secret), self._secret(secret))
            container = container.with_secret_variable(variable, known)
        if any(service.ready for service in action.services):
            container = container.with_new_file("/lockgate/ready.py", (HERE / "ready.py").read_text())
        return container.with_new_file(SCRIPT, _script(action, ending, environment, found)).with_exec(["sh", SCRIPT])

    def _services(
        self, client: dagger.Client, services: tuple[Service, ...], ending: Ending
    ) -> list[tuple[Service, dagger.Service]]:
        """The services, each of them bound to those before it. They end with their action."""
        bound: list[tuple[Service, dagger.Service]] = []
        for service in services:
            bound.append((service, self._service(client, service, ending, bound)))
        return bound

    def _service(
        self, client: dagger.Client, service: Service, ending: Ending, before: list[tuple[Service, dagger.Service]]
    ) -> dagger.Service:
        check_layout(self._store, inputs=service.inputs, tools=service.tools)
        laid_out = self._laid_out(client, service.inputs, service.tools)
        for name in (BASE["HOME"], BASE["TMPDIR"]):  # an engine with authorities of its own needs them before the command starts
            laid_out = laid_out.with_new_directory(name[1:], permissions=0o777)
        container, found = _with_services(self._from(client, service.image, laid_out, mounted=True).with_workdir(WORK), before)
        everywhere = "0.0.0.0"  # noqa: S104 # nosec B104 - inside a container of its own
        container = _with_env(container, {**BASE, **found, "PORT": str(service.port), "HOST": everywhere, **service.env}, found)
        prepared = ["sh", "-c", f'{ending.watched()}; exec "$@"', "service"]
        return container.with_exposed_port(service.port).as_service(
            args=[*prepared, *(fill(part, WORK, found) for part in service.argv)]
        )

    def _from(self, client: dagger.Client, image: str, laid_out: dagger.Directory, *, mounted: bool) -> dagger.Container:
        container = client.container().from_(image or self._image)
        container = container.with_mounted_cache(ENDED, client.cache_volume("lockgate-ended"))
        return container.with_mounted_directory(WORK, laid_out.directory(WORK[1:])) if mounted else container

    def _laid_out(self, client: dagger.Client, inputs: Mapping[str, Tree | Blob], tools: Mapping[str, Tree]) -> dagger.Directory:
        """A directory that holds WORK: a few small text files come within the query, anything else as an upload.

        Tools first: what many actions have in common is then laid out once.
        """
        directory, few = client.directory(), FEW
        for path, content in {**tools, **inputs}.items():
            place = PurePosixPath(WORK[1:], path)
            texts = _texts(self._store, content, few)
            if texts:
                few -= len(texts)
                for entry, text in texts:
                    mode = 0o755 if entry.kind == "executable" else 0o644
                    directory = directory.with_new_file(str(place / entry.path), text, permissions=mode)
            elif isinstance(content, Tree):
                directory = directory.with_directory(str(place), client.host().directory(str(self._store.shared(content))))
            else:
                directory = directory.with_file(
                    str(place), client.host().file(str(self._store.checked(content))), permissions=0o644
                )
        return directory

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
        with _left(place, "log").open("rb") as read, log.open("wb") as file:
            network = network_environment(os.environ) if action.network else {}
            said = Log(file, [*map(self._secret, action.secrets.values()), *passwords(network)], listen)
            while piece := read.read(1 << 16):
                said.write(piece)
            said.end()
        refused: Network = "refused" if (place / "refused").exists() else "not enforced"
        return ActionResult(
            action=action,
            exit_code=int(_left(place, "code").read_text()),
            log=log,
            tail=said.tail.decode(errors="replace"),
            outputs=collect(action, _left(place, "files"), self._store),
            seconds=time.monotonic() - started,
            network="allowed" if action.network else refused,
        )


def _left(place: Path, name: str) -> Path:
    """What `in_container.sh` left under a name. The command could put a link there, to a file of this machine."""
    found = led_to(place, name)
    if found is None or found.is_dir() != (name == "files"):
        raise EngineError(f"the container brought back no {name}", right=f"{OUT}/{name} as it was written")
    return found


async def _fetch(container: dagger.Container, place: Path) -> None:
    """Run the command and bring what it left to `place`: by one line of text where that holds all, else as a directory."""
    answer = await container.file(ANSWER).contents()
    if not answer.strip():
        await container.directory(OUT).export(str(place))
        return
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(answer))) as archive:
        archive.extractall(place, members=_plain(archive), filter="tar")  # nosec B202 - a filter is set


def _plain(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members of an archive. Raises EngineError for one that would be laid, or is to be found, through a link to elsewhere.

    The command could put another `tar` in the place of the container's own, and not every Python refuses all of this.
    """
    links, files = set[str](), set[str]()
    for member in archive:
        name = posixpath.normpath(member.name)
        way = {"/".join(name.split("/")[:depth]) for depth in range(1, name.count("/") + 2)}
        if not links.isdisjoint(way) or (member.islnk() and posixpath.normpath(member.linkname) not in files):
            raise EngineError(f"the container brought back {member.name!r}, which leads elsewhere", right="files of its own")
        (links if member.issym() else files).add(name)
        yield member


def _reaches(action: Action) -> bool:
    """Whether its container has a network: a service could not be reached without one."""
    return bool(action.network or action.services)


def _script(action: Action, ending: Ending, environment: Mapping[str, str], found: Mapping[str, str]) -> str:
    """`in_container.sh` with its words. No two are equal, so that none is taken for one that ran before."""
    env = {**environment, **found, **{name: fill(value, WORK, found) for name, value in action.env.items()}}
    ready = [_readiness(service) for service in action.services if service.ready]
    within = max((service.within for service in action.services), default=0.0)
    words = [" ".join([f"{within:g}", *ready]) if ready else "", action.cwd, *action.outputs, "--"]
    words += [*(f"{name}={value}" for name, value in env.items()), *(fill(part, WORK, found) for part in action.argv)]
    before = [ending.watched(), ending.told()]
    for number, path in enumerate(action.caches):
        place = PurePosixPath(WORK, path)
        before.append(
            shlex.join(["mkdir", "-p", str(place.parent)]) + "\n" + shlex.join(["ln", "-s", _cache(number), str(place)])
        )
    body = (HERE / "in_container.sh").read_text(encoding="utf-8")
    return "\n".join([*before, f"set -- {shlex.join(words)}", body])


def _cache(number: int) -> str:
    """Where the cache of this number is mounted; a link leads there, as it does on the host."""
    return f"/lockgate/caches/{number}"


def _texts(store: Store, content: Tree | Blob, few: int) -> list[tuple[Entry, str]] | None:
    """The files of a small tree, or a small file under the empty path, as text; None for what a query cannot carry."""
    if content.size > SMALL or (content.files if isinstance(content, Tree) else 1) > few:
        return None
    entries = store.entries(content) if isinstance(content, Tree) else (Entry("", "file", content.digest, content.size),)
    if any(entry.kind == "link" for entry in entries):
        return None
    try:
        return [(entry, store.read(Blob(digest=entry.target, size=entry.size)).decode()) for entry in entries]
    except UnicodeDecodeError:
        return None


@contextlib.contextmanager
def _kept() -> Iterator[None]:
    """What the SDK makes when it is imported lives as long as the process: the garbage collector need not look through it."""
    if "dagger" in sys.modules:
        yield
        return
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """These variables, for as long as the SDK reads them."""
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]


def where_to_find_it(environment: MutableMapping[str, str]) -> None:
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
    return container, found


def _with_network(client: dagger.Client, container: dagger.Container) -> tuple[dagger.Container, dict[str, str]]:
    """Proxies and indexes as variables, those with a password as secrets; certificate authorities as files.

    These get a place of their own: where they lie here, a container may have something else (`/dev/shm`, `/tmp`).
    """
    found = network_environment(os.environ)
    for name, value in list(found.items()):
        if name in CERTIFICATES and Path(value).is_file():
            found[name] = f"{AUTHORITIES}/{name}"
            container = container.with_mounted_file(found[name], client.host().file(value))
        elif name in CERTIFICATES:
            del found[name]
        elif names_user(value):  # what is set as a variable is to be read in the engine's log
            secret = client.set_secret(digest.of_text(f"network {name}"), found.pop(name))
            container = container.with_secret_variable(name, secret)
    return container, found


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
