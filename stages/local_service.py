"""A service kept running on this machine between runs: a database for a local environment."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import ClassVar

import anyio

from pipeline import Effect, Retry, Service, Stage, StageFailed, Store, Work
from pipeline.engines.layout import check_layout
from pipeline.engines.local import free_port, isolated_python, search_path
from pipeline.service import ROOT
from stages.delivery import process
from stages.delivery.lock import alone
from stages.delivery.model import Address, Binding


class Kept(Address):
    """Where a service that stays listens, and the directory in which it keeps what it writes."""

    data: str


class LocalService(Stage[Kept]):
    """Starts `service` as a process that outlives the run, unless it runs already; what it writes is kept in `data`.

    `keep` names environment variables of the service that point into the data directory, with the path below it.
    Every user of this machine can reach its port: whom it lets in is the service's own matter, as PostgresService's.
    """

    effect: ClassVar[Effect] = Effect.RETRYABLE

    service: Stage[Service]
    keep: tuple[tuple[str, str], ...] = ()
    retry: Retry = Retry(times=2)
    """Its port was free when it was chosen, and may be somebody else's when the service listens."""

    async def run(self, work: Work) -> Kept:
        service = work[self.service]
        state = work.state(f"service/{service.name}")
        async with alone(state, work.say):
            found = next(process.running(mark(state)), None)
            if found is None:
                port = free_port()
                await anyio.to_thread.run_sync(lay_out, service, state, work.store)
                argv, env = command(service, state, port, isolated_python(work.project.home / "python"), dict(self.keep))
                await process.start(mark(state), argv, env, cwd=state, log=state / "log")
                found = next(process.running(mark(state)), None)
            port = int(found.env["PORT"]) if found else 0
            address = Kept(host="127.0.0.1", port=port, data=str(state / "data"))
            await wait(service, address, state)
        return address


class Bound(Stage[Binding]):
    """The address of a service as an environment variable: `template` with `{host}` and `{port}` filled in.

    Of a LocalService `{data}` is filled in too. The value is kept with the results of the run: to hand on a password,
    name the file that holds it.
    """

    effect: ClassVar[Effect] = Effect.RETRYABLE

    address: Stage[Address]
    variable: str
    template: str

    async def run(self, work: Work) -> Binding:
        return Binding(variable=self.variable, value=self.template.format(**work[self.address].model_dump()))


def mark(state: Path) -> str:
    """What the process of the service is found by."""
    return f"{state}:"


def lay_out(service: Service, state: Path, store: Store) -> None:
    """Fresh copies of what the service needs; its data stay. Raises EngineError where they would lead into each other."""
    check_layout(store, inputs=service.inputs, tools=service.tools)
    root = state / "root"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    (root / ".home").mkdir()
    (root / ".tmp").mkdir()
    (state / "data").mkdir(exist_ok=True)
    for path, content in {**service.inputs, **service.tools}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        store.lay_out(content, root / path)


def command(
    service: Service, state: Path, port: int, python: Path, keep: dict[str, str]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The command line and environment of the service. Pure."""
    root = str(state / "root")
    base = {
        "PATH": search_path(python),
        "HOME": f"{root}/.home",
        "TMPDIR": f"{root}/.tmp",
        "LANG": "C.UTF-8",
    }
    own = {name: value.replace(ROOT, root) for name, value in service.env.items()}
    kept = {name: str(state / "data" / path) for name, path in keep.items()}
    argv = tuple(part.replace(ROOT, root) for part in service.argv)
    return argv, {**base, **own, **kept, "HOST": "127.0.0.1", "PORT": str(port)}


async def wait(service: Service, address: Address, state: Path) -> None:
    """Return once the service answers. Raises StageFailed with the end of its log."""
    from pipeline.engines.sandbox import answers

    probe = {"ready": service.ready, "port": address.port}
    with anyio.move_on_after(service.within):
        while (found := next(process.running(mark(state)), None)) is not None:
            if process.listens(found, address.port) and await anyio.to_thread.run_sync(answers, probe):
                return
            await anyio.sleep(0.05)
    words = (state / "log").read_text(errors="replace").strip().splitlines()
    raise StageFailed(f"{service.name} does not serve: {words[-1] if words else 'it said nothing'}", where=str(state / "log"))
