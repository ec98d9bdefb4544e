"""Validation of images."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gates import ValidationReport
from pipeline import Project, Stage, Store, Tree, Work
from stages.image import BuildImage, Image, Placed
from stages.image_validation import ValidateImage, faults, layout
from stages.rootfs import Rootfs
from stages.scripts import oci
from stages.source import WorkingCopy
from tests.conftest import RunStage
from tests.stages.test_rootfs import SERVER


def write_app(project: Project, program: str = "import sys\nprint(sys.argv)\n") -> None:
    (project.root / "app").mkdir()
    (project.root / "app" / "main.py").write_text(program)


def image(**fields: Any) -> BuildImage:
    tree = Placed(tree=WorkingCopy(include=("app",)), at="/")
    return BuildImage(layers=(tree,), entrypoint=("python", "/app/main.py"), env=(("GREETING_FILE", "/app"),), **fields)


def validate(stage: Stage[Image], **fields: Any) -> ValidateImage:
    return ValidateImage(image=stage, rootfs=Rootfs(image=stage), **{"provided": ("python",), **fields})


def results(report: ValidationReport) -> dict[str, bool]:
    return {check.name: check.passed for check in report.checks}


def test_an_image_whose_entry_point_ends_well_passes(project: Project, run_stage: RunStage) -> None:
    write_app(project)
    assert results(run_stage(validate(image()))) == {"layout": True, "user": True, "entry point": True, "start": True}


def test_an_image_whose_entry_point_fails_does_not_start(project: Project, run_stage: RunStage) -> None:
    write_app(project, "raise SystemExit('no settings')\n")
    report = run_stage(validate(image()))
    assert [check.said for check in report.bad()] == ["exit code 1: no settings"]


def test_an_image_that_has_not_the_program_it_starts_is_not_valid(project: Project, run_stage: RunStage) -> None:
    write_app(project)
    report = run_stage(validate(image(), provided=()))
    assert results(report) == {"layout": True, "user": True, "entry point": False}


def test_a_service_has_to_answer_at_its_ready_path(project: Project, run_stage: RunStage) -> None:
    write_app(project, SERVER)
    assert results(run_stage(validate(image(), ready="/readyz")))["start"]


def test_a_service_that_ends_does_not_become_ready(project: Project, run_stage: RunStage) -> None:
    write_app(project, "raise SystemExit('no database')\n")
    report = run_stage(validate(image(), ready="/readyz"))
    assert "no database" in report.bad()[0].said


def test_an_image_that_runs_as_root_is_not_valid(project: Project, run_stage: RunStage, store: Store) -> None:
    write_app(project)
    rooted = Rooted(image=image())
    assert results(run_stage(validate(rooted)))["user"] is False


class Rooted(Stage[Image]):
    """An image that names no user, as many bases do."""

    image: Stage[Image]

    async def run(self, work: Work) -> Image:
        return work[self.image].model_copy(update={"user": ""})


def damaged(store: Store, one: Image, **changes: Any) -> Image:
    """The image with its configuration changed and everything above it named anew."""

    def put(tree: Tree, value: Any) -> tuple[Tree, dict[str, Any]]:
        blob = store.put(oci.canonical(value))
        named = {"digest": f"sha256:{blob.digest}", "size": blob.size}
        return store.overlay({"": tree, f"blobs/sha256/{blob.digest}": blob}), named

    manifest = json.loads(store.read(store.file(one.layout, f"blobs/sha256/{one.digest[7:]}")))
    config = json.loads(store.read(store.file(one.layout, f"blobs/sha256/{manifest['config']['digest'][7:]}")))
    tree, named = put(one.layout, {**config, **changes})
    tree, top = put(tree, {**manifest, "config": {**manifest["config"], **named}})
    index = json.loads(store.read(store.file(one.layout, "index.json")))
    index["manifests"] = [{**index["manifests"][0], **top}]
    tree = store.overlay({"": tree, "index.json": store.put(oci.canonical(index))})
    return one.model_copy(update={"layout": tree, "digest": top["digest"]})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64]}}, "unpacks to something else"),
        ({"rootfs": {"type": "layers", "diff_ids": []}}, "1 layers have 0 diff_ids"),
        ({"os": ""}, "names no platform"),
        ({"rootfs": None}, "cannot be read"),
    ],
)
def test_a_configuration_that_contradicts_its_layers_is_found(
    project: Project, run_stage: RunStage, store: Store, changes: dict[str, Any], said: str
) -> None:
    write_app(project)
    check = layout(store, damaged(store, run_stage(image()), **changes))
    assert not check.passed
    assert said in check.said


def test_a_changed_or_missing_blob_is_found(project: Project, run_stage: RunStage, store: Store) -> None:
    write_app(project)
    one = run_stage(image())
    (big,) = [e for e in store.entries(one.layout) if e.size > 2000]
    other = store.overlay({"": one.layout, big.path: store.put(b"x" * big.size)})
    gone = store.tree(e for e in store.entries(one.layout) if e != big)
    assert "has other bytes" in next(faults(store, one.model_copy(update={"layout": other})))
    assert "is missing" in next(faults(store, one.model_copy(update={"layout": gone})))
    assert "is missing" in next(faults(store, one.model_copy(update={"layout": store.tree([])})))
    assert "does not name" in next(faults(store, one.model_copy(update={"digest": "sha256:" + "0" * 64})))
    assert not list(faults(store, one))
