"""Both engines: the same actions give the same outputs. Dagger's part needs a real engine."""

from __future__ import annotations

import json
import socket
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from pipeline import Action, ActionResult, Blob, Entry, Service, Store, Tree
from pipeline.engine import Engine
from pipeline.engines.dagger import DaggerEngine
from pipeline.engines.host import HostEngine, best_level
from pipeline.errors import EngineError

IMAGE = f"python:{sys.version_info[0]}.{sys.version_info[1]}-slim"
SECRET = "s3cret-value-of-the-test"


@pytest.fixture(params=["host", "dagger"])
def execute(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Action], ActionResult]:
    """Run one action on the engine; what it wrote is in `result.log`."""
    store = Store(tmp_path / "store")
    if request.param == "dagger":
        request.getfixturevalue("dagger_session")

    def run(action: Action) -> ActionResult:
        async def main() -> ActionResult:
            async with opened(request.param, store, tmp_path) as engine:
                return await engine.execute(action, tmp_path / "log", lambda _: None)

        return anyio.run(main)

    run.engine = request.param  # type: ignore[attr-defined]
    return run


@asynccontextmanager
async def opened(name: str, store: Store, home: Path) -> AsyncIterator[Engine]:
    def secret(_: str) -> str:
        return SECRET

    made: Any = HostEngine(store, home, secret) if name == "host" else DaggerEngine(store, home, secret, image=IMAGE)
    async with made as engine:
        yield engine


def tree(tmp_path: Path, **files: str) -> Tree:
    store = Store(tmp_path / "store")
    entries = []
    for name, text in files.items():
        blob = store.put(text.encode())
        entries.append(Entry(name.replace("__", "/"), "file", blob.digest, blob.size))
    return store.tree(entries)


def test_an_action_sees_its_inputs_and_leaves_its_outputs(execute: Callable[[Action], ActionResult], tmp_path: Path) -> None:
    action = Action(
        argv=("sh", "-c", "cat src/a/b > out.txt; mkdir -p dir/sub; echo x > dir/sub/f; echo said"),
        inputs={"src": tree(tmp_path, a__b="hello")},
        outputs=("out.txt", "dir", "missing"),
    )
    result = execute(action).require()
    assert result.output("out.txt").read() == b"hello"
    assert [entry.path for entry in Store(tmp_path / "store").entries(result.output("dir").tree)] == ["sub/f"]
    assert sorted(result.outputs) == ["dir", "out.txt"]
    assert result.log.read_text() == "said\n"


def test_a_failing_command_brings_back_its_log_and_outputs(execute: Callable[[Action], ActionResult]) -> None:
    result = execute(Action(argv=("sh", "-c", "echo partial > report; echo why >&2; exit 3"), outputs=("report",)))
    assert (result.exit_code, result.output("report").read(), result.tail) == (3, b"partial\n", "why\n")


@pytest.mark.parametrize("more", ["", "; head -c 400000 /dev/urandom > big"])  # from a container as text, or as a directory
@pytest.mark.parametrize(
    "command",
    [
        "ln -s {secret} out",
        "ln -s {directory} out",
        "ln -s ../../../../../../../../..{secret} out",
        "ln -s / up && ln -s up{secret} out",
        "ln -s /nowhere/at/all out",
    ],
)
def test_an_output_that_links_out_of_the_action_is_refused(
    execute: Callable[[Action], ActionResult], tmp_path: Path, command: str, more: str
) -> None:
    (tmp_path / "of the host").mkdir()
    (tmp_path / "of the host" / "file").write_text("of the host")
    secret = f"'{tmp_path}/of the host/file'"
    shell = command.format(secret=secret, directory=f"'{tmp_path}/of the host'")
    with pytest.raises(EngineError, match="the output 'out' is a link out of the action's directory"):
        execute(Action(argv=("sh", "-c", shell + more), outputs=("out", "big")))


def test_an_output_below_a_link_out_of_the_action_is_refused(execute: Callable[[Action], ActionResult]) -> None:
    with pytest.raises(EngineError, match="the output 'up/etc/passwd' is a link out of the action's directory"):
        execute(Action(argv=("ln", "-s", "/", "up"), outputs=("up/etc/passwd",)))


def test_an_output_that_links_to_something_of_the_action_is_that(execute: Callable[[Action], ActionResult]) -> None:
    shell = "mkdir built; echo x > built/f; ln -s built/f one; ln -s {root}/built two; ln -s f built/same"
    result = execute(Action(argv=("sh", "-c", shell), outputs=("one", "two")))
    assert result.output("one").read() == b"x\n"
    two = result.output("two")
    assert [(entry.path, entry.kind) for entry in two.store.entries(two.tree)] == [("f", "file"), ("same", "link")]


def test_an_output_that_is_no_file_is_refused(execute: Callable[[Action], ActionResult]) -> None:
    with pytest.raises(EngineError, match="the output 'out' is neither a file nor a directory"):
        execute(Action(argv=("mkfifo", "out"), outputs=("out",)))


@pytest.mark.parametrize(("command", "code"), [("exit 128", 128), ("exit 191", 191), ("kill -9 $$", 137), ("kill -TERM $$", 143)])
def test_every_exit_code_comes_back(execute: Callable[[Action], ActionResult], command: str, code: int) -> None:
    assert execute(Action(argv=("sh", "-c", command))).exit_code == code


def test_a_program_that_is_not_there_is_exit_code_127(execute: Callable[[Action], ActionResult]) -> None:
    result = execute(Action(argv=("no-such-program",)))
    assert result.exit_code == 127
    assert "no-such-program" in result.tail


def test_a_log_far_over_100_kib_is_whole(execute: Callable[[Action], ActionResult]) -> None:
    result = execute(Action(argv=("python", "-c", "for i in range(100_000): print('line', i)\nraise SystemExit(1)")))
    assert result.exit_code == 1
    assert result.log.read_text().splitlines() == [f"line {i}" for i in range(100_000)]


def test_tools_are_shared_and_an_action_cannot_change_them(execute: Callable[[Action], ActionResult], tmp_path: Path) -> None:
    action = Action(
        argv=("sh", "-c", "cat site/tool.py; echo more >> site/tool.py"), tools={"site": tree(tmp_path, **{"tool.py": "x = 1\n"})}
    )
    first, second = execute(action), execute(action)
    assert first.log.read_text().startswith("x = 1\n")
    assert second.log.read_text().count("x = 1") == 1


def test_inputs_are_private_copies(execute: Callable[[Action], ActionResult], tmp_path: Path) -> None:
    action = Action(argv=("sh", "-c", "cat src/f; echo changed > src/f"), inputs={"src": tree(tmp_path, f="as it was\n")})
    execute(action)
    assert execute(action).tail == "as it was\n"


def test_root_stands_for_the_actions_own_directory(execute: Callable[[Action], ActionResult], tmp_path: Path) -> None:
    action = Action(
        argv=("sh", "-c", 'cat "{root}/f" "$WHERE/f"; pwd'),
        inputs={"f": Store(tmp_path / "store").put(b"x")},
        env={"WHERE": "{root}"},
        cwd=".",
    )
    assert execute(action).require().tail.startswith("xx/")


def test_the_environment_is_scrubbed(execute: Callable[[Action], ActionResult], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEAKED_FROM_OUTSIDE", "1")
    result = execute(Action(argv=("env",), env={"OWN": "2"}))
    assert "OWN=2" in result.tail
    assert "LEAKED_FROM_OUTSIDE" not in result.log.read_text()
    assert f"HOME={Path.home()}\n" not in result.log.read_text()


def test_arguments_and_variables_arrive_as_they_were_given(execute: Callable[[Action], ActionResult]) -> None:
    odd = """it's "$HOME" $(id) `id` \\n\nüñ * ; && --"""
    program = "import json, os, sys; print(json.dumps([sys.argv[1:], os.environ['ODD'], os.environ['EMPTY']]))"
    result = execute(Action(argv=("python", "-c", program, odd, "", "--", odd), env={"ODD": odd, "EMPTY": ""}))
    assert json.loads(result.tail) == [[odd, "", "--", odd], odd, ""]


def test_an_argument_may_be_long(execute: Callable[[Action], ActionResult]) -> None:
    long = "x" * 100_000
    assert execute(Action(argv=("python", "-c", "import sys; print(len(sys.argv[1]))", long))).tail == "100000\n"


def test_small_and_large_inputs_lie_side_by_side(execute: Callable[[Action], ActionResult], tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    program, binary = store.put(b"#!/bin/sh\necho ran\n"), store.put(b"\xff" * 100_000)
    store.path(binary).chmod(0o600)  # as under a strict umask
    scripts = store.tree([Entry("run", "executable", program.digest, program.size), Entry("same", "link", "run")])
    small = store.tree([Entry("run", "executable", program.digest, program.size)])
    result = execute(
        Action(
            argv=("sh", "-c", "all/run; all/one/same; wc -c < all/two; cat all/three; stat -c %a all/two all/three"),
            inputs={"all": small, "all/one": scripts, "all/two": binary, "all/three": store.put(b"3\n")},
        )
    )
    assert result.tail == "ran\nran\n100000\n3\n644\n644\n"


def test_a_secret_reaches_the_command_and_no_log(execute: Callable[[Action], ActionResult]) -> None:
    action = Action(
        argv=("sh", "-c", 'test -n "$TOKEN" && echo "it is $TOKEN"; echo "$TOKEN" | base64'), secrets={"TOKEN": "name"}
    )
    result = execute(action)
    assert result.exit_code == 0
    assert result.log.read_text().startswith("it is ***\n***")
    assert SECRET not in action.digest()


def test_python_runs_without_anybodys_site_packages(execute: Callable[[Action], ActionResult]) -> None:
    result = execute(Action(argv=("python", "-c", "import pydantic")))
    assert "No module named 'pydantic'" in result.tail


def test_a_cache_is_kept_between_actions(execute: Callable[[Action], ActionResult], tmp_path: Path) -> None:
    name = f"test-{uuid.uuid4().hex}"
    action = Action(argv=("sh", "-c", "cat kept/f 2>/dev/null; echo again >> kept/f"), caches={"kept": name})
    execute(action)
    assert execute(action).tail == "again\n"


SERVER = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = open('word').read().encode() if self.path == '/' else b''
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.HTTPServer((os.environ['HOST'], int(os.environ['PORT'])), Handler).serve_forever()
"""

CLIENT = "import os, urllib.request as u; print(u.urlopen(f\"http://{os.environ['WEB_HOST']}:{os.environ['WEB_PORT']}/\").read().decode())"


def server(tmp_path: Path, program: str = SERVER, **more: Any) -> Service:
    store = Store(tmp_path / "store")
    inputs: dict[str, Tree | Blob] = {"server.py": store.put(program.encode()), "word": store.put(b"served")}
    return Service(name="web", argv=("python", "-u", "server.py"), port=8000, inputs=inputs, **more)


@pytest.mark.parametrize("ready", ["", "/healthy"])
def test_a_service_runs_beside_the_action_that_needs_it(
    execute: Callable[[Action], ActionResult], tmp_path: Path, ready: str
) -> None:
    result = execute(Action(argv=("python", "-c", CLIENT), services=(server(tmp_path, ready=ready),)))
    assert (result.exit_code, result.tail) == (0, "served\n")


def test_a_service_that_ends_at_once_is_said_with_its_last_words(
    execute: Callable[[Action], ActionResult], tmp_path: Path
) -> None:
    broken = server(tmp_path, "raise SystemExit('no configuration')", within=20.0)
    action = Action(argv=("true",), services=(broken,))
    if execute.engine == "dagger":  # type: ignore[attr-defined]
        with pytest.raises(EngineError, match="beside web"):
            execute(action)
    else:
        result = execute(action)
        assert result.exit_code == 125
        assert "no configuration" in result.tail


def test_the_host_refuses_network_to_an_action_that_does_not_declare_it(tmp_path: Path) -> None:
    if "net" not in best_level():
        pytest.skip("this system allows no network namespaces")
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    program = f"import socket; socket.create_connection(('127.0.0.1', {port}), 3)"

    async def main(network: bool) -> ActionResult:
        async with opened("host", Store(tmp_path / "store"), tmp_path) as engine:
            return await engine.execute(Action(argv=("python", "-c", program), network=network), tmp_path / "log", lambda _: None)

    refused, allowed = anyio.run(main, False), anyio.run(main, True)
    listener.close()
    assert (refused.exit_code, refused.network) == (1, "refused")
    assert "ConnectionRefusedError" in refused.tail
    assert (allowed.exit_code, allowed.network) == (0, "allowed")
