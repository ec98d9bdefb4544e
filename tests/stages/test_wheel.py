"""Wheels and sdists."""

from __future__ import annotations

import zipfile
from io import BytesIO

import pytest

from pipeline import Blob, Journal, Project, Stage, StageFailed, Store, Tree
from stages.source import Provenance, SourceProvenance, WorkingCopy
from stages.wheel import ZIP_EPOCH, BuildDistributions, InstalledWheel, build_action, distributions
from tests.conftest import RunStage, StageDidNotPass
from tests.stages.package import build_environment, commit, run_again, write_package

BLOB = Blob(digest="0" * 64, size=1)


def build(provenance: Stage[Provenance] | None = None) -> BuildDistributions:
    return BuildDistributions(source=WorkingCopy(), environment=build_environment(), provenance=provenance)


def test_a_source_tree_becomes_a_wheel_and_an_sdist_of_its_version(project: Project, run_stage: RunStage, store: Store) -> None:
    write_package(project)
    built = run_stage(build())
    assert (built.name, built.version) == ("thing", "1.4.2")
    assert built.wheel_name == "thing-1.4.2-py3-none-any.whl"
    assert built.sdist_name == "thing-1.4.2.tar.gz"
    with zipfile.ZipFile(BytesIO(store.read(built.wheel))) as wheel:
        assert "thing/__init__.py" in wheel.namelist()
        assert {member.date_time for member in wheel.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_the_same_source_gives_the_same_bytes(project: Project, run_stage: RunStage, store: Store, journal: Journal) -> None:
    write_package(project)
    first = run_stage(build())
    (project.root / "src/thing/__init__.py").touch()
    (project.root / "src/thing/__main__.py").chmod(0o600)
    assert run_again(build(), project, store, journal) == first


def test_the_archives_are_dated_by_the_commit(project: Project, run_stage: RunStage, store: Store) -> None:
    write_package(project)
    commit(project, "2024-05-06T07:08:10Z")
    built = run_stage(build(SourceProvenance()))
    with zipfile.ZipFile(BytesIO(store.read(built.wheel))) as wheel:
        assert {member.date_time for member in wheel.infolist()} == {(2024, 5, 6, 7, 8, 10)}


def test_a_build_has_no_network_and_no_isolation() -> None:
    tree = Tree(digest="1" * 64, files=1, size=1)
    action = build_action(tree, tree, ZIP_EPOCH)
    assert "--no-isolation" in action.argv
    assert not action.network
    assert action.env["SOURCE_DATE_EPOCH"] == "315532800"


def test_a_backend_that_fails_fails_the_stage(project: Project, run_stage: RunStage) -> None:
    write_package(project)
    (project.root / "src/thing/__init__.py").write_text('"""A thing."""\n')  # flit finds no version in it
    with pytest.raises(StageDidNotPass, match="exit code 1"):
        run_stage(build())


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), "left nothing"),
        (("a-1-py3-none-any.whl",), "one wheel and one sdist"),
        (("a-1-py3-none-any.whl", "b-1-py3-none-any.whl", "a-1.tar.gz"), "one wheel and one sdist"),
        (("a-1-py3-none-any.whl", "a-2.tar.gz"), "differ in name or version"),
        (("a.whl", "a-1.tar.gz"), "file names"),
    ],
)
def test_anything_but_one_wheel_and_its_sdist_is_refused(names: tuple[str, ...], said: str) -> None:
    with pytest.raises(StageFailed) as refused:
        distributions(dict.fromkeys(names, BLOB))
    assert said in str(refused.value)


def test_an_installed_wheel_holds_its_files_and_nothing_that_names_the_place(
    project: Project, run_stage: RunStage, store: Store
) -> None:
    write_package(project)
    tree = run_stage(InstalledWheel(wheel=build()))
    paths = {entry.path for entry in store.entries(tree)}
    assert {"thing/__init__.py", "thing/__main__.py", "thing-1.4.2.dist-info/METADATA"} <= paths
    assert not any("direct_url" in path or path.startswith("bin/") or path.endswith(".pyc") for path in paths)
    record = store.read(store.file(tree, "thing-1.4.2.dist-info/RECORD")).decode()
    listed = {line.split(",")[0] for line in record.splitlines()}
    assert listed == paths


def test_installing_a_wheel_twice_gives_one_tree(project: Project, run_stage: RunStage, store: Store, journal: Journal) -> None:
    write_package(project)
    assert run_stage(InstalledWheel(wheel=build())) == run_again(InstalledWheel(wheel=build()), project, store, journal)
