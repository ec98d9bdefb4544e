"""Assets: minified, compressed, named by their content."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import Journal, Project, Store, Tree, WiringError
from stages.assets import Assets, OptimizeAssets, WithAssets
from stages.environment import Tool
from stages.source import WorkingCopy
from tests.conftest import RunStage, StageDidNotPass
from tests.stages.package import EXAMPLE, run_again

PAGE = """<!doctype html>
<html lang="en"><head><title>A page</title>
  <link rel="stylesheet" href="/static/css/app.css?v=1">
  <script type="module" src="app.js"></script>
  <a href="https://example.org/app.js">elsewhere</a> <a href="/about">about</a>
</head><body>   <img src='img/dot.svg#a' alt="a dot">   </body></html>
"""
FILES = {
    "index.html": PAGE,
    "app.js": "// says hello\nimport { greet } from './lib/greet.js';\ngreet( 'there' , 1 + 1 );\n",
    "lib/greet.js": "export function greet(name, count) {\n  console.log('hello ' + name, count);\n}\n",
    "css/app.css": "/* all */\n@import \"more.css\";\nbody {\n  color: #ff0000;\n  background: url( '../img/dot.svg' );\n}\n",
    "css/more.css": "p   {\n margin : 0px ;\n}\n",
    "img/dot.svg": '<svg xmlns="http://www.w3.org/2000/svg">  <!-- a dot -->  <circle r="1"/>  </svg>\n',
    "data.json": '{ "a" : [ 1 , 2 ] }\n',
    "img/photo.png": "no real picture\n",
}


def write(project: Project, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = project.root / "web" / "static" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (project.root / "web" / "app.py").write_text("pass\n")


def stage(source: WorkingCopy | None = None, **fields: Any) -> OptimizeAssets:
    return OptimizeAssets(source=source or WorkingCopy(), tool=Tool(name="assets"), directory="web/static", **fields)


def read(store: Store, tree: Tree, path: str) -> bytes:
    return store.read(store.file(tree, path))


def test_every_asset_but_the_pages_is_named_by_its_content(project: Project, run_stage: RunStage, store: Store) -> None:
    write(project, FILES)
    found = run_stage(stage())
    assert set(found.manifest) == set(FILES) - {"index.html"}
    for given in found.manifest.values():
        stem, fingerprint, _ = given.rsplit(".", 2)
        assert stem
        assert hashlib.sha256(read(store, found.tree, given)).hexdigest().startswith(fingerprint)
        assert len(fingerprint) == 8
    assert json.loads(read(store, found.tree, "manifest.json")) == found.manifest


def test_references_follow_the_names(project: Project, run_stage: RunStage, store: Store) -> None:
    write(project, FILES)
    found = run_stage(stage())
    names = {name: given.rpartition("/")[2] for name, given in found.manifest.items()}
    page = read(store, found.tree, "index.html").decode()
    assert f"/static/css/{names['css/app.css']}?v=1" in page
    assert f"img/{names['img/dot.svg']}#a" in page
    assert names["app.js"] in page
    assert "https://example.org/app.js" in page
    assert "/about" in page
    style = read(store, found.tree, found.manifest["css/app.css"]).decode()
    assert names["css/more.css"] in style
    assert f"../img/{names['img/dot.svg']}" in style
    assert f"./lib/{names['lib/greet.js']}" in read(store, found.tree, found.manifest["app.js"]).decode()


def test_a_changed_asset_renames_all_that_name_it(project: Project, run_stage: RunStage) -> None:
    write(project, FILES)
    first = run_stage(stage()).manifest
    write(project, {"css/more.css": "p { margin: 1px }\n"})
    second = run_stage(stage()).manifest
    changed = {name for name in first if first[name] != second[name]}
    assert changed == {"css/more.css", "css/app.css"}


def test_text_is_minified_and_other_files_are_left_alone(project: Project, run_stage: RunStage, store: Store) -> None:
    write(project, FILES)
    found = run_stage(stage())
    assert found.after < found.before == sum(len(text) for text in FILES.values())
    assert read(store, found.tree, found.manifest["data.json"]) == b'{"a":[1,2]}'
    assert b"says hello" not in read(store, found.tree, found.manifest["app.js"])
    assert read(store, found.tree, found.manifest["img/photo.png"]) == b"no real picture\n"


def test_what_compresses_is_compressed_beside_itself(project: Project, run_stage: RunStage, store: Store) -> None:
    write(project, {"long.css": "".join(f".c{n} {{ color: red; width: {n}px }}\n" for n in range(200)), "s.css": "a{b:c}"})
    found = run_stage(stage())
    name = found.manifest["long.css"]
    packed = read(store, found.tree, f"{name}.gz")
    assert gzip.decompress(packed) == read(store, found.tree, name)
    assert packed[4:8] == bytes(4)  # no date
    paths = {entry.path for entry in store.entries(found.tree)}
    assert f"{name}.br" in paths
    assert f"{found.manifest['s.css']}.gz" not in paths


def test_optimizing_twice_gives_the_same_bytes(project: Project, run_stage: RunStage, store: Store, journal: Journal) -> None:
    write(project, FILES)
    assert run_stage(stage()) == run_again(stage(), project, store, journal)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"app.js": "function ( {"}, r"web/static/app.js"),
        ({"a.css": "@import 'b.css';", "b.css": "@import 'a.css';"}, r"circle \(a.css -> b.css -> a.css\)"),
        ({"manifest.json": "{}"}, r"name of the list"),
        ({"../other/x.css": "a{b:c}"}, r"no files below"),
    ],
)
def test_what_cannot_be_optimized_fails_with_the_file(
    project: Project, run_stage: RunStage, files: dict[str, str], said: str
) -> None:
    write(project, files)
    with pytest.raises(StageDidNotPass, match=said):
        run_stage(stage())


def test_a_url_that_is_no_path_is_refused() -> None:
    with pytest.raises(WiringError, match="url is"):
        stage(url="https://cdn.example.org")


def test_the_source_holds_the_assets_in_place_of_its_own(project: Project, run_stage: RunStage, store: Store) -> None:
    write(project, FILES)
    source = WorkingCopy()
    assets = stage(source)
    paths = {e.path for e in store.entries(run_stage(WithAssets(source=source, assets=assets, directory="web/static")))}
    found: Assets = run_stage(assets)
    assert {"web/app.py", "web/static/manifest.json", f"web/static/{found.manifest['app.js']}"} <= paths
    assert "web/static/app.js" not in paths


def test_the_example_s_page_finds_its_assets(project: Project, run_stage: RunStage, store: Store, tmp_path: Path) -> None:
    static = EXAMPLE / "src/camera_counting/static"
    write(project, {path.name: path.read_text() for path in static.iterdir()})
    found = run_stage(stage())
    store.lay_out(found.tree, tmp_path / "static")
    page = (tmp_path / "static" / "index.html").read_text()
    assert {"app.css", "app.js", "icon.svg"} == set(found.manifest)
    assert all(f"/static/{given}" in page for given in found.manifest.values())
