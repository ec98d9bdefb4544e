"""Behind a proxy, with a certificate authority and a package index of one's own: both engines hand on what is needed.

The index is a real one over TLS, the proxy the only one who knows its name, and the packages are installed as the
stages install them. Each setting is proved by taking it away.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import anyio
import pytest

from pipeline import Action, ActionResult, Store
from pipeline.engine import Engine
from pipeline.engines.dagger import DaggerEngine
from pipeline.engines.host import HostEngine
from pipeline.engines.network import CERTIFICATES, VARIABLES
from stages.environment import uv_tree
from stages.scripts import install as installer
from tests.pipeline.engines.corporate import INDEX, Authority, Proxy, index, served, write_packages

IMAGE = f"python:{sys.version_info[0]}.{sys.version_info[1]}-slim"

GATEWAY = """
import socket, struct
for line in list(open('/proc/net/route'))[1:]:
    words = line.split()
    if words[1] == '00000000':
        print(socket.inet_ntoa(struct.pack('<I', int(words[2], 16))), end='')
"""

CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)"

Execute = Callable[[Action], ActionResult]


@pytest.fixture(params=["host", "dagger"])
def execute(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Execute:
    """Run one action on the engine, of which the environment says nothing about networks yet."""
    if request.param == "dagger":
        request.getfixturevalue("dagger_engine")
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    store = Store(tmp_path / "store")

    def run(action: Action) -> ActionResult:
        async def main() -> ActionResult:
            found: Engine = HostEngine(store, tmp_path, str)
            if request.param == "dagger":
                found = DaggerEngine(store, tmp_path, str, image=IMAGE)
            async with found as opened:
                return await opened.execute(action, tmp_path / "log", lambda _: None)

        return anyio.run(main)

    return run


@pytest.fixture
def machine(request: pytest.FixtureRequest, execute: Execute) -> str:
    """The address of this machine as an action sees it: loopback on the host, else the gateway of its container."""
    if request.node.callspec.params["execute"] == "host":
        return "127.0.0.1"
    return execute(Action(argv=("python", "-c", GATEWAY), network=True)).tail


@pytest.fixture
def corporate(machine: str, execute: Execute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Proxy, Action]]:
    """The network, everything about it in the environment; its proxy, and the action that installs a package from its index."""
    store = Store(tmp_path / "store")
    lock = write_packages(tmp_path / "packages")
    with ExitStack() as stack:
        memory = "/dev/shm" if os.path.isdir("/dev/shm") else None  # of which a container has its own
        elsewhere = stack.enter_context(tempfile.TemporaryDirectory(dir=memory))
        authority = Authority(Path(elsewhere) / "authority")
        place = stack.enter_context(index(authority, tmp_path / "packages"))
        proxy = Proxy("127.0.0.1" if machine == "127.0.0.1" else "0.0.0.0", {f"{INDEX}:443": place})
        stack.enter_context(served(proxy))
        port = proxy.server_address[1]
        if execute(Action(argv=("python", "-c", CONNECT, machine, str(port)), network=True)).exit_code != 0:
            if machine == "127.0.0.1":
                pytest.fail("an action with network on the host does not reach its loopback")
            pytest.skip("a container of this engine does not reach this machine, where the proxy listens")
        monkeypatch.setenv("HTTPS_PROXY", f"http://{machine}:{port}")
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
        monkeypatch.setenv("UV_DEFAULT_INDEX", f"https://{INDEX}/simple/")
        yield (
            proxy,
            Action(
                argv=("python", "install.py", "{root}/uv/uv", "requirements.lock", "site"),
                inputs={"requirements.lock": store.put(lock.encode()), "install.py": store.put_file(Path(installer.__file__))},
                tools={"uv": uv_tree(store)},
                env={"UV_CACHE_DIR": "{root}/.cache", "UV_HTTP_RETRIES": "0"},
                outputs=("site",),
                network=True,
            ),
        )


def test_packages_come_through_the_proxy_from_the_index_that_the_authority_vouches_for(
    corporate: tuple[Proxy, Action], execute: Execute, tmp_path: Path
) -> None:
    proxy, install = corporate
    store = Store(tmp_path / "store")
    site = execute(install).require().output("site").tree
    assert store.read(store.file(site, "parcel.py")) == b"INSIDE = 'arrived'\n"
    assert proxy.asked() == {f"{INDEX}:443"}


@pytest.mark.parametrize(
    ("missing", "said", "asked"),
    [
        ("HTTPS_PROXY", "dns error", set[str]()),
        ("SSL_CERT_FILE", "invalid peer certificate", {f"{INDEX}:443"}),
        ("UV_DEFAULT_INDEX", "tunnel error", {"pypi.org:443"}),
    ],
)
def test_without_any_one_of_them_nothing_is_installed(
    corporate: tuple[Proxy, Action],
    execute: Execute,
    monkeypatch: pytest.MonkeyPatch,
    missing: str,
    said: str,
    asked: set[str],
) -> None:
    proxy, install = corporate
    monkeypatch.delenv(missing)
    result = execute(install)
    assert result.exit_code != 0
    assert said in result.tail
    assert proxy.asked() == asked


def test_an_action_without_network_sees_nothing_of_it(
    corporate: tuple[Proxy, Action], execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, _ = corporate
    certificate = os.environ["SSL_CERT_FILE"]
    for name in VARIABLES:
        monkeypatch.setenv(name, certificate if name in CERTIFICATES else f"http://{name}.invalid")
    program = (
        "import json, os, sys\n"
        "files = {name: open(os.environ[name]).read() for name in sys.argv[1:] if name in os.environ}\n"
        "print(json.dumps({**os.environ, **files}))\n"
    )
    show = ("python", "-c", program, *sorted(CERTIFICATES))
    refused, allowed = (json.loads(execute(Action(argv=show, network=network)).log.read_text()) for network in (False, True))
    assert refused.keys() & set(VARIABLES) == set()
    trusted = dict.fromkeys(CERTIFICATES, Path(certificate).read_text())
    assert {name: allowed.get(name) for name in VARIABLES} == {name: os.environ[name] for name in VARIABLES} | trusted
    assert proxy.asked() == set()


CREDENTIALS = {
    "HTTPS_PROXY": "http://me:hunter-of-the-proxy@proxy.invalid:3128",
    "http_proxy": "me:p%40ss-without-a-scheme@proxy.invalid:3128",
    "UV_INDEX": "own=https://token-of-the-index@index.invalid/simple plain=https://plain.invalid/simple",
    "PIP_EXTRA_INDEX_URL": "https://index.invalid/one https://me:hunter-of-the-second@index.invalid/two",
}

HIDDEN = ("hunter-of-the-proxy", "p%40ss-without", "p@ss-without-a-scheme", "token-of-the-index", "hunter-of-the-second")


def test_passwords_of_proxies_and_indexes_arrive_and_are_in_no_log(
    execute: Execute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NO_PROXY", "plain.invalid")
    program = (
        "import hashlib, json, os, sys, urllib.parse\n"
        "found = {name: hashlib.sha256(os.environ.get(name, '').encode()).hexdigest() for name in sys.argv[1:]}\n"
        "print(json.dumps(found))\n"
        "for name in sys.argv[1:]:\n"
        "    print(name, os.environ.get(name), urllib.parse.unquote(os.environ.get(name, '')))\n"
        "print('hunter-of-the-' + 'proxy', os.environ['NO_PROXY'])\n"
    )
    result = execute(Action(argv=("python", "-c", program, *CREDENTIALS), network=True)).require()
    first, *_, last = result.log.read_text().splitlines()
    assert json.loads(first) == {name: hashlib.sha256(value.encode()).hexdigest() for name, value in CREDENTIALS.items()}
    assert last == "*** plain.invalid"
    written = "".join(path.read_text() for path in (tmp_path / "log", tmp_path / "dagger.log") if path.exists())
    assert not [word for word in HIDDEN if word in written]
