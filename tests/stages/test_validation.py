"""Validation of distributions."""

from __future__ import annotations

import pytest

from gates import Ruling, ValidationCheck, ValidationReport, valid
from pipeline import Project, Stage, Tree, Work
from stages.environment import Tool
from stages.source import WorkingCopy
from stages.validation import ValidateDistributions, sdist_metadata, top_level, versions
from stages.wheel import BuildDistributions, Distributions, InstalledWheel
from tests.conftest import RunStage
from tests.stages.package import build_environment, write_package


class Empty(Stage[Tree]):
    """A tree without files: the environment of a package that needs nothing."""

    async def run(self, work: Work) -> Tree:
        return work.store.tree([])


def distributions() -> ValidateDistributions:
    built = BuildDistributions(source=WorkingCopy(), environment=build_environment())
    return ValidateDistributions(
        distributions=built, installed=InstalledWheel(wheel=built), environment=Empty(), twine=Tool(name="twine")
    )


def test_a_sound_wheel_passes_every_check(project: Project, run_stage: RunStage) -> None:
    write_package(project)
    report = run_stage(distributions())
    assert {check.name for check in report.checks} == {"metadata", "version of the wheel", "version of the sdist", "import thing"}
    assert not report.bad()
    assert report.concern() == ""


def test_a_module_that_cannot_be_imported_fails_its_check(project: Project, run_stage: RunStage) -> None:
    write_package(project)
    module = project.root / "src/thing/__init__.py"
    module.write_text(module.read_text() + "import nothing_of_that_name\n")
    report = run_stage(distributions())
    assert [check.sentence() for check in report.bad()] == [
        "import thing: ModuleNotFoundError: No module named 'nothing_of_that_name'"
    ]
    assert "nothing_of_that_name" in report.concern()


def test_a_description_that_cannot_be_rendered_fails_the_check_of_metadata(project: Project, run_stage: RunStage) -> None:
    write_package(project)
    text = (project.root / "pyproject.toml").read_text()
    (project.root / "pyproject.toml").write_text(text.replace("README.md", "README.rst"))
    (project.root / "README.rst").write_text("Thing\n=\n\n.. nonsense::\n\n`open <\n")
    report = run_stage(distributions())
    assert [check.name for check in report.bad()] == ["metadata"]
    assert "long_description" in report.bad()[0].said


def built(version: str = "1.4.2") -> Distributions:
    from pipeline import Blob

    blob = Blob(digest="0" * 64, size=1)
    return Distributions(
        name="thing-x", version=version, wheel=blob, wheel_name=f"thing_x-{version}-py3-none-any.whl", sdist=blob,
        sdist_name=f"thing_x-{version}.tar.gz",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("metadata", "good"),
    [
        (b"Name: Thing_X\nVersion: 1.4.2\n", True),
        (b"Name: thing-x\nVersion: 1.4.3\n", False),
        (b"Name: other\nVersion: 1.4.2\n", False),
        (b"Name: thing-x\nVersion: nonsense\n", False),
        (b"", False),
    ],
)
def test_metadata_has_to_say_what_the_file_name_says(metadata: bytes, good: bool) -> None:
    assert [check.passed for check in versions(built(), metadata, metadata)] == [good, good]


def test_what_is_no_archive_has_no_metadata() -> None:
    assert sdist_metadata(b"no archive") == b""


def test_the_modules_of_a_wheel_are_its_packages_and_its_single_files() -> None:
    from pipeline import Entry

    paths = (
        "pkg/__init__.py",
        "one.py",
        "fast.cpython-311.so",
        "pkg-1.dist-info/METADATA",
        "bin/run",
        "data/x.txt",
        "space/sub/m.py",
    )
    assert top_level(tuple(Entry(path, "file", "0" * 64) for path in paths)) == ("fast", "one", "pkg", "space")


def test_nothing_checked_is_never_valid() -> None:
    assert valid(ValidationReport(subject="x", checks=())).ruling is Ruling.ERROR
    failed = ValidationReport(subject="x", checks=(ValidationCheck(name="a", passed=False, said="b"),))
    assert valid(failed).ruling is Ruling.FAILED
    assert valid(failed).facts == ("a: b",)
    assert not failed.reusable()
