"""What is particular to the Dagger engine: its session, the network of containers, and how a result is brought back."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from pipeline import Action, ActionResult, Blob, Service, Store, Tree
from pipeline.engines import dagger
from pipeline.engines.choose import RUNNER
from pipeline.engines.dagger import CLI, DaggerEngine
from pipeline.errors import EngineError
from tests.pipeline.engines.own_engine import HOMES, an_engine

IMAGE = f"python:{sys.version_info[0]}.{sys.version_info[1]}-slim"

REACH = """
import socket
server = next(line.split()[1] for line in open('/etc/resolv.conf') if line.startswith('nameserver'))
socket.create_connection((server, 53), 5)
print('reached')
"""
"""Connects to the name server that the engine runs for its containers."""

LOOPBACK = """
import socket
listener = socket.create_server(('127.0.0.1', 0))
socket.create_connection(listener.getsockname(), 5)
print('reached itself')
"""

SERVER = """
import http.server, os
http.server.HTTPServer((os.environ['HOST'], int(os.environ['PORT'])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""

CLIENT = "import os, urllib.request as u; print(u.urlopen(f\"http://{os.environ['WEB_HOST']}:{os.environ['WEB_PORT']}/\").status)"


def engine(home: Path) -> DaggerEngine:
    return DaggerEngine(Store(home / "store"), home, lambda name: name, image=IMAGE)


@pytest.fixture
def execute(dagger_engine: None, tmp_path: Path) -> Callable[..., ActionResult]:
    """Run one action in a session of its own; `change` is done to the engine before."""

    def run(action: Action, change: Callable[[Any], None] = lambda _: None) -> ActionResult:
        async def main() -> ActionResult:
            async with engine(tmp_path) as opened:
                change(opened)
                return await opened.execute(action, tmp_path / "log", lambda _: None)

        return anyio.run(main)

    return run


def command(program: str, **more: Any) -> Action:
    return Action(argv=("python", "-c", program), **more)


# network


def test_an_action_reaches_the_network_only_when_it_declares_it(execute: Callable[..., ActionResult]) -> None:
    allowed, refused = execute(command(REACH, network=True)), execute(command(REACH))
    assert (allowed.exit_code, allowed.network, allowed.tail) == (0, "allowed", "reached\n")
    assert (refused.exit_code, refused.network) == (1, "refused")
    assert "Network is unreachable" in refused.tail


def test_an_action_without_network_has_loopback_and_no_more_rights_than_another(execute: Callable[..., ActionResult]) -> None:
    rights = "print([line.split() for line in open('/proc/self/status') if line.startswith(('Cap', 'Seccomp:'))])"
    refused, allowed = execute(command(LOOPBACK + rights)), execute(command(LOOPBACK + rights, network=True))
    assert refused.exit_code == 0
    assert refused.tail == allowed.tail


def test_an_image_without_tools_of_its_own_is_enough(execute: Callable[..., ActionResult]) -> None:
    result = execute(Action(argv=("sh", "-c", "! command -v python3 && cat /proc/net/dev"), image="debian:bookworm-slim"))
    assert (result.exit_code, result.network) == (0, "refused")
    assert [line.split(":")[0].strip() for line in result.tail.splitlines()[2:]] == ["lo"]


def test_beside_services_the_network_stays_and_the_result_says_so(execute: Callable[..., ActionResult], tmp_path: Path) -> None:
    inputs: dict[str, Tree | Blob] = {"server.py": Store(tmp_path / "store").put(SERVER.encode())}
    web = Service(name="web", argv=("python", "-u", "server.py"), port=8000, inputs=inputs)
    result = execute(command(CLIENT, services=(web,)))
    assert (result.tail, result.network) == ("200\n", "not enforced")


def test_a_network_that_is_there_is_never_reported_as_refused(execute: Callable[..., ActionResult]) -> None:
    def leave_the_network(opened: Any) -> None:
        opened._with_run = opened._with_exec

    result = execute(command("open('/lockgate/out/refused', 'w')\n" + REACH), leave_the_network)
    assert (result.tail, result.network) == ("reached\n", "not enforced")


# commands and what they leave


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_a_command_runs_once_however_its_outputs_are_fetched(execute: Callable[..., ActionResult], size: int) -> None:
    count = f"echo again >> kept/runs; cat kept/runs; head -c {size} /dev/urandom > out"
    action = Action(argv=("sh", "-c", count), caches={"kept": f"test-{uuid.uuid4().hex}"}, outputs=("out",))
    first, second = execute(action), execute(action)
    assert (first.tail, second.tail) == ("again\n", "again\nagain\n")
    assert first.output("out").blob.size == size
    assert first.output("out").blob != second.output("out").blob


@pytest.mark.parametrize(
    "command",
    [
        "rm {out}/log; ln -s {secret} {out}/log",
        "rmdir {out}/files; ln -s {secret} {out}/files",
        "mv {out} /lockgate/kept; ln -s /nowhere {out}",
    ],
)
def test_a_command_that_replaces_what_is_brought_back_has_nothing_of_this_machine_read(
    execute: Callable[..., ActionResult], tmp_path: Path, command: str
) -> None:
    (tmp_path / "secret").write_text("of this machine")
    shell = command.format(out=dagger.OUT, secret=tmp_path / "secret")
    with pytest.raises(EngineError, match=r"is a link out|brought back no|could not execute"):
        execute(Action(argv=("sh", "-c", shell), outputs=("secret",)))
    assert not (tmp_path / "log").exists() or "of this machine" not in (tmp_path / "log").read_text()


OWN_TAR = """
import os, pathlib, sys
pathlib.Path('/usr/local/bin/tar').write_text('''#!/usr/local/bin/python
import io, sys, tarfile
with tarfile.open(sys.argv[4], 'w') as archive:
    def add(name, kind, link=''):
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, link
        archive.addfile(member, io.BytesIO())
    add('files', tarfile.DIRTYPE)
    %s
''' % sys.argv[1])
os.chmod('/usr/local/bin/tar', 0o755)
"""
"""Puts a program in the place of the container's `tar`, whose archive has the members that it is told."""


@pytest.mark.parametrize(
    "members",
    [
        "add('files/out', tarfile.LNKTYPE, '{secret}')",
        "add('up', tarfile.SYMTYPE, '/'); add('files/out', tarfile.LNKTYPE, 'up/{secret}')",
        "add('files/out', tarfile.SYMTYPE, '.'); add('files/out/written', tarfile.REGTYPE)",
        "add('files/out', tarfile.SYMTYPE, 'written'); add('files/out', tarfile.REGTYPE)",
    ],
)
def test_an_archive_that_leads_elsewhere_is_refused(execute: Callable[..., ActionResult], tmp_path: Path, members: str) -> None:
    (tmp_path / "secret").write_text("of this machine")
    told = members.format(secret="../" * 20 + str(tmp_path / "secret").lstrip("/"))
    with pytest.raises(EngineError, match="leads elsewhere"):
        execute(Action(argv=("python", "-c", OWN_TAR, told), outputs=("out",)))


def test_outputs_that_are_one_file_under_two_names_come_back(execute: Callable[..., ActionResult]) -> None:
    result = execute(Action(argv=("sh", "-c", "mkdir d; echo x > d/one; ln d/one d/two; ln -s one d/three"), outputs=("d",)))
    found = result.output("d")
    assert [(entry.path, entry.kind) for entry in found.store.entries(found.tree)] == [
        ("one", "file"),
        ("three", "link"),
        ("two", "file"),
    ]


@pytest.mark.parametrize("network", [False, True])
def test_a_cancelled_action_ends_in_its_container(dagger_engine: None, tmp_path: Path, network: bool) -> None:
    mark = uuid.uuid4().hex

    async def main() -> None:
        async with engine(tmp_path) as opened, anyio.create_task_group() as group:
            action = command("import time; time.sleep(98765)", network=network)
            group.start_soon(opened.execute, with_argument(action, mark), tmp_path / "log", lambda _: None)
            with anyio.move_on_after(20) as waiting:
                while not processes_with(mark):
                    await anyio.sleep(0.05)
            group.cancel_scope.cancel()
            if waiting.cancelled_caught:
                pytest.skip("the processes of this engine cannot be seen from here")
        with anyio.fail_after(20):
            while processes_with(mark):
                await anyio.sleep(0.05)

    anyio.run(main)


@pytest.mark.parametrize("kind", ["without network", "with network", "service"])
def test_a_container_that_the_engine_does_not_end_ends_itself_when_it_is_told(
    dagger_engine: None, tmp_path: Path, kind: str
) -> None:
    """As one does that was just starting when its action was cancelled."""
    mark, names, network = uuid.uuid4().hex, list[str](), kind != "without network"
    sleeps = "import os, sys, time; os.setsid() if os.fork() == 0 else None; time.sleep(98765)"

    async def executed(opened: DaggerEngine) -> None:
        server = Service(name="db", argv=("python", "-c", sleeps, mark), port=5000, within=3600)
        beside = Action(argv=("sleep", "98765"), services=(server,))
        action = beside if kind == "service" else with_argument(command(sleeps, network=network), mark)
        with contextlib.suppress(EngineError):  # for want of its container
            await opened.execute(action, tmp_path / "log", lambda _: None)

    async def main() -> None:
        async with engine(tmp_path) as opened, anyio.create_task_group() as group:
            make = opened._container

            def watched(client: Any, action: Action, ending: dagger.Ending) -> Any:
                names.append(ending.name)
                return make(client, action, ending)

            opened._container = watched  # type: ignore[method-assign]
            group.start_soon(executed, opened)
            with anyio.move_on_after(20) as waiting:
                while len(processes_with(mark)) < 2:
                    await anyio.sleep(0.05)
            if waiting.cancelled_caught:
                group.cancel_scope.cancel()
                pytest.skip("the processes of this engine cannot be seen from here")
            opened._cut_off[network][uuid.uuid4().hex] = IMAGE  # another's
            await opened.execute(Action(argv=("true",), network=network), tmp_path / "other", lambda _: None)
            assert (bool(processes_with(mark)), opened._cut_off[network]) == (True, {})
            opened._cut_off[network][names[0]] = IMAGE
            await opened._end(network)
            with anyio.fail_after(20):
                while processes_with(mark):
                    await anyio.sleep(0.05)
            group.cancel_scope.cancel()

    anyio.run(main)


def processes_with(mark: str) -> list[int]:
    """Those whose command was given that word."""
    return [process.pid for process in psutil.process_iter(["cmdline"]) if mark in (process.info["cmdline"] or [])[3:]]


def with_argument(action: Action, argument: str) -> Action:
    return Action(argv=(*action.argv, argument), network=action.network)


# the session


def programs(*, but: Collection[int] = ()) -> dict[int, str]:
    """By number what was asked of the `dagger` programs this process has started and not yet ended, but of those."""
    children = psutil.Process().children(recursive=True)
    return {child.pid: " ".join(child.cmdline()[1:]) for child in children if child.name() == "dagger" and child.pid not in but}


@pytest.fixture
def others() -> Collection[int]:
    """Programs that were there before the test, as of a session that tests share."""
    return programs().keys()


def test_a_session_ends_with_the_engine_and_leaves_nothing_behind(
    dagger_engine: None, tmp_path: Path, others: Collection[int]
) -> None:
    seen: list[list[str]] = []

    async def main() -> None:
        async with engine(tmp_path):
            seen.append([*programs(but=others).values()])

    if shutil.which("dagger") is None:
        pytest.skip("the SDK fetches the program itself, as there is none on PATH")
    anyio.run(main)
    assert seen == [["session"]]  # ours alone: the SDK would say what it is
    assert programs(but=others) == {}
    assert not [name for name in os.environ if name.startswith("DAGGER_SESSION")]
    assert gc.isenabled()


def test_an_engine_is_used_in_the_session_this_process_runs_in(dagger_engine: None, tmp_path: Path) -> None:
    program = shutil.which("dagger")
    if program is None:
        pytest.skip("no dagger program is on PATH to open a session")
    dagger.where_to_find_it(os.environ)
    inside = "import sys, anyio; from tests.pipeline.engines.test_dagger import inside; anyio.run(inside, sys.argv[1])"
    command = [program, "run", "--progress=plain", sys.executable, "-c", inside, str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "said inside; programs: []" in done.stdout + done.stderr


async def inside(home: str) -> None:
    """What the test above does within `dagger run`."""
    async with engine(Path(home)) as opened:
        result = await opened.execute(Action(argv=("echo", "said inside")), Path(home, "log"), lambda _: None)
        print(f"{result.tail.strip()}; programs: {[*programs().values()]}")


def test_an_engine_that_does_not_answer_is_an_error_and_leaves_no_program(
    dagger_engine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: Collection[int]
) -> None:
    async def main() -> None:
        async with engine(tmp_path):
            raise AssertionError("there is no engine")

    dagger.where_to_find_it(os.environ)
    monkeypatch.setenv(RUNNER, f"unix://{tmp_path}/none.sock")
    monkeypatch.setattr(dagger, "CONNECT", 1.0)
    with pytest.raises(EngineError, match="no session with a Dagger engine"):
        anyio.run(main)
    assert programs(but=others) == {}


def test_without_the_sdk_the_error_says_what_to_install_and_no_program_is_left(
    dagger_engine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: Collection[int]
) -> None:
    async def main() -> None:
        async with engine(tmp_path):
            raise AssertionError("there is no SDK")

    monkeypatch.setitem(sys.modules, "dagger", None)
    with pytest.raises(EngineError, match="SDK is not installed"):
        anyio.run(main)
    assert programs(but=others) == {}


def test_a_program_that_is_no_dagger_is_an_error_with_what_it_said(
    dagger_engine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: Collection[int]
) -> None:
    async def main() -> None:
        async with engine(tmp_path):
            raise AssertionError("there is no session")

    (tmp_path / "program").write_text("#!/bin/sh\necho something else\n")
    (tmp_path / "program").chmod(0o755)
    monkeypatch.setenv(CLI, str(tmp_path / "program"))
    with pytest.raises(EngineError, match="gave no address but 'something else'"):
        anyio.run(main)


# the tests' own engine


@pytest.fixture
def killed_session() -> Iterator[subprocess.Popen[bytes]]:
    """What stands for the engine of a test session that was killed, with the directory it left."""
    home = Path(tempfile.mkdtemp(prefix=HOMES))
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", str(home)]) as engine:
        (home / "engine.json").write_text(json.dumps({"home": str(home), "pid": engine.pid, "users": str(home / "users")}))
        yield engine
        engine.kill()
    shutil.rmtree(home, ignore_errors=True)


def test_where_no_engine_answers_the_tests_start_one_for_all_and_the_last_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_session: subprocess.Popen[bytes]
) -> None:
    async def main() -> ActionResult:
        async with engine(tmp_path) as opened:
            return await opened.execute(command(REACH), tmp_path / "log", lambda _: None)

    pytest.importorskip("dagger", reason="the Dagger SDK is not installed")
    with an_engine(lambda _: None, tmp_path) as address:
        assert killed_session.poll() is not None
        with an_engine(lambda _: None, tmp_path) as same:
            assert same == address
        place = Path(address.removeprefix("unix://")).parent
        assert (place / "root").is_dir()
        monkeypatch.setenv(RUNNER, address)
        result = anyio.run(main)
    assert (result.exit_code, result.network) == (1, "refused")
    assert not place.exists()
    assert str(place) not in Path("/proc/self/mounts").read_text()
    assert not [process for process in psutil.process_iter(["cmdline"]) if str(place) in " ".join(process.info["cmdline"] or [])]
