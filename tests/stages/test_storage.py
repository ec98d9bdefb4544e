"""Storage: directories, image registries and package indexes, all of them real."""

from __future__ import annotations

import importlib.util
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gates import Check, QualityGate, valid
from gates.validation import ValidationCheck, ValidationReport
from pipeline import Blob, Effect, Project, Retry, Stage, Store, Tree, WiringError, Work
from stages.image import BaseImage, BuildImage, Image, Placed, layers_of, read_image
from stages.scripts import oci, registry
from stages.source import SourceProvenance, WorkingCopy
from stages.storage import PublishDistributions, PushImage, StoreArtifact, keep, publish_action
from stages.tag import TagImage
from stages.wheel import BuildDistributions, Distributions
from tests.conftest import RunStage, StageDidNotPass
from tests.stages.package import build_environment, write_package
from tests.stages.registries import REGISTRY, USER, WORD, image_registry, package_index, token_registry

needs_registry = pytest.mark.skipif(REGISTRY is None, reason="no docker-registry program")
needs_index = pytest.mark.skipif(importlib.util.find_spec("pypiserver") is None, reason="pypiserver is not installed")

NEVER = Retry()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[str]:
    with image_registry(tmp_path / "registry") as found:
        yield found


def write_app(project: Project, text: str = "print('hello')\n") -> None:
    (project.root / "app").mkdir(exist_ok=True)
    (project.root / "app" / "main.py").write_text(text)


def image() -> BuildImage:
    return BuildImage(layers=(Placed(tree=WorkingCopy(include=("app",)), at="/"),), entrypoint=("python", "/app/main.py"))


def push(stage: Stage[Image], host: str, **fields: Any) -> PushImage:
    tags = TagImage(provenance=SourceProvenance(), version="1.4.2-rc.1")
    return PushImage(image=stage, repository=f"{host}/team/app", tags=tags, **fields)


def manifest(host: str, name: str) -> dict[str, Any]:
    request = urllib.request.Request(f"http://{host}/v2/team/app/manifests/{name}", headers={"Accept": oci.MANIFEST})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
        return {**json.loads(answer.read()), "digest": answer.headers["Docker-Content-Digest"]}


@needs_registry
def test_a_pushed_image_is_under_its_digest_and_every_tag(project: Project, run_stage: RunStage, host: str) -> None:
    write_app(project)
    stage = image()
    pushed, built = run_stage(push(stage, host)), run_stage(stage)
    assert pushed.digest == built.digest
    assert pushed.reference == f"{host}/team/app@{built.digest}"
    for name in (*pushed.tags, built.digest):
        assert manifest(host, name)["digest"] == built.digest


@needs_registry
def test_pushing_again_sends_no_blob_again(
    project: Project, run_stage: RunStage, store: Store, host: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_app(project)
    stage = image()
    assert run_stage(push(stage, host)) == run_stage(push(stage, host))
    store.lay_out(run_stage(stage).layout, tmp_path / "layout")
    capsys.readouterr()
    registry.push(registry.Registry(f"{host}/team/app", "", ""), tmp_path / "layout", ["again"], "")
    said = capsys.readouterr().out.split()
    assert said.count("present") == 2
    assert "sent" not in said


@needs_registry
def test_a_layer_larger_than_one_piece_arrives_whole(
    project: Project, run_stage: RunStage, store: Store, host: str, tmp_path: Path
) -> None:
    (project.root / "app").mkdir()
    (project.root / "app" / "main.py").write_bytes(b"#" * (registry.PIECE * 2 + 12345))
    built = run_stage(image())
    store.lay_out(built.layout, tmp_path / "layout")
    assert registry.push(registry.Registry(f"{host}/team/app", "", ""), tmp_path / "layout", ["big"], "") == built.digest
    layers = run_stage(BaseImage(reference=f"{host}/team/app@{built.digest}"))
    assert layers == built.layout


@needs_registry
def test_a_blob_is_taken_from_another_repository(
    project: Project, run_stage: RunStage, store: Store, host: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_app(project)
    store.lay_out(run_stage(image()).layout, tmp_path / "layout")
    registry.push(registry.Registry(f"{host}/team/app", "", ""), tmp_path / "layout", ["one"], "")
    capsys.readouterr()
    registry.push(registry.Registry(f"{host}/team/other", "", ""), tmp_path / "layout", ["one"], "team/app")
    said = capsys.readouterr().out.split()
    assert said.count("mounted") == 2
    assert "sent" not in said


@needs_registry
def test_a_pulled_base_is_the_image_that_was_pushed(project: Project, run_stage: RunStage, store: Store, host: str) -> None:
    write_app(project)
    stage = image()
    pushed, built = run_stage(push(stage, host)), run_stage(stage)
    layout = run_stage(BaseImage(reference=pushed.reference))
    assert read_image(store, layout) == built


@needs_registry
@pytest.mark.parametrize("change", [b"other bytes", b""])
def test_a_blob_that_is_damaged_in_the_registry_is_refused(
    project: Project, run_stage: RunStage, store: Store, host: str, tmp_path: Path, change: bytes
) -> None:
    write_app(project)
    stage = image()
    pushed = run_stage(push(stage, host))
    (layer,) = layers_of(store, run_stage(stage))
    (kept,) = (tmp_path / "registry" / "data").rglob(f"{layer['digest'][7:]}/data")
    kept.write_bytes(change.ljust(layer["size"], b"x") if change else b"")
    with pytest.raises(StageDidNotPass, match="other bytes than those of sha256"):
        run_stage(BaseImage(reference=pushed.reference, retry=NEVER))


@needs_registry
def test_of_an_index_the_image_of_this_machine_is_pulled(
    project: Project, run_stage: RunStage, store: Store, host: str, tmp_path: Path
) -> None:
    write_app(project)
    stage = image()
    run_stage(push(stage, host))
    built = run_stage(stage)
    own = {**oci_manifest(store, built), "platform": {"os": "linux", "architecture": oci.architecture()}}
    other = {**own, "platform": {"os": "linux", "architecture": "s390x"}}
    for entries, good in (([{**other}, own], True), ([other], False)):
        index = oci.canonical({"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": entries})
        where = registry.Registry(f"{host}/team/app", "", "")
        answer = where.send("PUT", where.url("manifests/many"), data=index, headers={"Content-Type": oci.INDEX})
        reference = f"{host}/team/app@{answer.headers['Docker-Content-Digest']}"
        if good:
            assert read_image(store, run_stage(BaseImage(reference=reference))).digest == built.digest
        else:
            with pytest.raises(StageDidNotPass, match=r"there is no image for linux/.*expected one of: linux/s390x"):
                run_stage(BaseImage(reference=reference, retry=NEVER))


def oci_manifest(store: Store, built: Image) -> dict[str, Any]:
    (entry,) = json.loads(store.read(store.file(built.layout, "index.json")))["manifests"]
    return {key: entry[key] for key in ("mediaType", "digest", "size")}


@needs_registry
@pytest.mark.parametrize("kind", ["password", "token"])
def test_credentials_are_secrets_and_open_the_registry(
    project: Project, run_stage: RunStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    write_app(project)
    monkeypatch.setenv("THE_USER", USER)
    monkeypatch.setenv("THE_WORD", WORD)
    opened = image_registry(tmp_path / "r", locked=True) if kind == "password" else token_registry(tmp_path / "r")
    with opened as found:
        host = found if isinstance(found, str) else found[0]
        pushed = run_stage(push(image(), host, username="THE_USER", password="THE_WORD"))
        assert run_stage(BaseImage(reference=pushed.reference, username="THE_USER", password="THE_WORD")).files
        monkeypatch.setenv("THE_WORD", "another-word")
        with pytest.raises(StageDidNotPass, match=r"401|gives no token"):
            run_stage(push(image(), host, username="THE_USER", password="THE_WORD", retry=NEVER))
        with pytest.raises(StageDidNotPass, match=r"asks to log in|gives no token"):
            run_stage(push(image(), host, retry=NEVER))
    for log in project.home.glob("logs/*/*/*.log"):
        assert WORD not in log.read_text(errors="replace")


@needs_registry
def test_a_registry_that_has_no_such_image_says_so(run_stage: RunStage, host: str) -> None:
    with pytest.raises(StageDidNotPass, match=r"404 (NAME|MANIFEST)_UNKNOWN"):
        run_stage(BaseImage(reference=f"{host}/team/app@sha256:{'0' * 64}", retry=NEVER))


def test_a_registry_that_is_not_there_is_said_clearly(run_stage: RunStage) -> None:
    with pytest.raises(StageDidNotPass, match="Connection refused"):
        run_stage(BaseImage(reference=f"127.0.0.1:1/team/app@sha256:{'0' * 64}", retry=NEVER))


def test_a_repository_with_a_tag_is_refused() -> None:
    for name in ("host/app:1", "host/app@sha256:00", ""):
        with pytest.raises(WiringError, match="without tag"):
            PushImage(image=image(), repository=name, tags=TagImage(provenance=SourceProvenance(), version="1.0.0"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("python", ("registry-1.docker.io", "library/python")),
        ("team/app", ("registry-1.docker.io", "team/app")),
        ("docker.io/python", ("registry-1.docker.io", "library/python")),
        ("ghcr.io/team/app", ("ghcr.io", "team/app")),
        ("localhost/app", ("localhost", "app")),
        ("127.0.0.1:5000/a/b/c", ("127.0.0.1:5000", "a/b/c")),
    ],
)
def test_names_are_read_as_docker_reads_them(name: str, expected: tuple[str, str]) -> None:
    assert registry.split(name) == expected


@pytest.mark.parametrize(("name", "scheme"), [("127.0.0.1:5/a", "http"), ("localhost/a", "http"), ("[::1]:5/a", "http"),
                                              ("example.org/a", "https"), ("localhost.example.org/a", "https")])  # fmt: skip
def test_only_this_machine_is_spoken_to_without_tls(name: str, scheme: str) -> None:
    assert registry.Registry(name, "", "").base.startswith(f"{scheme}://")


def test_credentials_are_never_sent_where_the_connection_is_not_safe() -> None:
    one = registry.Registry("example.org/a", USER, WORD)
    for realm in ("http://example.org/token", "file:///etc/passwd"):
        with pytest.raises(registry.Refused, match="expected https"):
            one._log_in(f'Bearer realm="{realm}",service="x"', "https://example.org/v2/")


# directories


class Given(Stage[Tree]):
    """A tree of one file."""

    text: str

    async def run(self, work: Work) -> Tree:
        return work.store.overlay({"file.txt": work.store.put(self.text.encode())})


def test_an_artifact_is_kept_under_its_name_and_version(project: Project, run_stage: RunStage) -> None:
    stored = run_stage(StoreArtifact(artifact=Given(text="one"), name="thing", version="1.0.0"))
    assert stored.path == "artifacts/thing/1.0.0"
    assert (project.root / stored.path / "file.txt").read_text() == "one"
    index = json.loads((project.root / "artifacts/index.json").read_text())
    assert index["thing"]["1.0.0"]["digest"] == stored.digest
    assert set(index["thing"]["1.0.0"]["files"]) == {"file.txt"}


def test_storing_again_changes_nothing_and_other_bytes_are_refused(project: Project, run_stage: RunStage) -> None:
    first = run_stage(StoreArtifact(artifact=Given(text="one"), name="thing", version="1.0.0"))
    assert run_stage(StoreArtifact(artifact=Given(text="one"), name="thing", version="1.0.0")) == first
    with pytest.raises(StageDidNotPass, match=r"version 1\.0\.0 of thing is there with other files"):
        run_stage(StoreArtifact(artifact=Given(text="two"), name="thing", version="1.0.0"))
    assert (project.root / first.path / "file.txt").read_text() == "one"
    run_stage(StoreArtifact(artifact=Given(text="two"), name="thing", version="1.0.1"))
    index = json.loads((project.root / "artifacts/index.json").read_text())
    assert set(index["thing"]) == {"1.0.0", "1.0.1"}


def test_what_broke_off_before_the_index_was_written_is_listed_by_the_next_try(store: Store, tmp_path: Path) -> None:
    tree = store.overlay({"file.txt": store.put(b"one")})
    store.lay_out(tree, tmp_path / "a" / "thing" / "1.0.0")
    keep(store, tree, tmp_path / "a", "thing", "1.0.0")
    assert json.loads((tmp_path / "a/index.json").read_text())["thing"]["1.0.0"]["digest"] == tree.digest


def test_without_a_version_an_artifact_is_kept_under_its_content(project: Project, run_stage: RunStage) -> None:
    one, other = (run_stage(StoreArtifact(artifact=Given(text=text), name="thing")) for text in ("one", "other"))
    assert one.version == f"sha256-{one.digest[:12]}" != other.version
    assert (project.root / one.path).is_dir()
    assert (project.root / other.path).is_dir()


def test_what_is_kept_is_no_part_of_the_source(project: Project, run_stage: RunStage, store: Store) -> None:
    run_stage(StoreArtifact(artifact=Given(text="one"), name="thing", version="1.0.0"))
    paths = {entry.path for entry in store.entries(run_stage(WorkingCopy()))}
    assert not any(path.startswith("artifacts") for path in paths)


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "../x", "version": "1"}, {"name": "x", "version": ".."}, {"name": "x", "version": "1/2"},
        {"name": "x", "version": "1", "destination": "../out"}, {"name": "x", "version": "1", "destination": "/out"},
    ],
)  # fmt: skip
def test_a_place_outside_the_destination_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(WiringError):
        StoreArtifact(artifact=Given(text="one"), **fields)


# packages


class Sound(Stage[ValidationReport]):
    """Evidence about distributions, for the gate in front of their publication."""

    distributions: Stage[Distributions]

    async def run(self, work: Work) -> ValidationReport:
        name = work[self.distributions].name
        return ValidationReport(subject=name, checks=(ValidationCheck(name="is", passed=True, said="it is"),))


def publish(url: str, **fields: Any) -> PublishDistributions:
    built = BuildDistributions(source=WorkingCopy(), environment=build_environment())
    gate = QualityGate(artifact=built, checks=(Check(evidence=Sound(distributions=built), rule=valid),))
    return PublishDistributions(distributions=gate, url=url, username="THE_USER", password="THE_WORD", **fields)


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_USER", USER)
    monkeypatch.setenv("THE_WORD", WORD)


@needs_index
@pytest.mark.usefixtures("secrets")
def test_published_distributions_are_in_the_index(project: Project, run_stage: RunStage, store: Store, tmp_path: Path) -> None:
    write_package(project)
    with package_index(tmp_path / "index") as url:
        published = run_stage(publish(f"{url}/"))
    kept = {path.name: store.put_file(path).digest for path in (tmp_path / "index/packages").iterdir()}
    assert published.files == kept
    assert (published.name, published.version) == ("thing", "1.4.2")


@needs_index
@pytest.mark.usefixtures("secrets")
def test_publishing_what_is_there_is_left_out_with_check_url_and_refused_without(
    project: Project, run_stage: RunStage, tmp_path: Path
) -> None:
    write_package(project)
    with package_index(tmp_path / "index") as url:
        first = run_stage(publish(f"{url}/"))
        with pytest.raises(StageDidNotPass, match="exit code 2"):
            run_stage(publish(f"{url}/"))
        assert run_stage(publish(f"{url}/", check_url=f"{url}/simple/")) == first


@needs_index
@pytest.mark.usefixtures("secrets")
@pytest.mark.parametrize("check", [False, True])
def test_a_publication_of_which_half_was_taken_is_repeated_only_where_it_is_seen_what_is_there(
    project: Project, run_stage: RunStage, tmp_path: Path, check: bool
) -> None:
    write_package(project)
    kept = tmp_path / "index" / "packages"
    with package_index(tmp_path / "index") as url:
        stage = publish(f"{url}/", check_url=f"{url}/simple/" if check else "")
        taken = kept / "thing-1.4.2.tar.gz"
        taken.write_bytes(b"somebody else's")
        with pytest.raises(StageDidNotPass, match="exit code 2"):
            run_stage(stage)
        assert len(list(kept.glob("*.whl"))) == 1
        taken.unlink()
        if check:
            assert sorted(run_stage(stage).files) == sorted(path.name for path in kept.iterdir())
        else:
            with pytest.raises(StageDidNotPass, match="nobody knows whether subject took place"):
                run_stage(stage)


def test_publishing_is_a_side_effect_that_is_not_repeated() -> None:
    assert PublishDistributions.effect is Effect.ONCE
    assert not PublishDistributions.can_undo()


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "ftp://x"},
        {"url": "https://me:word@x"},
        {"url": "https://x", "username": "A"},
        {"url": "https://x", "token": "A", "username": "B", "password": "C"},
    ],
)
def test_an_index_that_cannot_be_used_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(WiringError):
        PublishDistributions(distributions=publish("https://x").distributions, **fields)


def test_what_no_gate_let_through_is_not_published() -> None:
    built: Any = publish("https://x").distributions.artifact  # type: ignore[attr-defined]
    with pytest.raises(WiringError, match=r"PublishDistributions\.distributions is a BuildDistributions"):
        PublishDistributions(distributions=built, url="https://x")


def test_without_credentials_the_ci_system_vouches() -> None:
    blob = Blob(digest="0" * 64, size=1)
    tree = Tree(digest="0" * 64, files=1, size=1)
    built = Distributions(name="a", version="1", wheel=blob, wheel_name="a.whl", sdist=blob, sdist_name="a.tar.gz")
    names = {name: name for name in ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_URL")}
    action = publish_action(built, tree, url="https://x", check_url="", secrets=names)
    assert action.argv[action.argv.index("--trusted-publishing") + 1] == "always"
    other = publish_action(built, tree, url="https://x", check_url="", secrets={"UV_PUBLISH_TOKEN": "T"})
    assert other.argv[other.argv.index("--trusted-publishing") + 1] == "never"
