"""Images built without a daemon."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from pipeline import Journal, Pipeline, Project, Stage, StageFailed, Store, Tree, WiringError
from pipeline.engine import Engine
from pipeline.engines.choose import open_engine
from stages.image import BaseImage, BuildImage, DockerfileImage, Image, ImageSize, Placed, is_root, layers_of, read_image
from stages.scripts import oci
from stages.source import SourceProvenance, WorkingCopy
from tests.conftest import RunStage, StageDidNotPass
from tests.running import run_pipeline
from tests.stages.package import commit, run_again

SERVE = ("python", "/app/serve.py")


def write_app(project: Project) -> None:
    (project.root / "serve.py").write_text("print('hello')\n")
    (project.root / "bin").mkdir()
    (project.root / "bin" / "start").write_text("#!/bin/sh\nexec python /app/serve.py\n")
    (project.root / "bin" / "start").chmod(0o755)
    (project.root / "bin" / "begin").symlink_to("start")
    (project.root / f"{'long/' * 30}é.txt").parent.mkdir(parents=True)
    (project.root / f"{'long/' * 30}é.txt").write_text("far away")


def image(source: Stage[Tree] | None = None, **fields: Any) -> BuildImage:
    return BuildImage(layers=(Placed(tree=source or WorkingCopy(), at="/app"),), entrypoint=SERVE, **fields)


def layer(store: Store, built: Image, number: int = 0) -> tarfile.TarFile:
    name = layers_of(store, built)[number]["digest"].removeprefix("sha256:")
    return tarfile.open(fileobj=io.BytesIO(store.read(store.file(built.layout, f"blobs/sha256/{name}"))))


def dagger(project: Project, store: Store) -> Engine:
    return open_engine("dagger", project, store)


def test_an_image_holds_the_files_of_its_layers_with_their_directories(
    project: Project, run_stage: RunStage, store: Store
) -> None:
    write_app(project)
    with layer(store, run_stage(image())) as tar:
        members = {member.name: member for member in tar}
    assert members["app"].isdir()
    assert members["app/bin"].mode == 0o755
    assert members["app/serve.py"].mode == 0o644
    assert members["app/bin/start"].mode == 0o755
    assert members["app/bin/begin"].linkname == "start"
    assert members[f"app/{'long/' * 30}é.txt"].size == 8
    assert list(members) == sorted(members)
    assert {(m.uid, m.gid, m.mtime) for m in members.values()} == {(0, 0, 0)}


def test_an_image_says_how_it_is_run(project: Project, run_stage: RunStage) -> None:
    write_app(project)
    built = run_stage(image(env=(("B", "2"), ("A", "1")), workdir="/app", labels=(("team", "vision"),), ports=(8000,)))
    assert built.entrypoint == SERVE
    assert built.env == {"A": "1", "B": "2"}
    assert (built.user, built.workdir) == ("65532:65532", "/app")
    assert built.labels == {"team": "vision"}
    assert built.platform == f"linux/{oci.architecture()}"


def test_without_history_an_image_has_no_date(project: Project, run_stage: RunStage, store: Store) -> None:
    write_app(project)
    built = run_stage(image(provenance=SourceProvenance()))
    assert "created" not in config(store, built)
    assert built.labels == {}


def test_an_image_is_dated_and_labelled_by_its_commit(project: Project, run_stage: RunStage, store: Store) -> None:
    write_app(project)
    commit(project, "2024-05-06T07:08:10Z")
    built = run_stage(image(provenance=SourceProvenance()))
    assert config(store, built)["created"] == "2024-05-06T07:08:10Z"
    assert len(built.labels["org.opencontainers.image.revision"]) == 40
    with layer(store, built) as tar:
        assert {member.mtime for member in tar} == {1714979290}


def config(store: Store, built: Image) -> Any:
    manifest = json.loads(store.read(store.file(built.layout, f"blobs/sha256/{built.digest[7:]}")))
    return json.loads(store.read(store.file(built.layout, f"blobs/sha256/{manifest['config']['digest'][7:]}")))


def test_the_same_inputs_give_the_same_digest_wherever_and_whenever(
    project: Project, run_stage: RunStage, store: Store, journal: Journal
) -> None:
    write_app(project)
    first = run_stage(image())
    for path in project.root.rglob("*.py"):
        os.utime(path, (1, 1))
        path.chmod(0o600)
    assert run_again(image(), project, store, journal) == first


def test_the_digest_is_the_one_it_has_always_been(tmp_path: Path) -> None:
    """Written by hand, the bytes of layers depend on no version of Python: this digest must never change."""
    (tmp_path / "in" / "app").mkdir(parents=True)
    (tmp_path / "in" / "app" / "serve.py").write_bytes(b"print('hello')\n")
    pieces = b"".join(oci.archive(tmp_path / "in", 1714979290))
    assert hashlib.sha256(pieces).hexdigest() == "69df0b11e3da0fee0be1ea449d6a34863adcbe7519ff4b086737721f0013538f"


def test_other_files_give_another_digest(project: Project, run_stage: RunStage) -> None:
    write_app(project)
    first = run_stage(image())
    (project.root / "serve.py").write_text("print('bye')\n")
    assert run_stage(image()).digest != first.digest


def test_layers_that_do_not_change_keep_their_digest(project: Project, run_stage: RunStage, store: Store) -> None:
    write_app(project)

    def build() -> Image:
        code, rest = WorkingCopy(include=("serve.py",)), Other(include=("bin",))
        built: Image = run_stage(
            BuildImage(layers=(Placed(tree=rest, at="/app"), PlacedToo(tree=code, at="/app")), entrypoint=SERVE)
        )
        return built

    first = layers_of(store, build())
    (project.root / "serve.py").write_text("print('bye')\n")
    second = layers_of(store, build())
    assert first[0] == second[0]
    assert first[1] != second[1]


class Other(WorkingCopy):
    """A second working copy, under a name of its own."""


class PlacedToo(Placed):
    """A second placement, under a name of its own."""


@pytest.mark.parametrize("user", ["", "root", "0", "00", "0:0", "root:users", ":5"])
def test_an_image_that_would_run_as_root_is_refused_when_it_is_wired(user: str) -> None:
    with pytest.raises(WiringError, match="which is root"):
        image(user=user)
    assert is_root(user)


@pytest.mark.parametrize(
    "fields",
    [{"workdir": "app"}, {"env": (("A", "1"), ("A", "2"))}, {"env": (("A=B", "1"),)}, {"ports": (0,)}, {"ports": (70000,)}],
)
def test_a_configuration_that_could_not_run_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(WiringError):
        image(**fields)


def test_an_image_without_layers_or_entrypoint_is_refused() -> None:
    with pytest.raises(WiringError, match="no layers"):
        BuildImage(layers=(), entrypoint=SERVE)
    with pytest.raises(WiringError, match="no entrypoint"):
        BuildImage(layers=(WorkingCopy(),), entrypoint=())


def test_a_place_outside_the_image_is_refused() -> None:
    with pytest.raises(WiringError, match="inside the image"):
        Placed(tree=WorkingCopy(), at="/app/../../etc")


def test_an_image_of_nothing_fails(run_stage: RunStage) -> None:
    with pytest.raises(StageDidNotPass, match="hold no file"):
        run_stage(BuildImage(layers=(Nothing(),), entrypoint=SERVE))


class Nothing(Stage[Tree]):
    """An empty tree."""

    async def run(self, work: Any) -> Tree:
        found: Tree = work.store.tree([])
        return found


def test_a_base_keeps_its_layers_and_its_environment(project: Project, run_stage: RunStage, store: Store) -> None:
    write_app(project)
    source = WorkingCopy()
    base = image(source, env=(("LANG", "C.UTF-8"), ("A", "base")), labels=(("of", "base"),))
    lower = run_stage(base)
    built = run_stage(BuildImage(layers=(source,), entrypoint=("/app/bin/start",), env=(("A", "own"),), base=Layout(image=base)))
    assert layers_of(store, built)[0] == layers_of(store, lower)[0]
    assert len(layers_of(store, built)) == 2
    assert built.env == {"LANG": "C.UTF-8", "A": "own"}
    assert built.labels == {"of": "base"}
    assert built.entrypoint == ("/app/bin/start",)
    assert len(config(store, built)["rootfs"]["diff_ids"]) == 2


class Layout(Stage[Tree]):
    """The layout of an image, as the base of another."""

    image: Stage[Image]

    async def run(self, work: Any) -> Tree:
        found: Tree = work[self.image].layout
        return found


def test_a_blob_that_is_not_what_its_name_says_is_no_image(project: Project, run_stage: RunStage, store: Store) -> None:
    write_app(project)
    built = run_stage(image())
    name = layers_of(store, built)[0]["digest"].removeprefix("sha256:")
    damaged = store.overlay({"": built.layout, f"blobs/sha256/{name}": store.put(b"something else")})
    with pytest.raises(StageFailed, match="other bytes"):
        read_image(store, damaged)


def test_the_size_of_an_image_is_that_of_its_parts(project: Project, run_stage: RunStage) -> None:
    write_app(project)
    stage = image()
    built, report = run_stage(stage), run_stage(ImageSize(image=stage))
    assert report.total == built.size == sum(report.parts.values())
    assert set(report.parts) == {"layer 1", "configuration"}


@pytest.mark.parametrize("reference", ["python", "python:3.11-slim", "python@sha256:12", "python@sha512:" + "0" * 64])
def test_a_base_that_is_not_named_by_digest_is_refused(reference: str) -> None:
    with pytest.raises(WiringError, match="by digest"):
        BaseImage(reference=reference)


def test_a_username_without_a_password_is_no_credential(run_stage: RunStage) -> None:
    with pytest.raises(StageDidNotPass, match="only one of username and password"):
        run_stage(BaseImage(reference="127.0.0.1:1/x@sha256:" + "0" * 64, username="WHO"))


def test_the_docker_build_is_for_the_dagger_engine_alone() -> None:
    assert DockerfileImage.engines == {"dagger"}


@pytest.mark.usefixtures("dagger_session")
def test_the_digest_of_one_input_is_equal_on_host_and_dagger(
    project: Project, run_stage: RunStage, store: Store, journal: Journal
) -> None:
    write_app(project)
    commit(project, "2024-05-06T07:08:10Z")
    stage = image(provenance=SourceProvenance(), env=(("A", "1"),))
    here = run_stage(stage)
    outcome, found = run_pipeline(Pipeline("there", subject=stage), project, store, journal, engine=dagger(project, store))
    assert not outcome.failed
    assert found["subject"] == here


@pytest.mark.usefixtures("dagger_session")
def test_a_dockerfile_becomes_an_image(project: Project, run_stage: RunStage, store: Store) -> None:
    write_app(project)
    version = ".".join(map(str, sys.version_info[:2]))
    (project.root / "Dockerfile").write_text(
        f'FROM python:{version}-slim\nCOPY serve.py /app/serve.py\nUSER 65532\nENTRYPOINT ["python", "/app/serve.py"]\n'
    )
    built = run_stage(DockerfileImage(source=WorkingCopy()), engine=dagger(project, store))
    assert built.entrypoint == SERVE
    assert built.user == "65532"
    assert built.platform == f"linux/{oci.architecture()}"
    assert len(layers_of(store, built)) > 1


@pytest.mark.usefixtures("dagger_session")
def test_a_dockerfile_whose_command_fails_fails_the_stage(project: Project, run_stage: RunStage, store: Store) -> None:
    version = ".".join(map(str, sys.version_info[:2]))
    (project.root / "Dockerfile").write_text(f"FROM python:{version}-slim\nRUN echo the reason >&2; exit 7\n")
    with pytest.raises(StageDidNotPass, match="exit code: 7"):
        run_stage(DockerfileImage(source=WorkingCopy()), engine=dagger(project, store))
