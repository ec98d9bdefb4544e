"""What is particular to the host engine: processes end with their action, whatever they do."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import anyio
import pytest

from pipeline import Action, ActionResult, Entry, Service, Store, StoreError
from pipeline.engines import host
from pipeline.engines.host import HostEngine
from pipeline.errors import EngineError
from pipeline.scratch import Scratch

ESCAPES = """
import os, subprocess, sys, time
mark = sys.argv[2]
subprocess.Popen(['python', '-c', 'import time; time.sleep(98765)', mark], start_new_session=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvp('python', ['python', '-c', 'import time; time.sleep(98765)', mark])
    os._exit(0)
print('started', flush=True)
if sys.argv[1] == 'wait':
    time.sleep(98765)
"""

STUBBORN = """
import signal, sys, time
for number in (2, 15):
    signal.signal(number, signal.SIG_IGN)
print('started', flush=True)
time.sleep(98765)
"""


def left(mark: str) -> set[str]:
    """The numbers of processes that were started with `mark` as an argument; of one whose first thread ended another tells."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/task/*/cmdline"):
        with contextlib.suppress(OSError):
            if mark.encode() in path.read_bytes().split(b"\0")[3:]:
                found.add(path.parts[2])
    return found


async def cancelled(engine: HostEngine, action: Action, log: Path) -> None:
    """Run an action and cancel it once it has said that it started."""
    async with engine, anyio.create_task_group() as group:
        started = anyio.Event()

        def listen(piece: bytes) -> None:
            if b"started" in piece:
                started.set()

        group.start_soon(engine.execute, action, log, listen)
        await started.wait()
        group.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def own_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where actions get their directories, so that nobody else's are counted."""
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


@pytest.fixture(params=host.LEVELS, ids=lambda level: "+".join(level) or "none")
def engine(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HostEngine:
    """The engine with each set of namespaces that this system allows."""
    best = host.best_level()
    if not set(request.param) <= set(best):
        pytest.skip(f"this system allows only {'+'.join(best) or 'no namespaces'}")
    monkeypatch.setattr(host, "best_level", lambda: request.param)
    return HostEngine(Store(tmp_path / "store"), tmp_path, lambda name: name)


def test_no_action_changes_the_tools_of_another(engine: HostEngine, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    blob = store.put(b"as it was\n")
    tool = store.tree([Entry("tool.py", "file", blob.digest, blob.size)])
    change = "chmod u+w site site/tool.py; cat site/tool.py; echo changed >> site/tool.py; touch site/more; ls site"

    async def main() -> list[str]:
        async with engine:
            action = Action(argv=("sh", "-c", f"({change}) 2> /dev/null"), tools={"site": tool})
            for _ in range(2):
                result = await engine.execute(action, tmp_path / "log", lambda _: None)
            return result.tail.splitlines()

    assert anyio.run(main)[0] == "as it was"
    assert (store.shared(tool) / "tool.py").read_bytes() == b"as it was\n"
    assert "more" not in os.listdir(store.shared(tool))


def test_what_an_action_leaves_running_ends_with_it(engine: HostEngine, tmp_path: Path) -> None:
    async def main() -> ActionResult:
        async with engine:
            return await engine.execute(
                Action(argv=("python", "-c", ESCAPES, "leave", str(tmp_path))), tmp_path / "log", lambda _: None
            )

    assert anyio.run(main).exit_code == 0
    assert left(str(tmp_path)) == set()


ONE_THREAD_ENDS = """
import ctypes, os, sys, threading, time
if os.fork() == 0:
    os.setsid()
    threading.Thread(target=time.sleep, args=(98765,)).start()
    ctypes.CDLL(None).pthread_exit(None)
print('started', flush=True)
time.sleep(98765 if sys.argv[1] == 'wait' else 1)
"""
"""Starts a process whose first thread ends before another one: to a first look it has ended."""


def test_a_process_whose_first_thread_has_ended_ends_with_its_action(engine: HostEngine, tmp_path: Path) -> None:
    async def main() -> ActionResult:
        async with engine:
            action = Action(argv=("python", "-c", ONE_THREAD_ENDS, "end", str(tmp_path)))
            with anyio.fail_after(60):
                return await engine.execute(action, tmp_path / "log", lambda _: None)

    assert anyio.run(main).exit_code == 0
    assert left(str(tmp_path)) == set()
    anyio.run(cancelled, engine, Action(argv=("python", "-c", ONE_THREAD_ENDS, "wait", str(tmp_path))), tmp_path / "log")
    assert left(str(tmp_path)) == set()


def test_a_cancelled_action_leaves_nothing_running_and_no_directory(engine: HostEngine, tmp_path: Path, own_tmp: Path) -> None:
    anyio.run(cancelled, engine, Action(argv=("python", "-c", ESCAPES, "wait", str(tmp_path))), tmp_path / "log")
    assert left(str(tmp_path)) == set()
    assert list(own_tmp.iterdir()) == []


def test_an_action_that_ignores_signals_is_killed(engine: HostEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "PATIENCE", 0.5)
    anyio.run(cancelled, engine, Action(argv=("python", "-c", STUBBORN, str(tmp_path))), tmp_path / "log")
    assert left(str(tmp_path)) == set()


def test_directories_an_action_made_unwritable_are_removed(tmp_path: Path, own_tmp: Path) -> None:
    store = Store(tmp_path / "store")
    blob = store.put(b"x")
    source = store.tree([Entry("d/f", "file", blob.digest, 1)])

    async def main() -> ActionResult:
        async with HostEngine(store, tmp_path, lambda name: name) as opened:
            action = Action(argv=("sh", "-c", "chmod 0555 src/d"), inputs={"src": source})
            return await opened.execute(action, tmp_path / "log", lambda _: None)

    assert anyio.run(main).exit_code == 0
    assert list(own_tmp.iterdir()) == []


def executed(action: Action, tmp_path: Path) -> ActionResult:
    async def main() -> ActionResult:
        async with HostEngine(Store(tmp_path / "store"), tmp_path, lambda name: name) as opened:
            return await opened.execute(action, tmp_path / "log", lambda _: None)

    return anyio.run(main)


@pytest.mark.parametrize("below", ["input", "tool", "cache"])
def test_nothing_is_laid_through_a_link_of_another_input(tmp_path: Path, below: str) -> None:
    store = Store(tmp_path / "store")
    (tmp_path / "outside").mkdir()
    blob = store.put(b"planted")
    source = store.tree([Entry("x", "link", str(tmp_path / "outside"))])
    planted = store.tree([Entry("f", "file", blob.digest, 7)])
    each: dict[str, dict[str, Any]] = {
        "input": {"inputs": {"src": source, "src/x/y": blob}},
        "tool": {"inputs": {"src": source}, "tools": {"src/x/y": planted}},
        "cache": {"inputs": {"src": source}, "caches": {"src/x/y": "kept"}},
    }
    with pytest.raises(
        EngineError, match=f"'src/x/y' of the {below} 'src/x/y' would lie in or below 'src/x', a link of the input 'src'"
    ):
        executed(Action(argv=("true",), **each[below]), tmp_path)
    assert list((tmp_path / "outside").iterdir()) == []


def test_the_directory_of_a_service_is_checked_too(tmp_path: Path) -> None:
    blob = Store(tmp_path / "store").put(b"x")
    service = Service(name="web", argv=("true",), port=1, inputs={"../up": blob})
    with pytest.raises(EngineError, match=r"the input '\.\./up' would lie outside the action's directory"):
        executed(Action(argv=("true",), services=(service,)), tmp_path)


def test_a_dockerfile_is_refused_with_what_can_build_it(tmp_path: Path) -> None:
    context = Store(tmp_path / "store").tree([])
    with pytest.raises(EngineError) as caught:
        executed(Action(argv=(), dockerfile="Dockerfile", inputs={"context": context}, outputs=("image.tar",)), tmp_path)
    assert "built by a container engine, and this is the host" in caught.value.what
    assert "--engine dagger" in caught.value.right


def test_a_run_removes_the_directories_of_runs_that_were_killed(tmp_path: Path, own_tmp: Path) -> None:
    child = os.fork()
    if child == 0:
        (Scratch().path / "file").write_text("left")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(list(own_tmp.iterdir())) == 1
    executed(Action(argv=("true",)), tmp_path)
    assert list(own_tmp.iterdir()) == []


def test_a_run_removes_what_killed_runs_had_begun_to_write_to_the_store(tmp_path: Path) -> None:
    left = tmp_path / "store" / ".new-1-left"
    left.parent.mkdir()
    left.touch()
    executed(Action(argv=("true",)), tmp_path)
    assert not left.exists()


SERVER = """
import os, socket, sys
listener = socket.create_server((os.environ["HOST"], int(os.environ["PORT"])))
print("listening", flush=True)
for answer in (b"E still starting", *[b"R" + open("site/word", "rb").read()] * 9):
    with listener.accept()[0] as session:
        session.recv(100)
        session.sendall(answer)
"""

CLIENT = """
import os, socket
with socket.create_connection((os.environ["DB_HOST"], int(os.environ["DB_PORT"]))) as session:
    session.sendall(b"hello")
    print(open("site/word").read(), session.recv(100).decode())
"""


def test_tools_and_services_are_there_with_each_set_of_namespaces(engine: HostEngine, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    tools = {"site": store.tree([Entry("word", "file", store.put(b"tool").digest, 4)])}
    service = Service(name="db", argv=("python", "-c", SERVER), port=5432, tools=tools, ready="postgresql", within=20.0)

    async def main() -> ActionResult:
        async with engine:
            action = Action(argv=("python", "-c", CLIENT), tools=tools, services=(service,))
            return await engine.execute(action, tmp_path / "log", lambda _: None)

    result = anyio.run(main)
    assert (result.exit_code, result.tail) == (0, "tool Rtool\n")
    assert result.network == ("refused" if "net" in host.best_level() else "not enforced")


NEVER_READY = """
import pathlib, signal, sys, time
place = pathlib.Path(sys.argv[1])
def end(*_):
    (place / "asked to end").touch()
    sys.exit()
signal.signal(signal.SIGTERM, end)
(place / "starting").touch()
time.sleep(98765)
"""


def test_an_action_that_is_cancelled_while_its_services_start_leaves_none_of_them(tmp_path: Path, own_tmp: Path) -> None:
    never = Service(name="web", argv=("python", "-c", NEVER_READY, str(tmp_path)), port=80, ready="/", within=60.0)

    async def main() -> None:
        async with (
            HostEngine(Store(tmp_path / "store"), tmp_path, lambda name: name) as opened,
            anyio.create_task_group() as group,
        ):
            action = Action(argv=("touch", str(tmp_path / "ran")), services=(never,))
            group.start_soon(opened.execute, action, tmp_path / "log", lambda _: None)
            with anyio.fail_after(30):
                while not (tmp_path / "starting").exists():
                    await anyio.sleep(0.02)
            group.cancel_scope.cancel()

    anyio.run(main)
    assert left(str(tmp_path)) == set()
    assert list(own_tmp.iterdir()) == []
    assert (tmp_path / "asked to end").exists()
    assert not (tmp_path / "ran").exists()


def test_an_action_that_ignores_interrupts_is_terminated(tmp_path: Path) -> None:
    polite = STUBBORN.replace("(2, 15)", "(2,)")
    engine = HostEngine(Store(tmp_path / "store"), tmp_path, lambda name: name)
    anyio.run(cancelled, engine, Action(argv=("python", "-c", polite, str(tmp_path))), tmp_path / "log")
    assert left(str(tmp_path)) == set()


AS_ORDINARY_USER = ("unshare", "--user", "--map-user=1000", "--map-group=1000")


def test_an_ordinary_user_gets_namespaces_by_way_of_one_of_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = [*AS_ORDINARY_USER, "unshare", "--user", "--net", "true"]
    if subprocess.run(needed, capture_output=True, check=False).returncode != 0:
        pytest.skip("this system allows an ordinary user no namespaces")
    monkeypatch.setattr(host, "LAUNCHER", (*AS_ORDINARY_USER, *host.LAUNCHER))
    level = host.best_level.__wrapped__()
    monkeypatch.setattr(host, "best_level", lambda: level)
    program = "import os, socket; print(os.getuid(), os.getgid(), [name for _, name in socket.if_nameindex()])"
    result = executed(Action(argv=("python", "-c", program)), tmp_path)
    assert (result.exit_code, result.tail, result.network) == (0, "1000 1000 ['lo']\n", "refused")


def test_where_no_namespaces_are_to_be_had_nothing_is_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as refusing:
        refusing.setattr(host, "LAUNCHER", ("false",))
        level = host.best_level.__wrapped__()
    assert level == ()
    monkeypatch.setattr(host, "best_level", lambda: level)
    assert executed(Action(argv=("true",)), tmp_path).network == "not enforced"


def test_a_process_that_cannot_be_started_is_said_with_the_way_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "best_level", lambda: ())
    monkeypatch.setattr(host, "LAUNCHER", (str(tmp_path / "none"),))
    with pytest.raises(EngineError, match="a process cannot be started: No such file or directory") as caught:
        executed(Action(argv=("true",)), tmp_path)
    assert caught.value.next == "python -m pipeline doctor"


def test_a_log_that_cannot_be_written_is_an_error_and_leaves_nothing_running(tmp_path: Path, own_tmp: Path) -> None:
    (tmp_path / "log").mkdir()
    with pytest.raises(StoreError, match="Is a directory"):
        executed(Action(argv=("python", "-c", "import time; time.sleep(98765)", str(tmp_path))), tmp_path)
    assert left(str(tmp_path)) == set()
    assert list(own_tmp.iterdir()) == []


def test_an_engine_that_was_not_entered_says_so(tmp_path: Path) -> None:
    engine = HostEngine(Store(tmp_path / "store"), tmp_path, lambda name: name)
    with pytest.raises(EngineError, match="was not entered"):
        anyio.run(engine.execute, Action(argv=("true",)), tmp_path / "log", lambda _: None)
