"""Images as file systems and as plain processes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import anyio
import pytest

from pipeline import Action, Blob, Entry, Project, Result, Service, Stage, StageFailed, Store, StoreError, Tree, Work
from stages.file_system import FileSystem, Refused
from stages.image import BuildImage, Image, Placed
from stages.rootfs import ImageService, Rootfs, find_program, image_service, paths_in, process_of, unpack_image
from stages.source import WorkingCopy
from tests.conftest import RunStage, StageDidNotPass

SERVER = """\
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()
        self.wfile.write(os.environ["GREETING_FILE"].encode())
http.server.HTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""


def member(
    name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", link: str = "", mode: int = 0o644
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname, info.mode = kind, len(content), link, mode
    return info, content


def layer(place: Path, members: Iterable[tuple[tarfile.TarInfo, bytes]], mode: str = "w") -> Path:
    with tarfile.open(place, mode) as tar:  # type: ignore[call-overload]  # the mode is a parameter
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return place


def applied(store: Store, *layers: Path) -> FileSystem:
    found = FileSystem()
    for place in layers:
        with tarfile.open(place) as tar:
            found.apply(tar, lambda member, tar=tar: store.put_from(tar.extractfile(member)).digest)  # type: ignore[misc]
    return found


def test_layers_are_applied_in_order_with_their_whiteouts(tmp_path: Path, store: Store) -> None:
    lower = [
        member("etc/", tarfile.DIRTYPE),
        member("etc/old", content=b"old"),
        member("etc/kept", content=b"kept"),
        member("cache/a", content=b"a"),
        member("cache/deep/b", content=b"b"),
        member("cache/deep/er/c", content=b"c"),
        member("bin/run", content=b"#!", mode=0o755),
        member("var/log/", tarfile.DIRTYPE),
        member("was/a/directory", content=b"x"),
        member("opt/old", content=b"x"),
        member("file", content=b"x"),
    ]
    upper = [
        member("etc/.wh.old"),
        member("cache/new", content=b"new"),
        member("cache/deep/new", content=b"new"),
        member("cache/.wh..wh..opq"),
        member("opt/new", content=b"new"),
        member(".wh.opt"),
        member("bin/again", tarfile.LNKTYPE, link="bin/run"),
        member("was", content=b"is a file"),
        member("file/", tarfile.DIRTYPE),
        member("dev/null", tarfile.CHRTYPE),
    ]
    found = applied(store, layer(tmp_path / "1", lower), layer(tmp_path / "2", upper, "w:gz"))
    contents = {entry.path: (entry.kind, store.read(Blob(digest=entry.target, size=entry.size))) for entry in found.entries()}
    assert contents == {
        "etc/kept": ("file", b"kept"),
        "cache/new": ("file", b"new"),
        "cache/deep/new": ("file", b"new"),
        "opt/new": ("file", b"new"),
        "bin/run": ("executable", b"#!"),
        "bin/again": ("executable", b"#!"),
        "was": ("file", b"is a file"),
    }
    assert set(found.directories()) == {"etc", "cache", "cache/deep", "opt", "bin", "var", "var/log", "file"}


@pytest.mark.parametrize(
    "members",
    [
        [member("../escaped", content=b"x")],
        [member("a/../../escaped", content=b"x")],
        [member("way", tarfile.SYMTYPE, link="../.."), member("way/escaped", content=b"x")],
        [member("copy", tarfile.LNKTYPE, link="../../etc/passwd")],
        [member("copy", tarfile.LNKTYPE, link="nowhere")],
        [member("a", content=b""), member("a/b", content=b"x")],
        [member("a/b", content=b""), member("a/.wh..")],
        [member("a/b", content=b""), member("a/.wh...")],
        [member("a/" * 300 + "b", content=b"x")],
        [member("a" * 256, content=b"x")],
        [member("nowhere", tarfile.SYMTYPE, link="")],
        [member("circle", tarfile.SYMTYPE, link="circle"), member("circle/x", content=b"x")],
    ],
)
def test_a_layer_that_cannot_be_inside_an_image_is_refused(
    tmp_path: Path, store: Store, members: list[tuple[tarfile.TarInfo, bytes]]
) -> None:
    with pytest.raises(Refused, match=r"leaves|circle|hard link|below|cannot be one|leads to"):
        applied(store, layer(tmp_path / "1", members))


def test_absolute_links_are_followed_inside_the_image(tmp_path: Path, store: Store) -> None:
    members = [
        member("usr/bin/", tarfile.DIRTYPE),
        member("bin", tarfile.SYMTYPE, link="/usr/bin"),
        member("bin/tool", content=b"t"),
        member("away", tarfile.SYMTYPE, link=str(tmp_path / "machine")),
        member("away/file", content=b"x"),
        member("up/", tarfile.DIRTYPE),
        member("up/over", tarfile.SYMTYPE, link="../usr"),
        member("up/over/lib", content=b"l"),
    ]
    entries = {entry.path: entry.kind for entry in applied(store, layer(tmp_path / "1", members)).entries()}
    machine = f"{tmp_path}/machine/file".lstrip("/")
    assert entries == {
        "bin": "link", "usr/bin/tool": "file", "away": "link", machine: "file", "up/over": "link", "usr/lib": "file",
    }  # fmt: skip


def test_a_link_of_a_lower_layer_that_leads_away_may_be_replaced(tmp_path: Path, store: Store) -> None:
    lower = [member("way", tarfile.SYMTYPE, link="../../..")]
    upper = [member("way/", tarfile.DIRTYPE), member("way/file", content=b"x")]
    found = applied(store, layer(tmp_path / "1", lower), layer(tmp_path / "2", upper))
    assert [entry.path for entry in found.entries()] == ["way/file"]


def write_app(project: Project) -> None:
    (project.root / "app").mkdir()
    (project.root / "app" / "server.py").write_text(SERVER)
    (project.root / "app" / "greeting").write_text("hello")
    (project.root / "app" / "start").write_text("#!/bin/sh\necho started with $GREETING_FILE $*\n")
    (project.root / "app" / "start").chmod(0o755)


def image(entrypoint: tuple[str, ...] = ("python", "/app/server.py")) -> BuildImage:
    env = (("GREETING_FILE", "/app/greeting"), ("PORT", "80"), ("SEARCHED", "/app:/elsewhere"))
    return BuildImage(layers=(Placed(tree=WorkingCopy(include=("app",)), at="/"),), entrypoint=entrypoint, env=env)


def test_an_unpacked_image_holds_what_was_put_into_it(project: Project, run_stage: RunStage, store: Store) -> None:
    write_app(project)
    tree = run_stage(Rootfs(image=image()))
    assert {entry.path: entry.kind for entry in store.entries(tree)} == {
        "app/server.py": "file", "app/greeting": "file", "app/start": "executable",
    }  # fmt: skip


def of_layers(store: Store, *layers: Path) -> Image:
    """An image of these layers as they are."""
    blobs = [store.put_file(path) for path in layers]
    entries = [Entry(f"blobs/sha256/{blob.digest}", "file", blob.digest, blob.size) for blob in blobs]

    def document(name: str, **content: Any) -> dict[str, Any]:
        blob = store.put(json.dumps(content).encode())
        entries.append(Entry(name or f"blobs/sha256/{blob.digest}", "file", blob.digest, blob.size))
        return {"digest": f"sha256:{blob.digest}", "size": blob.size}

    described = [{"mediaType": "tar", "digest": f"sha256:{blob.digest}", "size": blob.size} for blob in blobs]
    manifest = document("", layers=described)
    document("index.json", manifests=[manifest])
    return built(("python",)).model_copy(update={"digest": manifest["digest"], "layout": store.tree(entries)})


class Given(Stage[Image]):
    """An image that is there."""

    image: Image

    async def run(self, work: Work) -> Image:
        return self.image


def unpack(store: Store, image: Image, place: Path) -> None:
    anyio.run(unpack_image, store, image, place)


SEVERAL = [
    [member("a", content=b"1"), member("d/b", content=b"22"), member("gone", content=b"x"), member("var/log/", tarfile.DIRTYPE)],
    [
        member("a", content=b"3333", mode=0o755),
        member(".wh.gone"),
        member("same", tarfile.LNKTYPE, link="d/b"),
        member("to", tarfile.SYMTYPE, link="d/b"),
        member("empty", content=b""),
    ],
]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_what_is_laid_out_is_the_file_system_with_its_empty_directories(
    run_stage: RunStage, store: Store, tmp_path: Path, mode: str
) -> None:
    found = of_layers(store, *(layer(tmp_path / str(number), members, mode) for number, members in enumerate(SEVERAL)))
    unpack(store, found, tmp_path / "out")
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert files == {"a": b"3333", "b": b"22", "same": b"22", "to": b"22", "empty": b""}
    assert (tmp_path / "out/var/log").is_dir()
    assert (tmp_path / "out/to").is_symlink()
    assert store.put_tree(tmp_path / "out") == run_stage(Rootfs(image=Given(image=found)))


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_a_layer_that_is_cut_off_is_said_of_its_image(store: Store, tmp_path: Path, mode: str) -> None:
    whole = layer(tmp_path / "whole", [member("a", content=os.urandom(50_000))], mode).read_bytes()
    (tmp_path / "half").write_bytes(whole[:20_000])
    with pytest.raises(StageFailed, match="cannot be unpacked"):
        unpack(store, of_layers(store, tmp_path / "half"), tmp_path / "out")


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_layer_that_was_damaged_in_the_store_is_not_unpacked(store: Store, tmp_path: Path, mode: str) -> None:
    found = of_layers(store, made := layer(tmp_path / "1", [member("a", content=os.urandom(50_000))], mode))
    blob = store.put_file(made)
    data = bytearray(made.read_bytes())
    data[30_000] ^= 1
    store.path(blob).write_bytes(data)
    with pytest.raises(StoreError, match="was damaged on disk"):
        unpack(store, found, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_image_that_takes_too_long_is_given_up(run_stage: RunStage, store: Store, tmp_path: Path) -> None:
    members = [member(str(number), content=bytes(50_000_000)) for number in range(8)]
    found = of_layers(store, layer(tmp_path / "bomb", members, "w:gz"))
    with pytest.raises(StageDidNotPass, match=r"took longer than 0.2 s"):
        run_stage(Rootfs(image=Given(image=found), timeout=0.2))


def built(entrypoint: tuple[str, ...], **env: str) -> Image:
    tree = Tree(digest="0" * 64, files=1, size=1)
    return Image(
        digest="sha256:" + "0" * 64, layout=tree, entrypoint=entrypoint, env=env, user="1", workdir="/", labels={}, size=1,
        platform="linux/amd64",
    )  # fmt: skip


def in_image(*paths: str) -> frozenset[str]:
    from pipeline import Entry

    return paths_in(tuple(Entry(path, "file", "0" * 64) for path in paths))


def test_paths_that_the_image_has_are_looked_for_in_it() -> None:
    paths = in_image("app/site/x.py", "app/config")
    one = built(
        ("python", "-m", "x", "/app/config", "/etc/passwd"),
        PYTHONPATH="/app/site:/opt/none",
        CONFIG="/app/config",
        URL="http://h:1/app",
    )
    argv, env = process_of(one, "/r", {"EXTRA": "/app/", "KEPT": "/app"}, exists=paths.__contains__, host_paths=("KEPT",))
    assert argv == ("python", "-m", "x", "/r/app/config", "/etc/passwd")
    assert env == {
        "PYTHONPATH": "/r/app/site:/opt/none", "CONFIG": "/r/app/config", "URL": "http://h:1/app",
        "EXTRA": "/r/app/", "KEPT": "/app",
    }  # fmt: skip


def test_the_program_is_taken_from_the_image_before_the_machine() -> None:
    paths = in_image("usr/bin/tool")
    assert process_of(built(("tool",)), "/r", {}, exists=paths.__contains__)[0] == ("/r/usr/bin/tool",)
    assert process_of(built(("python",)), "/r", {}, exists=paths.__contains__)[0] == ("python",)
    assert find_program(built(("tool",)), paths.__contains__) == "/usr/bin/tool"
    assert find_program(built(("python",)), paths.__contains__) == ""


def test_the_image_s_own_path_comes_before_the_machine_s() -> None:
    paths = in_image("app/bin/tool")
    one = built(("tool",), PATH="/app/bin:/usr/bin")
    argv, env = process_of(one, "/r", {"PATH": "/opt/python:/bin"}, exists=paths.__contains__)
    assert argv == ("/r/app/bin/tool",)
    assert env["PATH"] == "/r/app/bin:/opt/python:/bin"
    assert "PATH" not in process_of(built(("tool",)), "/r", {}, exists=paths.__contains__)[1]


def test_a_command_replaces_the_entry_point() -> None:
    assert process_of(built(("tool",)), "/r", {}, command=("other", "x"), exists=lambda _: False)[0] == ("other", "x")


def test_an_image_runs_as_a_process(project: Project, run_stage: RunStage, store: Store, tmp_path: Path) -> None:
    write_app(project)
    one = run_stage(image(("/app/start",)))
    unpack(store, one, tmp_path / "out")
    argv, env = process_of(one, str(tmp_path / "out"), {})
    done = subprocess.run([*argv, "now"], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == f"started with {tmp_path}/out/app/greeting now\n"


class Fetched(Result):
    """What a service answered."""

    text: str


class Fetch(Stage[Fetched]):
    """Asks a service for a page."""

    service: Stage[Service]

    async def run(self, work: Work) -> Fetched:
        code = (
            "import os, urllib.request as r; "
            "u = 'http://' + os.environ['APP_HOST'] + ':' + os.environ['APP_PORT'] + '/readyz'; "
            "print(open('page', 'w').write(r.build_opener(r.ProxyHandler({})).open(u).read().decode()))"
        )
        result = await work.execute(Action(argv=("python", "-c", code), services=(work[self.service],), outputs=("page",)))
        return Fetched(text=result.require().output("page").read().decode())


def test_an_image_is_a_service_for_tests(project: Project, run_stage: RunStage) -> None:
    write_app(project)
    stage = image()
    service = ImageService(image=stage, rootfs=Rootfs(image=stage), ready="/readyz")
    assert run_stage(Fetch(service=service)).text.endswith("/rootfs/app/greeting")


def test_host_and_port_are_never_the_image_s(project: Project) -> None:
    tree = Tree(digest="0" * 64, files=1, size=1)
    one = built(("python",), HOST="0.0.0.0", PORT="80", OTHER="1")
    service = image_service(one, tree, frozenset(), name="app", port=8000, env={}, ready="/")
    assert service.env == {"OTHER": "1"}
